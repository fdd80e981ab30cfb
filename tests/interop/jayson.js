// Unmodified jayson against two nodes: its TCP client first, then its HTTP and WebSocket clients.
"use strict";

const assert = require("node:assert/strict");
const jayson = require("jayson");

function split(address) {
  const at = address.lastIndexOf(":");
  return { host: address.slice(0, at), port: Number(address.slice(at + 1)) };
}
const { host, port } = split(process.argv[2]);
const CALLS = 1000;
// Its TCP and HTTP clients open a connection for every call.
const AT_ONCE = 100;

const ok = (what) => console.log(`ok      ${what}`);
const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));

// One exchange: returns the reply, or undefined without one.
function exchange(client, ...args) {
  return new Promise((resolve, reject) => {
    client.request(...args, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

async function result(client, method, params) {
  const reply = await exchange(client, method, params);
  assert.equal(reply.error, undefined, `${method}: ${JSON.stringify(reply.error)}`);
  return reply.result;
}

async function calls(client) {
  assert.deepEqual(await result(client, "rpc.echo", [1, "x"]), [1, "x"]);
  assert.deepEqual(await result(client, "rpc.echo", { a: "ü\u2028" }), { a: "ü\u2028" });
  assert.equal(await result(client, "demo.add", [20, 22]), 42);
  assert.deepEqual(await result(client, "demo.divide", [17, 5]), [3, 2]);
  assert.equal(await result(client, "demo.reset", []), null);
  assert.equal(await result(client, "demo.count", [5]), 5);
  assert.equal(await result(client, "demo.count", [2]), 7);
  ok("calls with no, one and several results; state is kept");
}

async function errors(client) {
  for (const [method, params, code] of [
    ["no.such.function", [], -32601],
    ["demo.add", ["one", "two"], -32602],
    ["demo.divide", [1, 0], -32602],
    ["demo.panic", [], -32603],
  ]) {
    const reply = await exchange(client, method, params, `id of ${method}`);
    assert.equal(reply.error.code, code, `${method}: ${JSON.stringify(reply)}`);
    assert.equal(reply.id, `id of ${method}`);
    assert.equal("result" in reply, false);
  }
  ok("errors -32601, -32602 and -32603, ids kept");
}

async function notifications(client) {
  await result(client, "demo.reset", []);
  assert.equal(await exchange(client, "demo.count", [5], null), undefined);
  // It uses its own connection, so the next call may overtake it.
  let total = 0;
  for (let tries = 0; total !== 5 && tries < 100; tries++) {
    await sleep(tries && 20);
    total = await result(client, "demo.count", [0]);
  }
  assert.equal(total, 5);
  ok("a notification, sent and hung up, took effect");
}

async function batches(client) {
  const replies = await exchange(client, [
    client.request("demo.add", [1, 2], "one"),
    client.request("demo.add", [1, 2], null),
    client.request("no.such.function", [], "two"),
    client.request("rpc.echo", ["x"], "three"),
  ]);
  const byId = Object.fromEntries(replies.map((reply) => [reply.id, reply]));
  assert.equal(replies.length, 3);
  assert.equal(byId.one.result, 3);
  assert.equal(byId.two.error.code, -32601);
  assert.deepEqual(byId.three.result, ["x"]);
  ok("a batch with a notification and an error in it");
}

async function concurrent(client) {
  const start = async (n) => {
    const reply = await exchange(client, "demo.add", [n, 7 * n], n);
    assert.equal(reply.id, n);
    assert.equal(reply.result, 8 * n);
  };
  for (let first = 0; first < CALLS; first += AT_ONCE) {
    await Promise.all(Array.from({ length: AT_ONCE }, (_, n) => start(first + n)));
  }
  ok(`${CALLS} calls, ${AT_ONCE} at once, each its own answer`);
}

async function outOfOrder(client) {
  const order = [];
  const note = (name) => () => order.push(name);
  const slow = result(client, "demo.sleep", [0.5]).then(note("slow"));
  const quick = result(client, "demo.add", [1, 2]).then(note("quick"));
  await Promise.all([slow, quick]);
  assert.deepEqual(order, ["quick", "slow"]);
  ok("a quick call does not wait for a slow one");
}

async function programsAndNodes(client) {
  assert.equal(await result(client, "program.echo", ["ü"]), "ü");
  assert.equal(await result(client, "demo.add", [20, 22]), 42);
  assert.deepEqual(await result(client, "demo.divide", [17, 5]), [3, 2]);
  assert.equal((await exchange(client, "program.fails", [])).error.code, -32013);
  assert.equal((await exchange(client, "demo.panic", [])).error.code, -32603);
  ok("a program, another node, and how they fail");
}

async function main() {
  const near = split(process.argv[3]);
  for (const client of [jayson.Client.tcp(near), jayson.Client.http(near)]) await programsAndNodes(client);
  const webSocket = jayson.Client.websocket({ url: `ws://${host}:${port}/`, timeout: 10000 });
  await new Promise((resolve, reject) => webSocket.ws.on("open", resolve).on("error", reject));
  for (const [name, client, hangsUp] of [
    ["TCP", jayson.Client.tcp({ host, port }), true],
    ["HTTP /", jayson.Client.http({ host, port }), true],
    ["HTTP /rpc", jayson.Client.http({ host, port, path: "/rpc" }), true],
    ["WebSocket", webSocket, false],
  ]) {
    console.log(`-- ${name}`);
    await calls(client);
    await errors(client);
    if (hangsUp) await notifications(client);
    await batches(client);
    await concurrent(client);
    await outOfOrder(client);
  }
  webSocket.ws.close();
}

setTimeout(() => {
  console.error("FAILED  not done within 90 s");
  process.exit(1);
}, 90000);
main().then(
  // Its WebSocket client would keep the process alive until the timeout of a call.
  () => process.exit(0),
  (error) => {
    console.error("FAILED ", error);
    process.exit(1);
  },
);
