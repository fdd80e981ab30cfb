// Calls: their answers, the same calls as commands, and their history.

import { $, copy, make, save, tab } from "./dom.js";
import { milliseconds, prettyPrint, shell, toWord } from "./text.js";

const MAX_ENTRIES = 200, MAX_SHOWN = 1e5, MAX_KEPT = 1e4, MAX_STORED = 50;

// A call of the history: { name, params, words, at, outcome, tone, took, summary, text }, and the id of its request.

export class Calls {
  #entries = [];
  #current;

  // `opened(entry)` is called for a call of the history that the user chooses, `repeated(entry)` to make it again, and
  // `cancelled(entry)` to cancel the one that is shown.
  constructor({ opened, repeated, cancelled }) {
    this.opened = opened;
    this.repeated = repeated;
    $("cancel").onclick = () => cancelled(this.#current);
    const stored = JSON.parse(tab.get("calls") ?? "[]");
    for (const entry of stored.reverse()) this.#add(entry);
  }

  // Begins a call. Returns what takes its answer, and the text until then.
  begin(name, { params, words }) {
    const entry = { name, params, words, at: Date.now(), outcome: "waiting", summary: "waiting", tone: "", took: "" };
    this.#add(entry);
    this.#current = entry;
    this.#report(entry, "");
    return entry;
  }

  sent(entry) {
    this.#settle(entry, { outcome: "sent", summary: "sent", tone: "good quiet", took: "" });
    if (entry === this.#current) this.#report(entry, "", "nothing comes back");
  }

  // `how` describes the function: whether its result is bytes.
  finish(entry, { ms, error, result, text, lost }, how) {
    const took = ms === undefined ? "" : milliseconds(ms);
    if (lost) this.#settle(entry, { outcome: "lost", summary: "lost", tone: "bad", took });
    else if (error) {
      const outcome = `error ${error.code}: ${error.message}`;
      text = error.data === undefined ? "" : JSON.stringify(error.data);
      this.#settle(entry, { outcome, summary: outcome, tone: "bad", took });
    } else {
      this.#settle(entry, { outcome: "answered", summary: text.slice(0, 200), tone: "good", took });
    }
    const isText = !error && typeof result === "string";
    entry.text = (isText ? result : prettyPrint(text ?? "")).slice(0, MAX_KEPT);
    if (entry !== this.#current) return;
    if (isText && how?.contentEncoding === "base64" && this.#reportBytes(entry, result)) return;
    this.#report(entry, isText ? result : prettyPrint(text ?? ""), lost ?? took, isText ? "txt" : "json");
  }

  // Shows a call of the history, which is no longer followed.
  show(entry) {
    this.#current = entry;
    this.#report(entry, entry.text ?? "", entry.took || "from before");
  }

  forget() {
    this.#current = undefined;
    $("answer").hidden = true;
  }

  // Returns false if the text is no base64.
  #reportBytes(entry, base64) {
    try {
      const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
      this.#report(entry, base64, `${entry.took} · ${bytes.length} bytes, in base64`);
      $("save").onclick = () => save(entry.name + ".bin", [bytes]);
      return true;
    } catch {
      return false;
    }
  }

  #report(entry, text, took = "", kind = "txt") {
    $("answer").hidden = false;
    $("outcome").textContent = entry.outcome;
    $("outcome").className = entry.tone;
    $("took").textContent = took;
    const more = text.length - MAX_SHOWN;
    $("result").textContent = more > 0 ? `${text.slice(0, MAX_SHOWN)}\n… and ${more} more characters` : text;
    $("cancel").hidden = entry.outcome !== "waiting";
    $("copy").hidden = $("save").hidden = !text;
    $("copy").onclick = () => copy(text, $("copy"));
    $("save").onclick = () => save(`${entry.name}.${kind}`, [text]);
  }

  #add(entry) {
    const again = make("button", { textContent: "↻", title: "Call again", ariaLabel: `Call ${entry.name} again` });
    const open = make("button", { className: "entry", title: `${entry.name} ${entry.params}` });
    entry.row = make("li", {}, open, again);
    open.onclick = () => this.opened(entry);
    again.onclick = () => this.repeated(entry);
    this.#describe(entry);
    $("log").prepend(entry.row);
    this.#entries.unshift(entry);
    for (const { row } of this.#entries.splice(MAX_ENTRIES)) row.remove();
  }

  #settle(entry, settled) {
    Object.assign(entry, settled);
    this.#describe(entry);
    const ended = this.#entries.filter(({ outcome }) => outcome !== "waiting");
    const stored = ended.slice(0, MAX_STORED).map(({ row, text, id, ...rest }) => rest);
    tab.set("calls", JSON.stringify(stored));
  }

  #describe({ row, at, name, params, summary, tone, took }) {
    const time = new Date(at);
    row.firstChild.replaceChildren(
      make("time", { dateTime: time.toISOString(), textContent: time.toTimeString().slice(0, 8) }),
      make("span", { className: "name" }, name, make("span", { className: "quiet", textContent: params.slice(0, 200) })),
      make("span", { className: "outcome " + (tone === "good" ? "" : tone), textContent: summary }),
      make("span", { className: "took", textContent: took }));
  }
}

// The same call from a shell.

export function showCommands(name, { params, words }, token) {
  const { host, protocol, pathname } = location;
  const bearer = token ? ' -H "Authorization: Bearer $(cat token)"' : "";
  const request = `{"jsonrpc":"2.0","method":${JSON.stringify(name)}${params && `,"params":${params}`},"id":1}`;
  $("curl").textContent = `curl ${protocol}//${host}${pathname}${bearer} -d ${shell(request)}`;
  const given = words ? words.map(toWord).join(" ") : params && "--params " + shell(params);
  const to = protocol === "https:" ? ["tls:", host].join("//") : host;
  const file = token ? " --token-file token" : "";
  $("chanrpc").textContent = `chanrpc call --to ${to}${file} ${shell(name)} ${given}`.trimEnd();
}

export function linkTo(name, params) {
  return `#${encodeURIComponent(name)}${params && "=" + encodeURIComponent(params)}`;
}

export function linked() {
  try {
    const [name, params = ""] = location.hash.slice(1).split("=").map(decodeURIComponent);
    return { name, params: params.trim() };
  } catch {
    return { name: "", params: "" };
  }
}
