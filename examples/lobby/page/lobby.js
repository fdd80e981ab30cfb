// JSON-RPC over one WebSocket: calls are answered, and the node pushes Chat, People, Table and Hand.

const $ = (id) => document.getElementById(id);
const ROOMS = ["lobby", "garden", "harbour"];
const SUITS = { C: ["♣", "clubs"], D: ["♦", "diamonds"], H: ["♥", "hearts"], S: ["♠", "spades"] };
const RANKS = { A: "ace", K: "king", Q: "queen", J: "jack" };
const PING = 10_000;

let socket;
let nextId = 1;
let wait = 250;
let calls = new Map();
// What is kept while the connection is lost, or the page is loaded again.
let me = JSON.parse(sessionStorage.getItem("me") ?? "null");
let room = sessionStorage.getItem("room") ?? ROOMS[0];
let table = null;
let hand = [];

function call(method, params) {
  return new Promise((resolve, reject) => {
    if (socket.readyState !== WebSocket.OPEN) return reject(new Error("not connected"));
    const id = nextId++;
    calls.set(id, { resolve, reject });
    socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
  });
}

function connect() {
  const mine = (socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/rpc"));
  let silent;
  mine.onopen = () => {
    wait = 250;
    silent = setInterval(async () => {
      const late = setTimeout(() => mine.close(), PING / 2);
      await call("rpc.ping").catch(() => {});
      clearTimeout(late);
    }, PING);
    me ? login(me) : askName();
  };
  mine.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.method) return pushed[message.method]?.(message.params);
    const { resolve, reject } = calls.get(message.id) ?? {};
    calls.delete(message.id);
    message.error ? reject?.(new Error(message.error.message)) : resolve?.(message.result);
  };
  mine.onclose = () => {
    clearInterval(silent);
    if (socket !== mine) return;
    for (const { reject } of calls.values()) reject(new Error("the connection is lost"));
    calls = new Map();
    state("lost", "connection lost");
    show();
    setTimeout(connect, wait);
    wait = Math.min(wait * 2, 4000);
  };
}

function state(kind, text) {
  $("state").dataset.state = kind;
  $("state").textContent = text;
}

function askName(why = "") {
  state("open", "connected");
  $("why").textContent = why;
  $("login").hidden = false;
  document.querySelector("main").hidden = $("rooms").hidden = true;
  $("name").focus();
}

async function login({ Name, Ticket }) {
  try {
    me = await call("Login", { Name, Ticket });
    sessionStorage.setItem("me", JSON.stringify(me));
    $("login").hidden = true;
    document.querySelector("main").hidden = $("rooms").hidden = false;
    await enter(room).catch(note);
    state("open", me.Name);
  } catch (error) {
    if (socket.readyState !== WebSocket.OPEN) return;
    me = null;
    askName(error.message);
  }
}

async function enter(name) {
  // The node sends the last lines again.
  $("log").replaceChildren();
  room = name;
  sessionStorage.setItem("room", room);
  showRooms();
  table = null;
  hand = [];
  show();
  // The chat may be slow, which is no reason to wait for a seat.
  call("Enter", { Room: room }).catch(note);
  await call("Sit", { Table: room });
}

const pushed = {
  Chat({ From, Text }) {
    line(From === me?.Name ? "own" : "", From, Text);
  },
  People(names) {
    $("people").replaceChildren(...names.map((name) => element("li", "", name)));
  },
  Table(now) {
    table = now;
    show();
  },
  Hand(cards) {
    hand = cards ?? [];
    show();
  },
};

function line(kind, from, text) {
  const li = element("li", kind, element("b", "", from), text);
  const log = $("log");
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 40;
  log.append(li);
  while (log.children.length > 200) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
  return li;
}

function element(name, kind, ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}

function card(name, tag = "div") {
  const [rank, suit] = [name.slice(0, -1), name.at(-1)];
  const made = element(tag, "card", element("b", "", rank), element("span", "", SUITS[suit][0]));
  made.dataset.suit = suit;
  made.dataset.card = name;
  made.setAttribute("aria-label", `${RANKS[rank] ?? rank} of ${SUITS[suit][1]}`);
  if (tag === "div") made.setAttribute("role", "img");
  return made;
}

function tricks(count) {
  return count === 1 ? "1 trick" : `${count} tricks`;
}

function show() {
  const seats = table?.Seats ?? [];
  const own = seats.find((seat) => seat.Name === me?.Name);
  const open = socket.readyState === WebSocket.OPEN;
  $("others").replaceChildren(
    ...seats.filter((seat) => seat !== own).map((seat) => {
      const backs = element("div", "backs", ...Array.from({ length: seat.Cards }, () => element("i")));
      const who = element("div", "who", seat.Name);
      const made = element("li", "", who, element("div", "", seat.Here ? tricks(seat.Tricks) : "gone for a moment"), backs);
      made.classList.toggle("turn", table.Turn === seat.Name);
      made.classList.toggle("gone", !seat.Here);
      return made;
    }),
  );
  const laid = seats.filter((seat) => seat.Card);
  const before = new Set([...$("trick").querySelectorAll(".card")].map((shown) => shown.dataset.card));
  $("trick").replaceChildren(
    ...laid.map((seat) => {
      const shown = card(seat.Card);
      if (before.has(seat.Card)) shown.style.animation = "none";
      const made = element("li", "", shown, seat.Name);
      made.classList.toggle("taken", table.Taken === seat.Name);
      return made;
    }),
  );
  const mine = table?.Turn === me?.Name;
  $("hand").replaceChildren(
    ...hand.map((name) => {
      const button = card(name, "button");
      button.disabled = !mine || !open;
      button.onclick = () => play(button, name);
      return element("li", "", button);
    }),
  );
  $("own").classList.toggle("turn", mine);
  $("me").textContent = me?.Name ?? "";
  $("tricks").textContent = own ? `· ${tricks(own.Tricks)}` : "";
  $("deal").hidden = !own || table.Turn !== null || seats.length < 2;
  $("deal").disabled = !open;
  $("status").textContent = open ? status(seats, mine) : "One moment, the connection is lost";
}

function status(seats, mine) {
  if (!table) return "";
  const { Turn, Taken, Winners } = table;
  const name = (who) => (who === me.Name ? "you" : who);
  if (Winners.length > 1) return `${Winners.map(name).join(" and ")} have won`;
  if (Winners.length) return Winners[0] === me.Name ? "You have won!" : `${Winners[0]} has won`;
  if (seats.length < 2) return "Waiting for somebody to play with";
  if (Turn === null) return "Ready to deal";
  const taken = Taken ? `${Taken === me.Name ? "You take" : Taken + " takes"} the trick. ` : "";
  return taken + (mine ? "Your turn" : `${Turn} plays`);
}

async function play(button, name) {
  button.disabled = true;
  try {
    await call("Play", { Card: name });
  } catch (error) {
    note(error);
    show();
  }
}

let noted;
function note({ message }) {
  $("note").textContent = message;
  $("note").hidden = false;
  clearTimeout(noted);
  noted = setTimeout(() => ($("note").hidden = true), 4000);
}

function showRooms() {
  $("rooms").replaceChildren(
    ...ROOMS.map((name) => {
      const button = element("button", "", name);
      if (name === room) button.setAttribute("aria-current", "page");
      button.onclick = () => enter(name).catch(note);
      return button;
    }),
  );
}

$("login").onsubmit = (event) => {
  event.preventDefault();
  login({ Name: $("name").value, Ticket: "" });
};
$("say").onsubmit = async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  const pending = line("pending", me.Name, text);
  try {
    await call("Say", { Text: text });
  } catch (error) {
    note(error);
    $("text").value ||= text;
  }
  pending.remove();
};
$("deal").onclick = () => call("Deal", []).catch(note);
addEventListener("online", () => socket.close());

showRooms();
connect();
