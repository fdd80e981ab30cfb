// Offers js.add at a node, with unmodified ws.
"use strict";

const WebSocket = require("ws");

const node = new WebSocket(process.argv[2]);
const send = (message) => node.send(JSON.stringify({ jsonrpc: "2.0", ...message }));

node.on("open", () => send({ id: 1, method: "rpc.offer", params: { name: "js.add" } }));
node.on("message", (text) => {
  const { id, method, params, error } = JSON.parse(text);
  if (error) throw new Error(error.message);
  // An endless call is not answered.
  if (method === "js.add" && params[0] !== "endless") send({ id, result: params[0] + params[1] });
});
node.on("close", () => process.exit(0));
