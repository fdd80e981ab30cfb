// The cases of cases.py, by @grpc/grpc-js. usage: cases.js ADDRESS FILE, in which the function says what it is told.
"use strict";
const assert = require("node:assert");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const definition = loader.loadSync(path.join(__dirname, "testing.proto"), { keepCase: true });
const { TestService, UnimplementedService } = grpc.loadPackageDefinition(definition).grpc.testing;
const [address, insecure] = [process.argv[2], grpc.credentials.createInsecure()];
const test = new TestService(address, insecure);
const other = new UnimplementedService(address, insecure);
const { status } = grpc;

const call = (service, method, request, ...options) =>
  new Promise((resolve, reject) => {
    service[method](request, ...options, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
const fails = (code) => (error) => error.code === code;
const sleep = { payload: { body: Buffer.from("sleep") } };

// How often the function has said this.
const told = (what) => fs.readFileSync(process.argv[3], "utf8").split("\n").filter((line) => line === what).length;
const until = async (what, holds) => {
  for (const end = Date.now() + 30_000; !(await holds()); ) {
    assert(Date.now() < end, what);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};
const metric = (name) =>
  new Promise((resolve, reject) => {
    const get = http.get(`http://${address}/metrics`, (reply) => {
      let page = "";
      reply.on("data", (part) => (page += part));
      reply.on("end", () => resolve(Number(page.match(new RegExp(`^${name} (\\d+)$`, "m"))[1])));
    });
    get.on("error", reject);
  });
// The node has no call and no stream, though the connection is open.
const nothingIsLeft = () =>
  until("calls or streams are left", async () =>
    (await metric("chanrpc_calls_in_flight")) + (await metric("chanrpc_subscriptions")) === 0);

// Reads `count` messages of a stream and cancels it. Resolves with their sizes.
const read = (count, options = {}) =>
  new Promise((resolve, reject) => {
    const stream = test.StreamingOutputCall({}, options);
    const sizes = [];
    stream.on("data", (reply) => {
      sizes.push(reply.payload.body.length);
      if (sizes.length === count) stream.cancel();
    });
    stream.on("error", (error) => (error.code === status.CANCELLED ? resolve(sizes) : reject(error)));
  });

(async () => {
  assert.deepStrictEqual(await call(test, "EmptyCall", {}), {});
  const large = { response_size: 314159, payload: { body: Buffer.alloc(271828) } };
  assert.deepStrictEqual((await call(test, "UnaryCall", large)).payload.body, Buffer.alloc(314159));
  const special = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \u{1f608}\t\n";
  for (const message of ["test status message", special]) {
    const failure = { response_status: { code: 2, message } };
    await assert.rejects(call(test, "UnaryCall", failure), (error) => error.code === 2 && error.details === message);
  }
  await assert.rejects(call(test, "UnimplementedCall", {}), fails(status.UNIMPLEMENTED));
  await assert.rejects(call(other, "UnimplementedCall", {}), fails(status.UNIMPLEMENTED));
  const metadata = new grpc.Metadata();
  metadata.set("x-grpc-test-echo-initial", "initial");
  metadata.set("x-grpc-test-echo-trailing-bin", Buffer.from([0xab, 0xab, 0xab]));
  assert.strictEqual((await call(test, "UnaryCall", { response_size: 1 }, metadata)).payload.body.length, 1);
  const soon = { deadline: Date.now() + 200 };
  await assert.rejects(call(test, "UnaryCall", sleep, soon), fails(status.DEADLINE_EXCEEDED));
  await assert.rejects(read(5, { deadline: Date.now() + 200 }), fails(status.DEADLINE_EXCEEDED));
  await nothingIsLeft();
  const [sleeping, cancelled] = [told("sleeping"), told("cancelled")];
  await assert.rejects(
    new Promise((resolve, reject) => {
      const begun = test.UnaryCall(sleep, (error, reply) => (error ? reject(error) : resolve(reply)));
      until("the function runs", () => told("sleeping") > sleeping).then(() => begun.cancel(), reject);
    }),
    fails(status.CANCELLED),
  );
  await until("the function is cancelled", () => told("cancelled") > cancelled);
  await nothingIsLeft();
  assert.deepStrictEqual(await read(4), [31415, 9, 2653, 58979]);
  await nothingIsLeft();
  assert.deepStrictEqual(await read(1), [31415]);
  await nothingIsLeft();
  test.close();
  other.close();
  console.log("ok      the same cases by grpc-js");
})().catch((error) => {
  console.error("FAILED ", error);
  process.exit(1);
});
