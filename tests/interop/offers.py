"""Programs that others have written offer functions at the first node, and answer calls: websockets (Python), ws (Node.js)
and Neovim. Each is then killed, or stopped, with a call running."""

import asyncio
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import websockets
from checks import check, fail, node_address, same

HERE = pathlib.Path(__file__).resolve().parent
HOST, PORT = node_address()


class Caller:
    """Calls the node in lines of JSON."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.last = reader, writer, 0

    async def ask(self, method, *params, **meta):
        self.last += 1
        request = {"jsonrpc": "2.0", "id": self.last, "method": method, "params": params, "meta": meta}
        self.writer.write(json.dumps(request).encode() + b"\n")
        line = await asyncio.wait_for(self.reader.readline(), 40)
        reply = json.loads(line)
        if reply["id"] != self.last:
            fail("the answer is that of the call", reply)
        return reply

    async def code(self, method, *params, **meta):
        reply = await self.ask(method, *params, **meta)
        return reply["error"]["code"] if "error" in reply else 0


async def connect():
    return Caller(*await asyncio.open_connection(HOST, PORT))


async def until_offered(caller, name):
    deadline = time.monotonic() + 30
    while (await caller.ask("rpc.list", name))["result"] != [name]:
        if time.monotonic() > deadline:
            fail(f"{name} is offered")
        await asyncio.sleep(0.05)


async def websockets_peer():
    """Offers two functions with websockets, as its documents show a client."""
    async with websockets.connect(f"ws://{HOST}:{PORT}/") as ws:
        offer = {"name": "ws.add", "description": "adds", "params": ["a", "b"]}
        await ws.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "rpc.offer", "params": offer}))
        same("websockets: the offer is accepted", json.loads(await ws.recv()), {"jsonrpc": "2.0", "result": True, "id": 1})
        async for message in ws:
            call = json.loads(message)
            a, b = call["params"]
            if a == b == 0:
                reply = {"error": {"code": 7, "message": "nothing to add"}}
            else:
                reply = {"result": a + b}
            await ws.send(json.dumps({"jsonrpc": "2.0", "id": call["id"], **reply}))


async def python():
    caller = await connect()
    peer = asyncio.create_task(websockets_peer())
    await until_offered(caller, "ws.add")
    for n in range(1000):
        reply = await caller.ask("ws.add", n, 7 * n + 1)
        if reply.get("result") != 8 * n + 1:
            fail("websockets: each call has its answer", reply)
    check("websockets: 1000 calls, each its own answer", True)
    same("websockets: its error passes through", (await caller.ask("ws.add", 0, 0))["error"], {"code": 7, "message": "nothing to add"})
    peer.cancel()
    await asyncio.gather(peer, return_exceptions=True)
    same("websockets: nothing is left", await caller.code("ws.add", 1, 2), -32601)


def start(*command):
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)


async def foreign(name, method, calls, endless, *command):
    """A program that offers a function: its answers, and what its callers get when it is killed, and when it is stopped."""
    caller = await connect()
    for end in (signal.SIGKILL, signal.SIGSTOP):
        program = start(*command)
        try:
            await until_offered(caller, method)
            for params, result in calls:
                reply = await caller.ask(method, *params)
                same(f"{name}: {params}", reply.get("result", reply), result)
            lost = await connect()
            if end == signal.SIGKILL:
                running = asyncio.create_task(lost.code(method, *endless))
                await asyncio.sleep(0.5)
                os.kill(program.pid, end)
                same(f"{name}: killed, the call that ran is lost", await running, -32011)
            else:
                # What does not answer in time is asked for a sign of life at once.
                os.kill(program.pid, end)
                same(f"{name}: stopped, the call passes its deadline", await lost.code(method, *calls[0][0], deadline_ms=500), -32003)
                code = await lost.code(method, *calls[0][0], deadline_ms=29000)
                check(f"{name}: stopped, the next call is lost with it", code in (-32011, -32601), code)
            same(f"{name}: nothing is left", await caller.code(method, *calls[0][0]), -32601)
        finally:
            program.kill()
            program.wait()


async def main():
    await python()
    node = f"ws://{HOST}:{PORT}/"
    js = ["node", str(HERE / "offers_ws.js"), node]
    await foreign("ws", "js.add", [([20, 22], 42), (["ü", "\u2028"], "ü\u2028")], ["endless", 0], *js)
    nvim = ["nvim", "--clean", "-n", "--headless", "-S", str(HERE / "offers_neovim.vim"), f"{HOST}:{PORT}"]
    endless = ["luaeval('vim.wait(100000)')"]
    await foreign("Neovim", "nvim_eval", [(["20 + 22"], 42), (["toupper('ü')"], "Ü")], endless, *nvim)


asyncio.run(main())
