"""Unmodified aio-msgpack-rpc against two nodes: MessagePack-RPC over TCP."""

import asyncio

import aio_msgpack_rpc
from aio_msgpack_rpc.error import RPCResponseError
from checks import check, fail, node_address, same

CALLS = 1000


async def connect(which):
    return aio_msgpack_rpc.Client(*await asyncio.open_connection(*node_address(which)), response_timeout=30)


async def error_of(call):
    """Returns the error sent by the node: code, message, data."""
    try:
        result = await call
    except RPCResponseError as error:
        return error.args[0]
    fail("the call is refused", result)


async def calls(client):
    same("no result", await client.call("demo.reset"), None)
    same("one result", await client.call("demo.add", 20, 22), 42)
    same("several results", await client.call("demo.divide", 17, 5), [3, 2])
    value = [1, -1, 2**63, 1.5, "ü\U0001f980", None, True, {"a": [{}]}, list(range(20)), "x" * 70_000]
    same("rpc.echo gives back what it got", await client.call("rpc.echo", *value), value)
    await client.notify("demo.count", 5)
    same("a notification ran, in order", await client.call("demo.count", 0), 5)


async def errors(client):
    for method, params, code in [
        ("no.such.function", [], -32601),
        ("demo.add", ["one", "two"], -32602),
        ("demo.divide", [1, 0], -32602),
        ("demo.panic", [], -32603),
    ]:
        error = await error_of(client.call(method, *params))
        same(f"{method} is {code}", error[0], code)
        check("  and says why", isinstance(error[1], str) and error[1], error)
    same("and the node goes on", await client.call("demo.add", 1, 1), 2)


async def near(client):
    same("a program", await client.call("program.echo", "ü"), "ü")
    same("another node", await client.call("demo.add", 20, 22), 42)
    same("another node, several results", await client.call("demo.divide", 17, 5), [3, 2])
    same("another node, no result", await client.call("demo.reset"), None)
    error = await error_of(client.call("program.fails"))
    same("how a program failed", (error[0], error[2]), (-32013, {"exit": 3, "signal": None, "stderr": "last words"}))
    error = await error_of(client.call("demo.panic"))
    same("how another node failed", (error[0], error[2]), (-32603, {"via": ["near"]}))


async def concurrent(client):
    async def one(n):
        return await client.call("demo.add", n, 7 * n) == 8 * n

    answers = await asyncio.gather(*(one(n) for n in range(CALLS)))
    same(f"{CALLS} calls at once, each its own answer", answers, [True] * CALLS)
    order = []

    async def note(name, call):
        await call
        order.append(name)

    await asyncio.gather(note("slow", client.call("demo.sleep", 0.5)), note("quick", client.call("demo.add", 1, 2)))
    same("a quick call does not wait for a slow one", order, ["quick", "slow"])


async def main():
    client = await connect(1)
    await calls(client)
    await errors(client)
    await concurrent(client)
    await near(await connect(2))


asyncio.run(asyncio.wait_for(main(), 60))
