// The list of functions, in groups by the first part of their names.

import { $, make } from "./dom.js";

const KINDS = { 0: "no result", 1: "1 result", n: "n results" };

export const typeOf = ({ type }) => (typeof type === "string" ? type : "any");

export function tags(one) {
  return [one.provider, KINDS[one.kind], one.target && "→ " + one.target, one.stale && "stale"].filter(Boolean)
    .map((text) => make("span", { className: "tag", textContent: text }));
}

const groupOf = ({ name }) => /^[^.]+(?=\.)/.exec(name)?.[0] ?? "";

export class Functions {
  all = [];
  #closed = new Set();
  #chosen;

  // `chosen(function)` is called for the one that the user chooses.
  constructor({ chosen }) {
    this.chosen = chosen;
    $("filter").oninput = () => this.#show();
    $("functions").onkeydown = (event) => this.#move(event);
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.target.matches("input, textarea, select")) return;
      event.preventDefault();
      $("filter").focus();
    });
  }

  find(name) {
    return this.all.find((one) => one.name === name);
  }

  set(all, chosen) {
    this.all = all;
    this.mark(chosen);
  }

  // Shows which function is chosen.
  mark(chosen) {
    this.#chosen = chosen;
    this.#show();
    $("list").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }

  #show() {
    const wanted = $("filter").value.trim().toLowerCase();
    const shown = this.all.filter((one) =>
      `${one.name} ${one.provider} ${one.target} ${one.description}`.toLowerCase().includes(wanted));
    const groups = Map.groupBy?.(shown, groupOf) ?? new Map([["", shown]]);
    $("list").replaceChildren(...(groups.size < 2 ? shown.map((one) => this.#item(one))
      : [...groups].map(([name, members]) => this.#group(name, members, wanted))));
    const all = this.all.length;
    $("count").textContent = shown.length === all ? all : `${shown.length} of ${all}`;
  }

  #group(name, members, wanted) {
    const open = wanted !== "" || !this.#closed.has(name);
    const count = make("span", { className: "quiet", textContent: members.length });
    const details = make("details", { open }, make("summary", {}, name || "others", " ", count),
      make("ul", {}, ...members.map((one) => this.#item(one))));
    details.ontoggle = () => details.open ? this.#closed.delete(name) : this.#closed.add(name);
    return make("li", {}, details);
  }

  #item(one) {
    const typed = ({ name, required, schema }) => name + (required ? ": " : "?: ") + typeOf(schema);
    const params = one.params?.map(typed).join(", ");
    const button = make("button", {},
      make("span", { className: "name" }, one.name,
        make("span", { className: "quiet", textContent: params && `(${params})` })),
      make("span", { className: "quiet" }, ...tags(one), one.description ?? ""));
    if (one.name === this.#chosen) button.setAttribute("aria-current", "true");
    button.onclick = () => this.chosen(one);
    return make("li", {}, button);
  }

  // Arrows go from the filter through the list; Enter in the filter chooses the first.
  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const items = [$("filter"), ...$("list").querySelectorAll("details[open] button, :scope > li > button")];
    if (event.target === $("filter") && event.key === "Enter") items[1]?.click();
    if (!step) return;
    event.preventDefault();
    items[items.indexOf(event.target) + step]?.focus();
  }
}
