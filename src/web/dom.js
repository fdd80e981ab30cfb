// Elements of the page. What a node sends is untrusted: it is inserted as text only.

export const $ = (id) => document.getElementById(id);

export function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Copies a text, and says so on the button for a moment. Outside of a secure context, a selection is copied.
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { value: text, className: "offscreen" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1000);
}

export function save(name, parts) {
  const url = URL.createObjectURL(new Blob(parts));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// What is kept until the tab is closed. A browser may have storage disabled.
export const tab = {
  get(key) {
    try {
      return sessionStorage.getItem("chanrpc." + key);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      sessionStorage.setItem("chanrpc." + key, value);
    } catch {
      // Then it is kept until the page is left.
    }
  },
};
