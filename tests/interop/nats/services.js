// Finds the services of others and calls one, then is one itself until it is killed.
//
// usage: services.js PORT

const { connect } = require("@nats-io/transport-node");
const { Svcm } = require("@nats-io/services");

async function main(port) {
    const nc = await connect({ servers: `127.0.0.1:${port}`, user: "stock", pass: "secret" });
    const services = new Svcm(nc);
    const endpoints = [];
    for await (const info of await services.client().info("board")) {
        endpoints.push(...info.endpoints.map((one) => one.subject));
    }
    const stats = [];
    for await (const one of await services.client().stats("board")) stats.push(one.type);
    const upper = (await nc.request("chanrpc.text.upper", JSON.stringify(["ann"]), { timeout: 5000 })).string();
    const service = await services.add({ name: "js", version: "1.0.0" });
    service.addEndpoint("hello", {
        subject: "chanrpc.svc.js",
        handler: (error, message) => message.respond(JSON.stringify(`hello ${message.json()[0]}`)),
    });
    await nc.flush();
    console.log(JSON.stringify({ endpoints, stats, upper }));
}

main(process.argv[2]);
