"""Unmodified aiorpcX against two nodes: JSON-RPC 2.0 lines over TCP."""

import asyncio
import time

import aiorpcx
from checks import check, fail, node_address, same

CALLS = 1000


class Client(aiorpcx.RPCSession):
    """A session that allows all calls of a test to be in flight at once; the default is at most 50."""

    recalibrate_count = 10**9

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._outgoing_concurrency = aiorpcx.session.Concurrency(CALLS)


async def error_of(call):
    """Returns the error object of a failed call."""
    try:
        result = await call
    except aiorpcx.RPCError as error:
        return error
    fail("the call is refused", result)


async def calls(session):
    same("rpc.echo gives back an array", await session.send_request("rpc.echo", [1, "x"]), [1, "x"])
    named = {"a": 1, "b": [True, None, 1.5], "ü": "\u2028\U0001f980\""}
    same("rpc.echo gives back an object", await session.send_request("rpc.echo", named), named)
    same("demo.add", await session.send_request("demo.add", [20, 22]), 42)
    same("demo.divide, two results", await session.send_request("demo.divide", [17, 5]), [3, 2])
    await session.send_request("demo.reset")
    same("demo.reset, no result", await session.send_request("demo.reset"), None)
    same("demo.count keeps its state", [await session.send_request("demo.count", [n]) for n in (5, 2)], [5, 7])
    await session.send_request("rpc.ping")
    functions = await session.send_request("rpc.list")
    check("rpc.list names demo.add", "demo.add" in str(functions), functions)


async def errors(session):
    for what, method, params, code in [
        ("an unknown function", "no.such.function", [], -32601),
        ("too few parameters", "demo.add", [1], -32602),
        ("parameters of the wrong type", "demo.add", ["one", "two"], -32602),
        ("division by zero", "demo.divide", [1, 0], -32602),
        ("a panic", "demo.panic", [], -32603),
    ]:
        error = await error_of(session.send_request(method, params))
        same(f"{what} is {code}", error.code, code)
        check("  and says why", isinstance(error.message, str) and error.message, error.message)
    same("and the node goes on", await session.send_request("demo.add", [1, 1]), 2)


async def notifications(session):
    await session.send_request("demo.reset")
    for _ in range(10):
        await session.send_notification("demo.count", [1])
    await session.send_notification("no.such.function", [1])
    await session.send_notification("demo.add", ["wrong"])
    same("ten notifications counted, in order before the call", await session.send_request("demo.count", [0]), 10)


async def batches(session):
    await session.send_request("demo.reset")
    async with session.send_batch() as batch:
        batch.add_request("demo.add", [1, 2])
        batch.add_notification("demo.count", [5])
        batch.add_request("no.such.function")
        batch.add_request("rpc.echo", ["last"])
    first, second, third = batch.results
    same("batch: first", first, 3)
    check("batch: second is an error", isinstance(second, aiorpcx.RPCError) and second.code == -32601, second)
    same("batch: third", third, ["last"])
    same("batch: its notification ran", await session.send_request("demo.count", [0]), 5)

    async with session.send_batch() as batch:
        for n in range(100):
            batch.add_request("demo.add", [n, 1000])
    same("a batch of 100, each its own answer", list(batch.results), [n + 1000 for n in range(100)])


async def concurrent(session):
    async def one(n):
        if n % 2:
            return await session.send_request("demo.add", [n, 7 * n]) == 8 * n
        return await session.send_request("rpc.echo", [n, "x" * (n % 97)]) == [n, "x" * (n % 97)]

    answers = await asyncio.gather(*(one(n) for n in range(CALLS)))
    check(f"{CALLS} calls at once on one connection, each its own answer", all(answers), answers.count(False))


async def out_of_order(session):
    order = []

    async def one(name, method, params):
        result = await session.send_request(method, params)
        order.append(name)
        return result

    began = time.monotonic()
    slow = asyncio.create_task(one("slow", "demo.sleep", [0.5]))
    await asyncio.sleep(0.05)
    quick = await one("quick", "demo.add", [1, 2])
    waited = time.monotonic() - began
    same("the quick call's answer", quick, 3)
    check("it did not wait for the slow one", waited < 0.45, waited)
    check("the slow call's answer", await slow == 0.5)
    same("the answers overtook each other", order, ["quick", "slow"])


async def near(session):
    same("a program", await session.send_request("program.echo", ["ü"]), "ü")
    same("another node", await session.send_request("demo.add", [20, 22]), 42)
    same("another node, several results", await session.send_request("demo.divide", [17, 5]), [3, 2])
    same("a program that fails", (await error_of(session.send_request("program.fails"))).code, -32013)
    same("another node's panic", (await error_of(session.send_request("demo.panic"))).code, -32603)


async def main():
    async with aiorpcx.connect_rs(*node_address(2), session_factory=Client) as session:
        await near(session)
    host, port = node_address()
    async with aiorpcx.connect_rs(host, port, session_factory=Client) as session:
        for part in (calls, errors, notifications, batches, concurrent, out_of_order):
            async with aiorpcx.timeout_after(30):
                await part(session)
        check("the session saw no protocol error", session.errors == 0, session.errors)

    sessions = []
    for _ in range(20):
        sessions.append(await aiorpcx.connect_rs(host, port, session_factory=Client).__aenter__())
    answers = await asyncio.gather(
        *(session.send_request("demo.add", [i, n]) for i, session in enumerate(sessions) for n in range(50))
    )
    same("20 connections of 50 calls", answers, [i + n for i in range(20) for n in range(50)])
    for session in sessions:
        await session.close()


asyncio.run(main())
