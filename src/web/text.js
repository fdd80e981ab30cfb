// JSON, words of a command line, and times. JSON is shown unchanged where JavaScript would alter it, such as long numbers.

export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

export function prettyPrint(json) {
  if (json.length <= 60 || !isJson(json)) return json;
  const value = JSON.parse(json);
  return JSON.stringify(value) === json ? JSON.stringify(value, null, 2) : json;
}

// As on the command line: a word is JSON if it parses as such, else a string. Quotes group words.
export function parseWords(text) {
  return (text.match(/"[^"\\]*(?:\\.[^"\\]*)*"|'[^']*'|\S+/g) ?? []).map((word) => {
    const inner = /^'(.*)'$/s.exec(word)?.[1] ?? word;
    return isJson(inner) ? inner : JSON.stringify(inner);
  });
}

// The elements of an array by their places, or the members of an object by their names, each as it is written.
export function elements(json) {
  JSON.parse(json);
  json = json.trim();
  const found = [];
  let depth = 0, start = 1, name;
  const take = (end) => {
    const text = json.slice(start, end).trim();
    if (text) found.push([name ?? found.length, text]);
    [start, name] = [end + 1, undefined];
  };
  for (const { 0: token, index } of json.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{}:,]/g)) {
    if ("[{".includes(token)) depth += 1;
    else if ("]}".includes(token)) depth -= 1;
    else if (depth === 1 && token === ",") take(index);
    else if (depth === 1 && token === ":") [name, start] = [JSON.parse(json.slice(start, index)), index + 1];
    if (!depth) take(index);
  }
  return Object.fromEntries(found);
}

// Quotes a word for a POSIX shell if it needs quotes.
export const shell = (word) => (/^[\w.\-/:,+@%]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

// The word of a command line for a parameter, given as JSON. A text needs no quotes of JSON, unless it looks like JSON or
// an option.
export function toWord(json) {
  const text = json.startsWith('"') ? JSON.parse(json) : json;
  return shell(text === "" || (text !== json && (isJson(text) || text.startsWith("-"))) ? json : text);
}

export function milliseconds(ms) {
  if (ms >= 10000) return (ms / 1000).toFixed(1) + " s";
  return (ms < 100 ? ms.toFixed(1) : Math.round(ms)) + " ms";
}

export function duration(seconds) {
  const [d, h, m, s] = [86400, 3600, 60, 1].map((unit) => Math.floor(seconds / unit));
  return d ? `${d} d ${h % 24} h` : h ? `${h} h ${m % 60} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
}
