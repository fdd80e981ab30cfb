"""Programs by others that stay (processes.toml), called through a node by several callers at once: a worker in Python,
PyPI's `mcp` and `python-lsp-server`, npm's `@modelcontextprotocol/server-everything`, and Neovim."""

import asyncio
import json
import urllib.request

from checks import check, node_address, same

CALLERS = 8
CALLS = 200


class Caller:
    """A connection that sends one call after the other."""

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(*node_address(3), limit=1 << 22)
        self.id = 0
        return self

    async def reply(self, method, *params, **named):
        self.id += 1
        request = {"jsonrpc": "2.0", "id": self.id, "method": method, "params": named or list(params)}
        self.writer.write(json.dumps(request).encode() + b"\n")
        reply = json.loads(await self.reader.readline())
        assert reply["id"] == self.id, reply
        return reply

    async def call(self, method, *params, **named):
        reply = await self.reply(method, *params, **named)
        check(f"{method} has a result", "result" in reply, reply)
        return reply["result"]


async def worker():
    async def one(number):
        caller = await Caller().open()
        for n in range(CALLS):
            assert (await caller.reply("worker.add", number, n))["result"] == number + n

    await asyncio.gather(*map(one, range(CALLERS)))
    print(f"ok      {CALLERS} callers, {CALLS} calls each, every answer to its caller")
    caller = await Caller().open()
    error = (await caller.reply("worker.add", 1, "two"))["error"]
    same("an exception ends the worker", error["code"], -32013)
    check("  and is in the error", "TypeError" in error["data"]["stderr"], error)
    while "error" in (reply := await caller.reply("worker.add", 20, 22)):
        assert reply["error"]["code"] == -32001, reply
        await asyncio.sleep(0.02)
    same("it is started again", reply["result"], 42)


async def mcp(family):
    one, two = [await Caller().open() for _ in range(2)]
    tools = [tool["name"] for tool in (await one.call(f"{family}.tools/list", **{"_meta": {}}))["tools"]]
    if family == "mcp":
        same("its tool", tools, ["add"])
        name, arguments, expected = "add", {"a": 20, "b": 22}, "42"
    else:
        check("its tools", "echo" in tools, tools)
        name, arguments, expected = "echo", {"message": "ü"}, "Echo: ü"
    for answer in await asyncio.gather(
        *[caller.call(f"{family}.tools/call", name=name, arguments=arguments) for caller in (one, two)]
    ):
        same("the tool's answer", answer["content"][0]["text"], expected)


async def pylsp():
    caller = await Caller().open()
    document = {"uri": "file:///interop.py", "languageId": "python", "version": 1, "text": "import json\njson.du"}
    caller.writer.write(
        json.dumps({"jsonrpc": "2.0", "method": "python.didOpen", "params": {"textDocument": document}}).encode() + b"\n"
    )
    found = await caller.call(
        "python.completion", textDocument={"uri": document["uri"]}, position={"line": 1, "character": 7}
    )
    labels = [item["label"] for item in found["items"]]
    check("completions", any(label.startswith("dumps") for label in labels), labels)


async def nvim():
    one, two = [await Caller().open() for _ in range(2)]
    same("an expression", await one.call("nvim.eval", "6 * 7"), 42)
    await one.call("nvim.set_var", "seen", [1, "ü"])
    same("all callers share its state", await two.call("nvim.get_var", "seen"), [1, "ü"])
    error = (await two.reply("nvim.eval", "no such"))["error"]
    check("its error", "E121" in error["message"] or "E15" in json.dumps(error), error)


def metrics():
    host, port = node_address(3)
    text = urllib.request.urlopen(f"http://{host}:{port}/metrics").read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("chanrpc_process_"))
    for name in ["worker", "mcp", "everything", "pylsp", "nvim"]:
        label = f'{{process="{name}"}}'
        up, starts, ready = [
            float(values[f"chanrpc_process_{metric}{label}"]) for metric in ["up", "starts_total", "ready_seconds"]
        ]
        same(f"{name} is up", up, 1.0)
        same(f"{name}: starts", starts, 2.0 if name == "worker" else 1.0)
        print(f"        {name} was ready after {ready:.3f} s")


async def main():
    await worker()
    await mcp("mcp")
    await mcp("everything")
    await pylsp()
    await nvim()
    metrics()


asyncio.run(main())
