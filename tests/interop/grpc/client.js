// @grpc/grpc-js with the checked-in .proto.
"use strict";
const assert = require("node:assert");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const protos = path.join(__dirname, "../../../src/node/app/grpc/proto");
const definition = loader.loadSync("chanrpc/v1/node.proto", { includeDirs: [protos], longs: String });
const { Node } = grpc.loadPackageDefinition(definition).chanrpc.v1;
const node = new Node(process.argv[2], grpc.credentials.createInsecure());

const call = (name, params, options = {}) =>
  new Promise((resolve, reject) => {
    const request = { function: name, params: params === undefined ? "" : JSON.stringify(params) };
    node.Call(request, options, (error, reply) => (error ? reject(error) : resolve(JSON.parse(reply.result))));
  });
const fails = (code) => (error) => error.code === code;

(async () => {
  assert.strictEqual(await call("demo.add", [2, 3]), 5);
  const numbers = [...Array(300).keys()];
  assert.deepStrictEqual(await Promise.all(numbers.map((n) => call("rpc.echo", [n]))), numbers.map((n) => [n]));
  const large = ["x".repeat(900_000)];
  assert.deepStrictEqual(await call("rpc.echo", large), large);
  await assert.rejects(call("absent"), fails(grpc.status.UNIMPLEMENTED));
  await assert.rejects(call("demo.panic"), fails(grpc.status.INTERNAL));
  await assert.rejects(call("demo.sleep", [5], { deadline: Date.now() + 200 }), fails(grpc.status.DEADLINE_EXCEEDED));
  await new Promise((resolve) => {
    const sleeping = node.Call({ function: "demo.sleep", params: "[20]" }, resolve);
    setTimeout(() => sleeping.cancel(), 100);
  });
  const events = node.Watch({ topic: "news" });
  const received = [];
  await new Promise((resolve, reject) => {
    events.on("error", (error) => (error.code === grpc.status.CANCELLED ? resolve() : reject(error)));
    events.on("data", (reply) => {
      received.push(reply);
      if (reply.subscribed) call("rpc.publish", ["news", 7]).catch(reject);
      else events.cancel();
    });
  });
  assert.strictEqual(received[1].event.data, "7");
  node.close();
  console.log("ok      calls, errors, a deadline, a cancellation and a topic");
})().catch((error) => {
  console.error("FAILED ", error);
  process.exit(1);
});
