// What the node measures, from /metrics, over the last minute; and the latency that this page sees.

import { $, draw, make } from "./dom.js";
import { milliseconds } from "./text.js";

const EVERY = 2000, SNAPSHOTS = 30, ROWS = 5;

export class Health {
  #snapshots = [];
  #isAllowed = false;
  #timer;

  // Shows the node's measurements if the caller may see them.
  allow(isAllowed, token) {
    this.#isAllowed = isAllowed;
    this.token = token;
    this.#snapshots = [];
    $("measured").hidden = true;
    this.poll();
  }

  async poll() {
    clearTimeout(this.#timer);
    if (!this.#isAllowed) return;
    this.#timer = setTimeout(() => this.poll(), EVERY);
    if (document.hidden) return;
    const headers = this.token ? { authorization: "Bearer " + this.token } : {};
    const reply = await fetch("metrics", { headers }).catch(() => undefined);
    if (!reply?.ok) return;
    this.#snapshots = [...this.#snapshots.slice(1 - SNAPSHOTS), { at: performance.now(), samples: parse(await reply.text()) }];
    if (this.#isAllowed) show(this.#snapshots[0], this.#snapshots.at(-1));
  }
}

// Returns the samples of Prometheus's text format by name.
function parse(text) {
  const samples = {};
  for (const [, name, labels, value] of text.matchAll(/^(\w+)(?:\{(.*)\})? (\S+)$/gm)) {
    const pairs = [...(labels ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, of]) => [key, of]);
    (samples[name] ??= []).push({ ...Object.fromEntries(pairs), value: Number(value) });
  }
  return samples;
}

const sum = (samples) => (samples ?? []).reduce((total, { value }) => total + value, 0);

function show(first, last) {
  const seconds = (last.at - first.at) / 1000;
  const since = (name, which = () => true) =>
    sum(last.samples[name]?.filter(which)) - sum(first.samples[name]?.filter(which));
  const rate = (count) => (seconds ? (count / seconds).toFixed(count && count / seconds < 10 ? 1 : 0) : "–");
  const now = (name) => sum(last.samples[name]);
  const tiles = [
    ["calls/s", rate(since("chanrpc_function_calls_total"))],
    ["errors/s", rate(since("chanrpc_function_errors_total"))],
    ["in flight", now("chanrpc_calls_in_flight")],
    ["connections", now("chanrpc_connections")],
    ...fullest(last.samples),
  ];
  $("tiles").replaceChildren(...tiles.map(([name, value]) =>
    make("div", {}, make("dt", { className: "quiet", textContent: name }), make("dd", { textContent: value }))));
  const calls = (last.samples.chanrpc_function_calls_total ?? []).map(({ function: name }) => {
    const is = (sample) => sample.function === name;
    const buckets = (last.samples.chanrpc_function_duration_seconds_bucket ?? []).filter(is).map(({ le }) =>
      [le === "+Inf" ? Infinity : Number(le), since("chanrpc_function_duration_seconds_bucket", (one) => is(one) && one.le === le)]);
    return { name, count: since("chanrpc_function_calls_total", is), errors: since("chanrpc_function_errors_total", is), buckets };
  });
  const busiest = calls.filter(({ count }) => count).sort((a, b) => b.count - a.count).slice(0, ROWS);
  $("busiest").hidden = !busiest.length;
  $("rows").replaceChildren(...busiest.map(({ name, count, errors, buckets }) =>
    make("tr", {}, make("th", { scope: "row", textContent: name }),
      ...[rate(count), rate(errors), ...[0.5, 0.95, 0.99].map((q) => quantile(q, buckets))]
        .map((text) => make("td", { textContent: text })))));
  $("measured").hidden = false;
}

// The workers of which most are busy.
function fullest(samples) {
  const key = ({ level, function: name, provider }) => [level, name, provider].join(" ");
  const busy = new Map((samples.chanrpc_workers_busy ?? []).map((one) => [key(one), one.value]));
  const [most] = (samples.chanrpc_workers ?? []).map((one) => ({ ...one, busy: busy.get(key(one)) ?? 0 }))
    .sort((a, b) => b.busy / b.value - a.busy / a.value);
  return most ? [[`workers of ${most.function ?? most.provider ?? "the node"}`, `${most.busy} of ${most.value}`]] : [];
}

// As Prometheus's histogram_quantile: calls are spread evenly within a bucket.
function quantile(q, buckets) {
  const all = buckets.at(-1)?.[1];
  if (!all) return "–";
  let [low, below] = [0, 0];
  for (const [bound, count] of buckets) {
    if (count >= q * all) {
      const seconds = bound === Infinity ? low : low + ((bound - low) * (q * all - below)) / (count - below);
      return seconds < 1e-4 ? `${Math.ceil(seconds * 1e6)} µs` : milliseconds(seconds * 1000);
    }
    [low, below] = [bound, count];
  }
}

// Plot of what this page sees: one bar per sample, newest at the right, logarithmic scale

const SAMPLES = 90, HEIGHT = 72, MIN_MS = 0.1;
let samples = [];

export function sample(kind, ms) {
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
