// The form for the parameters of a function, made from its signature.

import { $, make } from "./dom.js";
import { tags, typeOf } from "./functions.js";
import { elements, isJson, parseWords } from "./text.js";

const INPUTS = {
  string: {},
  integer: { type: "number", step: 1 },
  number: { type: "number", step: "any" },
  boolean: { type: "checkbox" },
};
// Lets the first click on Call answer.
const STARTS = { integer: 1, number: 1, array: "[]", object: "{}", any: "null" };

export class Form {
  chosen;
  #inputs = [];
  #name;

  // The name of the function to call.
  get name() {
    return this.#name?.value ?? this.chosen.name;
  }

  choose(one) {
    this.chosen = one;
    $("fields").replaceChildren();
    $("chosen").textContent = one.name || "Any function";
    $("traits").replaceChildren(...tags(one));
    $("description").textContent = one.description ?? "";
    const start = one.name.replace(/\*$/, "");
    this.#name = start === one.name && start ? undefined
      : this.#field("Function", "", make("input", { value: start, required: true }), true);
    this.#inputs = one.params?.map((param) => this.#param(param));
    if (!this.#inputs) {
      const placeholder = '2 3   or   "two words"   or   {"name": 1}';
      const input = this.#field("Parameters", "JSON or words", make("textarea", { rows: 1, placeholder }));
      input.onkeydown = (event) => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        $("form").requestSubmit($("sync"));
      };
      this.#inputs = [{ input }];
    }
    this.#preview();
  }

  focus() {
    $("fields").querySelector("input, select, textarea")?.focus();
  }

  // Fills in parameters, JSON.
  fill(name, params) {
    if (this.#name) this.#name.value = name;
    if (!this.chosen.params) this.#inputs[0].input.value = params;
    else if (params) {
      const values = elements(params);
      this.#inputs.forEach((one, n) => {
        const json = values[params.startsWith("[") ? n : one.name];
        if (one.type === "boolean") one.input.checked = json === "true";
        else one.input.value = json === undefined ? "" : one.isText && json.startsWith('"') ? JSON.parse(json) : json;
      });
    }
    this.#preview();
  }

  // The parameters as JSON, or an empty string; and, if they are given by position, each of them.
  arguments() {
    if (!this.chosen.params) {
      const text = this.#inputs[0].input.value.trim();
      if (!text || (/^[[{]/.test(text) && isJson(text))) return { params: text };
      const words = parseWords(text);
      return { params: `[${words.join(", ")}]`, words };
    }
    if (this.#inputs.every((one) => one.required)) {
      const words = this.#inputs.map(value);
      return { params: words.length ? `[${words.join(", ")}]` : "", words };
    }
    // Optional parameters that are empty are left out.
    const given = this.#inputs.filter(({ type, input, required }) => required || type === "boolean" || input.value);
    return { params: `{${given.map((one) => JSON.stringify(one.name) + ": " + value(one)).join(", ")}}` };
  }

  #field(label, type, input, required) {
    const id = "field-" + $("fields").childElementCount;
    Object.assign(input, { id, oninput: () => this.#preview(), autocomplete: "off", autocapitalize: "off", spellcheck: false });
    const mark = required ? [make("b", { className: "bad", title: "required", textContent: "*" }), " "] : [];
    $("fields").append(make("div", {},
      make("label", { htmlFor: id }, label + " ", ...mark, make("span", { textContent: type })), input));
    return input;
  }

  #param({ name, schema, required, description, default: start = null }) {
    const type = typeOf(schema), choices = Array.isArray(schema.enum) && schema.enum;
    const isText = type === "string" && !choices;
    const shown = (value) => (isText ? value : JSON.stringify(value));
    const options = () => [...(required ? [] : [undefined]), ...choices].map((choice) =>
      make("option", { value: shown(choice) ?? "", textContent: typeof choice === "string" ? choice : shown(choice) ?? "–" }));
    const box = choices ? make("select", {}, ...options()) : make(INPUTS[type] ? "input" : "textarea", INPUTS[type]);
    const input = this.#field(name, description ? `${type}, ${description}` : type, box, required);
    if (type === "boolean" && !choices) input.checked = start;
    else if (start !== null) input.value = shown(start);
    else if (required && !choices) input.value = STARTS[type] ?? "";
    input.required = required && !isText && type !== "boolean";
    return { name, type: choices ? "any" : type, input, required, isText };
  }

  #preview() {
    const { params } = this.arguments();
    $("preview").textContent = params || "no parameters";
    $("form").dispatchEvent(new Event("changed"));
  }
}

function value({ type, input }) {
  if (type === "boolean") return `${input.checked}`;
  if (type === "string") return JSON.stringify(input.value);
  if (!input.value) return "?";
  return isJson(input.value) ? input.value : JSON.stringify(type in INPUTS ? Number(input.value) : input.value);
}
