// The connection to the node, over WebSocket. It is established again when it is lost.

const RETRY_DELAYS = [500, 1e3, 2e3, 4e3, 8e3];
const CONNECT_TIMEOUT = 10000, PING_TIMEOUT = 5000;

export class Connection {
  token = "";
  isOpen = false;
  #pending = new Map();
  #socket;
  #failures = 0;
  #wasOpen = false;
  #again;
  #retryAt = 0;
  #nextId = 1;
  #pinged = 0;

  // `changed(state, text)` gets "connecting", "open", "lost" or "refused"; `waiting(text)` until when it waits;
  // `measured(kind, ms)` the time of each ping.
  constructor({ changed, waiting, measured }) {
    Object.assign(this, { changed, waiting, measured });
  }

  connect() {
    clearTimeout(this.#again);
    this.#retryAt = 0;
    const url = new URL(".", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    let socket;
    try {
      // A server must choose one of the offered protocols, so offer them only to send a token.
      socket = new WebSocket(url, this.token ? ["chanrpc", "chanrpc.bearer." + this.token] : []);
    } catch {
      return this.changed("refused", "this token has characters that a browser cannot send");
    }
    this.#socket = socket;
    if (this.#failures) this.waiting("· trying");
    else this.changed("connecting", "connecting");
    const timeout = setTimeout(() => this.#lose(socket), CONNECT_TIMEOUT);
    socket.onopen = () => {
      clearTimeout(timeout);
      this.#failures = this.#pinged = 0;
      this.isOpen = this.#wasOpen = true;
      this.changed("open", "connected");
      this.#ping();
    };
    socket.onmessage = (message) => socket === this.#socket && this.#receive(message.data);
    socket.onclose = (event) => {
      clearTimeout(timeout);
      this.#lose(socket, event.reason);
    };
  }

  reconnect() {
    this.#disconnect();
    this.#failures = 0;
    this.connect();
  }

  // Sends a request with `params`, JSON. `done` gets the reply; without it, this is a notification.
  request(method, params, deadline, done) {
    const id = done && this.#nextId++;
    let text = '{"jsonrpc":"2.0",' + (done ? `"id":${id},` : "") + `"method":${JSON.stringify(method)}`;
    if (params) text += `,"params":${params}`;
    if (deadline) text += `,"meta":{"deadline_ms":${deadline}}`;
    if (done) this.#pending.set(id, { done, began: performance.now() });
    this.#socket.send(text + "}");
    return id;
  }

  cancel(id) {
    if (this.#pending.has(id)) this.request("$/cancelRequest", `{"id":${id}}`);
  }

  // Called once a second.
  tick() {
    const now = performance.now();
    const seconds = Math.max(1, Math.ceil((this.#retryAt - now) / 1000));
    if (this.#retryAt) this.waiting(`· trying again in ${seconds} s`);
    if (!this.isOpen || document.hidden) return;
    if (!this.#pinged) return this.#ping();
    // A ping may have to wait for calls in flight. With none, a missing reply means a dead connection.
    if (now - this.#pinged > PING_TIMEOUT && this.#pending.size === 1) this.#lose(this.#socket);
  }

  // Closes the connection; fails all calls.
  #disconnect(reason) {
    const [socket, waiting] = [this.#socket, [...this.#pending.values()]];
    this.#socket = undefined;
    this.isOpen = false;
    this.#pending.clear();
    socket?.close();
    for (const { done } of waiting) done({ lost: reason || "connection lost; the function may have run" });
  }

  #lose(socket, reason) {
    if (socket !== this.#socket) return;
    this.#disconnect(reason);
    const wait = RETRY_DELAYS[Math.min(this.#failures, RETRY_DELAYS.length - 1)];
    this.#failures += 1;
    this.changed("lost", this.#wasOpen ? "connection lost" : "no connection");
    this.#retryAt = performance.now() + wait;
    this.#again = setTimeout(() => this.connect(), wait);
    this.tick();
    if (this.token && this.#failures === 1) this.#explain();
  }

  // A browser does not tell a script that the node has refused the token of a WebSocket, so asks over HTTP.
  async #explain() {
    const { token } = this;
    const headers = { authorization: "Bearer " + token };
    const body = '{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}';
    const reply = await fetch("rpc", { method: "POST", headers, body }).catch(() => undefined);
    if (reply?.status !== 401 || token !== this.token || this.isOpen) return;
    clearTimeout(this.#again);
    this.#retryAt = 0;
    this.#disconnect();
    this.changed("refused", "the node refused this token");
  }

  #receive(data) {
    const now = performance.now();
    const reply = JSON.parse(data);
    // Events of topics, and calls of functions that were offered: nothing here takes them.
    if (reply.method) return;
    // An error without an id is about a request that the node could not read: the last one sent.
    const id = reply.id ?? [...this.#pending.keys()].at(-1);
    const call = this.#pending.get(id);
    if (!call) return;
    this.#pending.delete(id);
    const ms = now - call.began;
    if (reply.error) return call.done({ ms, error: reply.error });
    const text = /^\{"jsonrpc":"2\.0","id":\d+,"result":(.*)\}\s*$/s.exec(data)?.[1];
    call.done({ ms, result: reply.result, text: text ?? JSON.stringify(reply.result) });
  }

  #ping() {
    this.#pinged = performance.now();
    this.request("rpc.ping", "", 0, ({ ms, error }) => {
      this.#pinged = 0;
      if (ms !== undefined) this.measured(error ? "failed" : "ping", ms);
    });
  }
}
