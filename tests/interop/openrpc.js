// Validates the OpenRPC documents of two nodes with the project's own validator.
"use strict";

const assert = require("node:assert/strict");
const { parseOpenRPCDocument, validateOpenRPCDocument } = require("@open-rpc/schema-utils-js");

async function discover(address) {
  const body = JSON.stringify({ jsonrpc: "2.0", method: "rpc.discover", id: 1 });
  const reply = await fetch(`http://${address}/`, { method: "POST", body, headers: { "content-type": "application/json" } });
  return (await reply.json()).result;
}

async function main() {
  for (const address of process.argv.slice(2)) {
    const document = await discover(address);
    assert.equal(validateOpenRPCDocument(document), true, JSON.stringify(document));
    const parsed = await parseOpenRPCDocument(document, { validate: true, dereference: true });
    const names = parsed.methods.map((method) => method.name);
    assert.ok(names.includes("rpc.discover"), names.join());
    console.log(`ok      ${names.length} methods of ${document.info.title} as OpenRPC ${document.openrpc}`);
  }
}

main();
