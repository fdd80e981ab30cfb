// The web page of a node: what happens when the user or the node does something.

import { Calls, linkTo, linked, showCommands } from "./calls.js";
import { Connection } from "./connection.js";
import { $, copy, tab } from "./dom.js";
import { Form } from "./form.js";
import { Functions } from "./functions.js";
import { Health, sample } from "./health.js";
import { duration } from "./text.js";

// A function that the node does not list.
const unlisted = (name) => ({ name, description: name && "not listed by this node; it may still be there" });

let info;

const connection = new Connection({
  changed(state, text) {
    $("state").dataset.state = state;
    $("status").textContent = text;
    $("wait").textContent = "";
    $("now").hidden = state !== "lost";
    if (state === "open") refresh();
    if (state === "refused") askForToken();
    showAbout();
    enable();
  },
  waiting: (text) => ($("wait").textContent = text),
  measured: sample,
});
const functions = new Functions({
  chosen(one) {
    choose(one);
    history.replaceState(null, "", linkTo(one.name, ""));
    if (matchMedia("(max-width: 48rem)").matches) $("call").scrollIntoView();
    else form.focus();
  },
});
const form = new Form();
const health = new Health();
const calls = new Calls({
  opened(entry) {
    fill(entry.name, entry.params);
    calls.show(entry);
  },
  repeated: (entry) => connection.isOpen && call(entry.name, entry),
  cancelled: (entry) => connection.cancel(entry.id),
});

function refresh() {
  const failed = (error) => {
    const isDenied = error?.code === -32002;
    $("denied").hidden = !isDenied;
    if (isDenied) askForToken();
  };
  connection.request("rpc.info", "", 0, ({ result }) => {
    if (!result) return;
    info = { ...result, at: performance.now() };
    $("name").textContent = info.name;
    document.title = `${info.name} – chanrpc`;
    showAbout();
  });
  connection.request("rpc.list", '{"verbose":true}', 0, ({ result, error, lost }) => {
    if (lost) return;
    failed(error);
    functions.set(result ?? [], form.chosen?.name);
    health.allow(!!functions.find("rpc.stats"), connection.token);
    const { name, params } = linked();
    if (!form.chosen && name) return fill(name, params);
    const still = functions.find(form.chosen?.name) ?? (form.chosen?.params ? undefined : form.chosen) ?? functions.all[0];
    // Keep the input unless the function has changed.
    if (!form.chosen || JSON.stringify(still) !== JSON.stringify(form.chosen)) choose(still ?? unlisted(""));
  });
}

// Chooses a function by its name, or the family that it belongs to, and fills in parameters, JSON.
function fill(name, params) {
  const family = functions.all.find((one) => one.name.endsWith("*") && name.startsWith(one.name.slice(0, -1)));
  choose(functions.find(name) ?? family ?? unlisted(name));
  try {
    form.fill(name, params);
  } catch {
    // The link has parameters that are no JSON.
  }
}

function choose(one) {
  form.choose(one);
  functions.mark(one.name);
  calls.forget();
  enable();
}

function enable() {
  $("sync").disabled = $("go").disabled = !connection.isOpen || !form.chosen;
  $("refresh").disabled = !connection.isOpen;
}

function askForToken() {
  $("access").open = true;
  $("token").focus();
}

function call(name, given) {
  const entry = calls.begin(name, given);
  const how = functions.find(name)?.result;
  entry.id = connection.request(name, given.params, Number($("deadline").value), (answer) => {
    if (!answer.lost) sample(answer.error ? "failed" : "answered", answer.ms);
    calls.finish(entry, answer, how);
  });
}

function tick() {
  connection.tick();
  showAbout();
}

function showAbout() {
  if (!info) return;
  const up = connection.isOpen ? ` · up ${duration(info.uptime_seconds + (performance.now() - info.at) / 1000)}` : "";
  $("about").textContent = `chanrpc ${info.version}${up}`;
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  if (!connection.isOpen || !form.chosen) return;
  const [name, given] = [form.name, form.arguments()];
  if (event.submitter !== $("go")) return call(name, given);
  connection.request(name, given.params, Number($("deadline").value));
  calls.sent(calls.begin(name, given));
};
$("form").addEventListener("changed", () => showCommands(form.name, form.arguments(), connection.token));
for (const button of document.querySelectorAll("[data-copies]")) {
  button.onclick = () => copy($(button.dataset.copies).textContent, button);
}
$("link").onclick = () => copy(new URL(linkTo(form.name, form.arguments().params), location).href, $("link"));
$("login").onsubmit = (event) => {
  event.preventDefault();
  $("access").open = false;
  connection.token = $("token").value;
  connection.reconnect();
  tab.set("token", $("token").value);
};
$("now").onclick = () => connection.reconnect();
$("refresh").onclick = refresh;
addEventListener("hashchange", () => fill(linked().name, linked().params));
document.addEventListener("visibilitychange", tick);
setInterval(tick, 1000);
connection.token = $("token").value = tab.get("token") ?? "";
enable();
connection.connect();
