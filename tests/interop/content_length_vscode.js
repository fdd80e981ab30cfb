// vscode-jsonrpc, the library of language clients, against two nodes: JSON-RPC with Content-Length over TCP.
"use strict";

const assert = require("node:assert/strict");
const net = require("node:net");
const rpc = require("vscode-jsonrpc/node");

const CALLS = 1000;
const ok = (what) => console.log(`ok      ${what}`);

function connect(address) {
  const at = address.lastIndexOf(":");
  return new Promise((resolve, reject) => {
    const socket = net.connect(Number(address.slice(at + 1)), address.slice(0, at), () => {
      const connection = rpc.createMessageConnection(
        new rpc.StreamMessageReader(socket),
        new rpc.StreamMessageWriter(socket),
      );
      connection.onError(([error]) => reject(error));
      connection.listen();
      resolve(connection);
    });
    socket.on("error", reject);
  });
}

async function refused(call, code) {
  const error = await call.then(
    (result) => assert.fail(`not refused: ${JSON.stringify(result)}`),
    (error) => error,
  );
  assert.ok(error instanceof rpc.ResponseError, String(error));
  assert.equal(error.code, code, error.message);
  assert.notEqual(error.message, "");
  ok(`refused with ${code}: ${error.message.split("\n")[0]}`);
  return error;
}

async function main() {
  const [first, near] = await Promise.all(process.argv.slice(2, 4).map(connect));
  assert.equal(await first.sendRequest("demo.reset"), null);
  assert.equal(await first.sendRequest("demo.add", 20, 22), 42);
  assert.deepEqual(await first.sendRequest("demo.divide", 17, 5), [3, 2]);
  const value = { a: ["ü\u2028\r\n\r\nContent-Length: 3\r\n\r\n", null, { b: "x".repeat(70_000) }] };
  assert.deepEqual(await first.sendRequest("rpc.echo", value), value);
  ok("calls with no, one and several results; named parameters");
  await first.sendNotification("demo.count", 5);
  assert.equal(await first.sendRequest("demo.count", 0), 5);
  ok("a notification ran, in order");

  await refused(first.sendRequest("no.such.function"), -32601);
  await refused(first.sendRequest("demo.add", "one", "two"), -32602);
  await refused(first.sendRequest("demo.panic"), -32603);
  const source = new rpc.CancellationTokenSource();
  const slow = first.sendRequest("demo.sleep", 60, source.token);
  source.cancel();
  await refused(slow, -32800);

  const calls = Array.from({ length: CALLS }, (_, n) => first.sendRequest("demo.add", n, 7 * n));
  assert.deepEqual(await Promise.all(calls), Array.from({ length: CALLS }, (_, n) => 8 * n));
  ok(`${CALLS} calls at once, each its own answer`);

  assert.equal(await near.sendRequest("program.echo", "ü from a program"), "ü from a program");
  assert.equal(await near.sendRequest("demo.add", 20, 22), 42);
  assert.deepEqual(await near.sendRequest("demo.divide", 17, 5), [3, 2]);
  ok("a program, and another node");
  const { data } = await refused(near.sendRequest("program.fails"), -32013);
  assert.deepEqual(data, { exit: 3, signal: null, stderr: "last words" });
  assert.deepEqual((await refused(near.sendRequest("demo.panic"), -32603)).data, { via: ["near"] });
}

setTimeout(() => {
  console.error("FAILED  not done within 60 s");
  process.exit(1);
}, 60_000);
main().then(
  () => process.exit(0),
  (error) => {
    console.error("FAILED ", error);
    process.exit(1);
  },
);
