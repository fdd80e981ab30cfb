// The web page of a node. Names, descriptions and results are untrusted: they are inserted as text only.

const $ = (id) => document.getElementById(id);

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// JSON is shown unchanged where JavaScript would alter it, such as long numbers.

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function prettyPrint(json) {
  if (json.length <= 60 || !isJson(json)) return json;
  const value = JSON.parse(json);
  return JSON.stringify(value) === json ? JSON.stringify(value, null, 2) : json;
}

// As on the command line: a word is JSON if it parses as such, else a string. Quotes group words.
function parseWords(text) {
  return (text.match(/"[^"\\]*(?:\\.[^"\\]*)*"|'[^']*'|\S+/g) ?? []).map((word) => {
    const inner = /^'(.*)'$/s.exec(word)?.[1] ?? word;
    return isJson(inner) ? inner : JSON.stringify(inner);
  });
}

function milliseconds(ms) {
  if (ms >= 10000) return (ms / 1000).toFixed(1) + " s";
  return (ms < 100 ? ms.toFixed(1) : Math.round(ms)) + " ms";
}

function duration(seconds) {
  const [d, h, m, s] = [86400, 3600, 60, 1].map((unit) => Math.floor(seconds / unit));
  return d ? `${d} d ${h % 24} h` : h ? `${h} h ${m % 60} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
}

// Connection

const RETRY_DELAYS = [500, 1e3, 2e3, 4e3, 8e3];
const CONNECT_TIMEOUT = 10000, PING_TIMEOUT = 5000;
const pending = new Map();
let socket, open = false, failures = 0, again, retryAt = 0, nextId = 1, pinged = 0, info;

function show(state, text) {
  $("state").dataset.state = state;
  $("status").textContent = text;
  $("wait").textContent = "";
  $("now").hidden = state !== "lost";
  enable();
}

function connect() {
  clearTimeout(again);
  retryAt = 0;
  const url = new URL(".", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const token = $("token").value;
  let mine;
  try {
    // A server must choose one of the offered protocols, so offer them only to send a token.
    mine = new WebSocket(url, token ? ["chanrpc", "chanrpc.bearer." + token] : []);
  } catch {
    return show("lost", "this token has characters that a browser cannot send");
  }
  socket = mine;
  if (failures) $("wait").textContent = "· trying";
  else show("connecting", "connecting");
  const timeout = setTimeout(lost, CONNECT_TIMEOUT, mine);
  mine.onopen = () => {
    clearTimeout(timeout);
    failures = pinged = 0;
    open = true;
    show("open", "connected");
    refresh();
    ping();
  };
  mine.onmessage = (message) => mine === socket && receive(message.data);
  mine.onclose = (event) => {
    clearTimeout(timeout);
    lost(mine, event.reason);
  };
}

// Closes the connection; fails all calls.
function disconnect(reason) {
  const [old, waiting] = [socket, [...pending.values()]];
  socket = undefined;
  open = false;
  pending.clear();
  old?.close();
  for (const { done } of waiting) done({ lost: reason || "connection lost; the function may have run" });
}

function lost(which, reason) {
  if (which !== socket) return;
  disconnect(reason);
  const wait = RETRY_DELAYS[Math.min(failures, RETRY_DELAYS.length - 1)];
  failures += 1;
  show("lost", info ? "connection lost" : "no connection; the node may require a token");
  retryAt = performance.now() + wait;
  again = setTimeout(connect, wait);
  tick();
}

function reconnect() {
  disconnect();
  failures = 0;
  connect();
}

// Sends a request with `params`, JSON. `done` gets the reply; without it, this is a notification.
function request(method, params, deadline, done) {
  const id = done && nextId++;
  let text = '{"jsonrpc":"2.0",' + (done ? `"id":${id},` : "") + `"method":${JSON.stringify(method)}`;
  if (params) text += `,"params":${params}`;
  if (deadline) text += `,"meta":{"deadline_ms":${deadline}}`;
  if (done) pending.set(id, { done, began: performance.now() });
  socket.send(text + "}");
  return id;
}

function receive(data) {
  const now = performance.now();
  const reply = JSON.parse(data);
  // An error without an id is about a request that the node could not read: the last one sent.
  const id = reply.id ?? [...pending.keys()].at(-1);
  const call = pending.get(id);
  if (!call) return;
  pending.delete(id);
  const ms = now - call.began;
  if (reply.error) return call.done({ ms, error: reply.error });
  const text = /^\{"jsonrpc":"2\.0","id":\d+,"result":(.*)\}\s*$/s.exec(data)?.[1];
  call.done({ ms, result: reply.result, text: text ?? JSON.stringify(reply.result) });
}

function ping() {
  pinged = performance.now();
  request("rpc.ping", "", 0, ({ ms, error }) => {
    pinged = 0;
    if (ms !== undefined) sample(error ? "failed" : "ping", ms);
  });
}

function tick() {
  const now = performance.now();
  if (retryAt) $("wait").textContent = `· trying again in ${Math.max(1, Math.ceil((retryAt - now) / 1000))} s`;
  if (info) {
    const up = open ? ` · up ${duration(info.uptime_seconds + (now - info.at) / 1000)}` : "";
    $("about").textContent = `chanrpc ${info.version}${up}`;
  }
  if (!open || document.hidden) return;
  if (!pinged) return ping();
  // A ping may have to wait for calls in flight. With none, a missing reply means a dead connection.
  if (now - pinged > PING_TIMEOUT && pending.size === 1) lost(socket);
}

// Functions

const KINDS = { 0: "no result", 1: "1 result", n: "n results" };
let functions = [], chosen;

function refresh() {
  const failed = (error) => error && report(error.message, "bad");
  request("rpc.info", "", 0, ({ result, error }) => {
    if (!result) return failed(error);
    info = { ...result, at: performance.now() };
    $("name").textContent = info.name;
    document.title = `${info.name} – chanrpc`;
    tick();
  });
  request("rpc.list", '{"verbose":true}', 0, ({ result, error }) => {
    if (!Array.isArray(result)) return failed(error);
    functions = result;
    const still = functions.find((one) => one.name === chosen?.name) ?? functions[0];
    // Keep the input unless the function has changed.
    if (still && JSON.stringify(still) !== JSON.stringify(chosen)) choose(still);
    list();
  });
}

function traits(one) {
  return [one.provider, KINDS[one.kind], one.target && "→ " + one.target].filter(Boolean)
    .map((text) => make("span", { className: "tag", textContent: text }));
}

const typeOf = ({ type }) => (typeof type === "string" ? type : "any");

function list() {
  const wanted = $("filter").value.trim().toLowerCase();
  const shown = functions.filter((one) =>
    `${one.name} ${one.provider} ${one.target} ${one.description}`.toLowerCase().includes(wanted));
  $("list").replaceChildren(...shown.map((one) => {
    const typed = ({ name, required, schema }) => name + (required ? ": " : "?: ") + typeOf(schema);
    const params = one.params?.map(typed).join(", ");
    const button = make("button", {},
      make("span", { className: "name" }, one.name,
        make("span", { className: "quiet", textContent: params && `(${params})` })),
      make("span", { className: "quiet" }, ...traits(one), one.description ?? ""));
    if (one.name === chosen?.name) button.setAttribute("aria-current", "true");
    button.onclick = () => {
      choose(one);
      list();
      if (matchMedia("(max-width: 48rem)").matches) $("call").scrollIntoView();
      else $("fields").querySelector("input, textarea")?.focus();
    };
    return make("li", {}, button);
  }));
  const all = functions.length;
  $("count").textContent = shown.length === all ? all : `${shown.length} of ${all}`;
}

// Form

function field(label, type, input) {
  const id = "field-" + $("fields").childElementCount;
  Object.assign(input, { id, oninput: preview, autocomplete: "off", autocapitalize: "off", spellcheck: false });
  $("fields").append(make("div", {},
    make("label", { htmlFor: id, textContent: label + " " }, make("span", { textContent: type })), input));
  return input;
}

const INPUTS = {
  string: {},
  integer: { type: "number", step: 1 },
  number: { type: "number", step: "any" },
  boolean: { type: "checkbox" },
};
// Lets the first click on Call answer.
const STARTS = { integer: 1, number: 1, array: "[]", object: "{}", any: "null" };
let inputs = [], family;

function paramField({ name, schema, required, description, default: start = null }) {
  const type = typeOf(schema);
  const box = make(INPUTS[type] ? "input" : "textarea", INPUTS[type]);
  const input = field(name, description ? `${type}, ${description}` : type, box);
  if (type === "boolean") input.checked = start;
  else if (start !== null) input.value = type === "string" ? start : JSON.stringify(start);
  else if (required) input.value = STARTS[type] ?? "";
  input.required = required && type !== "string" && type !== "boolean";
  return { name, type, input, required };
}

function choose(one) {
  chosen = one;
  $("fields").replaceChildren();
  $("answer").hidden = true;
  $("chosen").textContent = one.name;
  $("traits").replaceChildren(...traits(one));
  $("description").textContent = one.description ?? "";
  family = one.name.endsWith("*") && field("Function", "", make("input", { value: one.name.slice(0, -1), required: true }));
  inputs = one.params?.map(paramField);
  if (!inputs) {
    const placeholder = '2 3   or   "two words"   or   {"name": 1}';
    const input = field("Parameters", "JSON or words", make("textarea", { rows: 1, placeholder }));
    input.onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      $("form").requestSubmit($("sync"));
    };
    inputs = [{ input }];
  }
  preview();
  enable();
}

function enable() {
  $("sync").disabled = $("go").disabled = !open || !chosen;
  $("refresh").disabled = !open;
}

function value({ type, input }) {
  if (type === "boolean") return `${input.checked}`;
  if (type === "string") return JSON.stringify(input.value);
  return isJson(input.value) ? input.value : JSON.stringify(type in INPUTS ? Number(input.value) : input.value);
}

// As JSON, or an empty string. Optional parameters that are empty are left out.
function params() {
  if (!chosen.params) {
    const text = inputs[0].input.value.trim();
    return !text || (/^[[{]/.test(text) && isJson(text)) ? text : `[${parseWords(text).join(", ")}]`;
  }
  if (inputs.every((one) => one.required)) return inputs.length ? `[${inputs.map(value).join(", ")}]` : "";
  const given = inputs.filter(({ type, input, required }) => required || type === "boolean" || input.value);
  return `{${given.map((one) => JSON.stringify(one.name) + ": " + value(one)).join(", ")}}`;
}

function preview() {
  $("preview").textContent = params() || "no parameters";
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  if (!open || !chosen) return;
  const name = family?.value ?? chosen.name;
  const deadline = Number($("deadline").value);
  if (event.submitter === $("go")) {
    request(name, params(), deadline);
    settle(record(name), "sent", "quiet");
    current = undefined;
    return report("sent", "good", "nothing comes back");
  }
  const entry = (current = record(name));
  report("waiting", "");
  const id = request(name, params(), deadline, (answer) => finish(entry, answer));
  $("cancel").hidden = false;
  $("cancel").onclick = () => pending.has(id) && request("$/cancelRequest", `{"id":${id}}`);
};

// Replies, and the log of calls

const MAX_ENTRIES = 200, MAX_SHOWN = 1e5;
let current;

function report(outcome, tone, took = "", text = "") {
  $("answer").hidden = false;
  $("outcome").textContent = outcome;
  $("outcome").className = tone;
  $("took").textContent = took;
  const more = text.length - MAX_SHOWN;
  $("result").textContent = more > 0 ? `${text.slice(0, MAX_SHOWN)}\n… and ${more} more characters` : text;
  $("cancel").hidden = true;
}

function finish(entry, { ms, error, text, lost }) {
  const took = ms === undefined ? "" : milliseconds(ms);
  if (!lost) sample(error ? "failed" : "answered", ms);
  let outcome = "answered", tone = "good", shown = text ?? "";
  if (lost) [outcome, tone] = ["lost", "bad"];
  if (error) {
    [outcome, tone] = [`error ${error.code}: ${error.message}`, "bad"];
    shown = error.data === undefined ? "" : JSON.stringify(error.data);
  }
  if (error || lost) settle(entry, outcome, tone, took);
  else settle(entry, shown.slice(0, 200), "", took);
  if (entry === current) report(outcome, tone, lost ?? took, prettyPrint(shown));
}

function record(name) {
  const now = new Date();
  const entry = make("li", {},
    make("time", { dateTime: now.toISOString(), textContent: now.toTimeString().slice(0, 8) }),
    make("span", { className: "name", textContent: name, title: name }),
    make("span", { className: "outcome", textContent: "waiting" }),
    make("span", { className: "took" }));
  $("log").prepend(entry);
  while ($("log").childElementCount > MAX_ENTRIES) $("log").lastChild.remove();
  return entry;
}

function settle(entry, outcome, tone, took = "") {
  const [, , what, time] = entry.children;
  Object.assign(what, { textContent: outcome, title: outcome, className: "outcome " + tone });
  time.textContent = took;
}

// Plot: one bar per sample, newest at the right, logarithmic scale

const SAMPLES = 90, HEIGHT = 104, MIN_MS = 0.1;
let samples = [];

function sample(kind, ms) {
  samples = [...samples.slice(1 - SAMPLES), { kind, ms: Math.max(ms, MIN_MS) }];
  const sorted = samples.map((one) => one.ms).sort((a, b) => a - b);
  const most = sorted.at(-1);
  const [last, median, worst] = [samples.at(-1).ms, sorted[sorted.length >> 1], most].map(milliseconds);
  const figures = `last ${last} · median ${median} · most ${worst}`;
  const decades = Math.max(2, Math.ceil(Math.log10(most / MIN_MS)));
  const shapes = [];
  for (let n = 0; n <= decades; n += 1) {
    const y = HEIGHT * (1 - n / decades);
    const time = MIN_MS * 10 ** n;
    const label = time < 999 ? `${+time.toFixed(1)} ms` : `${Math.round(time / 1000)} s`;
    shapes.push(draw("line", { x2: "100%", y1: y, y2: y }), draw("text", { x: -8, y: y + 4 }, label));
  }
  const width = 100 / SAMPLES;
  samples.forEach(({ kind, ms }, n) => {
    const height = Math.max(2, (Math.log10(ms / MIN_MS) / decades) * HEIGHT);
    const x = (SAMPLES - samples.length + n) * width;
    shapes.push(draw("rect", { class: kind, x: `${x}%`, width: `${width * 0.7}%`, y: HEIGHT - height, height, rx: 1 }));
  });
  $("figures").textContent = $("plot").ariaLabel = figures;
  $("plot").replaceChildren(...shapes);
}

// Start

const KEY = "chanrpc.token";
try {
  $("token").value = sessionStorage.getItem(KEY);
} catch {
  // Storage is disabled in this browser.
}
$("login").onsubmit = (event) => {
  event.preventDefault();
  $("access").open = false;
  reconnect();
  sessionStorage.setItem(KEY, $("token").value);
};
$("now").onclick = reconnect;
$("refresh").onclick = refresh;
$("filter").oninput = list;
document.addEventListener("visibilitychange", tick);
setInterval(tick, 1000);
enable();
connect();
