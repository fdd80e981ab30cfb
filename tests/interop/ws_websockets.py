"""Unmodified websockets against two nodes: JSON-RPC 2.0 over WebSocket, mostly in text messages."""

import asyncio
import json

import websockets
from checks import check, fail, node_address, same

CALLS = 1000


def request(id, method, params=None, **more):
    """Returns a request as text; without an id (None), a notification."""
    value = {"jsonrpc": "2.0", "method": method, **more}
    if params is not None:
        value["params"] = params
    if id is not None:
        value["id"] = id
    return json.dumps(value)


async def answer(ws):
    """Returns the next message, parsed; it must be text."""
    message = await asyncio.wait_for(ws.recv(), 10)
    if not isinstance(message, str):
        fail("an answer is a text message", message)
    return json.loads(message)


async def ask(ws, *args, **more):
    await ws.send(request(*args, **more))
    return await answer(ws)


async def calls(ws):
    for id in (1, 0, -7, "text", "", "é\"\\", 2**53 - 1):
        reply = await ask(ws, id, "rpc.echo", [1, "x"])
        same(f"the answer to id {id!r}", reply, {"jsonrpc": "2.0", "result": [1, "x"], "id": id})
    same("demo.add", (await ask(ws, 1, "demo.add", [20, 22]))["result"], 42)
    same("demo.divide", (await ask(ws, 1, "demo.divide", [17, 5]))["result"], [3, 2])
    await ask(ws, 1, "demo.reset", [])
    same("demo.count", (await ask(ws, 1, "demo.count", [3]))["result"], 3)
    same("demo.reset", (await ask(ws, 1, "demo.reset", [])).get("result", "absent"), None)


async def errors(ws):
    for what, text, id, code in [
        ("an unknown function", request(1, "no.such.function"), 1, -32601),
        ("wrong parameters", request(2, "demo.add", ["one", "two"]), 2, -32602),
        ("division by zero", request(3, "demo.divide", [1, 0]), 3, -32602),
        ("a panic", request(4, "demo.panic", []), 4, -32603),
        ("not JSON", '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', None, -32700),
        ("not a request", '{"jsonrpc": "2.0", "method": 1, "params": "bar"}', None, -32600),
        ("an empty batch", "[]", None, -32600),
    ]:
        await ws.send(text)
        reply = await answer(ws)
        same(f"{what} is {code}", (reply["error"]["code"], reply["id"]), (code, id))


async def notifications(ws):
    await ask(ws, 1, "demo.reset", [])
    for _ in range(10):
        await ws.send(request(None, "demo.count", [1]))
    await ws.send(request(None, "no.such.function"))
    reply = await ask(ws, "after", "demo.count", [0])
    same("notifications: the next message answers the call", reply, {"jsonrpc": "2.0", "result": 10, "id": "after"})


async def batches(ws):
    parts = [
        request(1, "demo.add", [1, 2]),
        request(None, "demo.add", [1, 2]),
        request("two", "no.such.function"),
        "1",
        request(3, "rpc.echo", {"a": 1}),
    ]
    await ws.send(f"[{','.join(parts)}]")
    reply = await answer(ws)
    check("a batch is answered by one array", isinstance(reply, list) and len(reply) == 4, reply)
    by_id = {part["id"]: part for part in reply}
    same("batch: a result", by_id[1]["result"], 3)
    same("batch: an unknown function", by_id["two"]["error"]["code"], -32601)
    same("batch: not a request", by_id[None]["error"]["code"], -32600)
    same("batch: another result", by_id[3]["result"], {"a": 1})
    await ws.send(f"[{parts[1]},{parts[1]}]")
    same("a batch of notifications has no answer", (await ask(ws, 9, "demo.add", [4, 5]))["id"], 9)


async def concurrent(ws):
    async def send():
        for n in range(CALLS):
            await ws.send(request(n, "demo.add", [n, 7 * n]))

    sender = asyncio.create_task(send())
    got = {}
    for _ in range(CALLS):
        reply = await answer(ws)
        got[reply["id"]] = reply["result"]
    await sender
    same(f"{CALLS} calls at once, each its own answer", got, {n: 8 * n for n in range(CALLS)})


async def out_of_order(ws):
    await ws.send(request("slow", "demo.sleep", [0.5]))
    await ws.send(request("quick", "demo.add", [1, 2]))
    same("the quick answer comes first", [(await answer(ws))["id"] for _ in range(2)], ["quick", "slow"])


async def frames(ws):
    async def fragments():
        text = request("parts", "rpc.echo", ["é" * 1000])
        for at in range(0, len(text), 100):
            yield text[at : at + 100]

    await ws.send(fragments())
    same("a message in many frames", (await answer(ws))["result"], ["é" * 1000])
    big = "x" * 500_000
    check("a message of 500 kB, both ways", (await ask(ws, 1, "rpc.echo", [big]))["result"] == [big])
    pong = await ws.ping(b"hello")
    check("a ping has its pong", await asyncio.wait_for(pong, 10) >= 0)


async def topics(ws):
    begun = (await ask(ws, 1, "rpc.subscribe", {"topic": "interop.*"}))["result"]
    same("a subscription", (begun["seq"], begun["missed"]), (None, False))
    same("an event for one subscriber", (await ask(ws, 2, "rpc.publish", ["interop.a", {"é": 1}]))["result"], 1)
    event = await answer(ws)
    same("its notification", (event["method"], "id" in event), ("rpc.event", False))
    same("  with topic and data", (event["params"]["topic"], event["params"]["data"]), ("interop.a", {"é": 1}))
    same("the end of it", (await ask(ws, 3, "rpc.unsubscribe", ["interop.*"]))["result"], True)


async def binary(ws):
    await ws.send(request(1, "demo.add", [20, 22]).encode())
    reply = await asyncio.wait_for(ws.recv(), 10)
    same("a binary message has a binary answer", type(reply), bytes)
    same("  with the same JSON", json.loads(reply)["result"], 42)


async def near(ws):
    same("a program", (await ask(ws, 1, "program.echo", ["ü"]))["result"], "ü")
    same("another node", (await ask(ws, 1, "demo.add", [20, 22]))["result"], 42)
    same("another node, several results", (await ask(ws, 1, "demo.divide", [17, 5]))["result"], [3, 2])
    same("a program that fails", (await ask(ws, 1, "program.fails", []))["error"]["code"], -32013)
    same("another node's panic", (await ask(ws, 1, "demo.panic", []))["error"]["code"], -32603)


async def main():
    host, port = node_address(2)
    async with websockets.connect(f"ws://{host}:{port}/") as ws:
        await near(ws)
    host, port = node_address()
    url = f"ws://{host}:{port}/"
    # The client's own limits and timeouts are unchanged, including its offer of compression.
    async with websockets.connect(url) as ws:
        for part in (calls, errors, notifications, batches, concurrent, out_of_order, frames, topics, binary):
            async with asyncio.timeout(30):
                await part(ws)
        await ws.close()
        same("the close handshake", ws.close_code, 1000)

    async with websockets.connect(url) as ws:
        same("a second connection answers", (await ask(ws, 1, "demo.add", [1, 1]))["result"], 2)


asyncio.run(main())
