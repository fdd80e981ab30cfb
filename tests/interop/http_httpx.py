"""Unmodified httpx against two nodes: HTTP, sequential and concurrent calls."""

import asyncio

import httpx
from checks import check, node_address, same

CALLS = 500


def call(client, method, *params, **named):
    """Returns the reply to one call, and checks its general form."""
    request = {"jsonrpc": "2.0", "id": method, "method": method, "params": named or list(params)}
    response = client.post("/rpc", json=request)
    reply = response.json()
    got = (response.status_code, response.headers["content-type"], reply["id"])
    check(f"{method}: 200, JSON, its id", got == (200, "application/json", method), got)
    return reply


def base(which):
    host, port = node_address(which)
    return f"http://{host}:{port}"


def native(client):
    same("no result", call(client, "demo.reset")["result"], None)
    same("one result", call(client, "demo.add", 20, 22)["result"], 42)
    same("several results", call(client, "demo.divide", 17, 5)["result"], [3, 2])
    same("named parameters", call(client, "rpc.echo", a="ü\u2028")["result"], {"a": "ü\u2028"})
    response = client.post("/", json={"jsonrpc": "2.0", "method": "demo.count", "params": [5]})
    same("a notification: 202, empty", (response.status_code, response.content), (202, b""))
    same("it ran", call(client, "demo.count", 0)["result"], 5)
    batch = [{"jsonrpc": "2.0", "id": n, "method": "demo.add", "params": [n, n]} for n in range(3)]
    replies = sorted(client.post("/", json=batch).json(), key=lambda reply: reply["id"])
    same("a batch", [reply["result"] for reply in replies], [0, 2, 4])


def errors(first, near):
    for client, method, params, code in [
        (first, "no.such.function", [], -32601),
        (first, "demo.add", ["one", "two"], -32602),
        (first, "demo.panic", [], -32603),
        (near, "demo.panic", [], -32603),
        (near, "no.such.function", [], -32601),
        (near, "program.fails", [], -32013),
    ]:
        error = call(client, method, *params)["error"]
        same(f"{method} is {code}", error["code"], code)
        check("  and says why", error["message"], error)
    data = call(near, "program.fails")["error"]["data"]
    same("how the program failed", data, {"exit": 3, "signal": None, "stderr": "last words"})
    too_large = first.post("/", content=b"[" + b" " * (2 << 20) + b"]")
    same("too large a body", (too_large.status_code, too_large.json()["error"]["code"]), (413, -32007))


def near_calls(client):
    same("a program", call(client, "program.echo", "ü from a program")["result"], "ü from a program")
    same("another node", call(client, "demo.add", 20, 22)["result"], 42)
    same("another node, several results", call(client, "demo.divide", 17, 5)["result"], [3, 2])
    same("another node, no result", call(client, "demo.reset")["result"], None)


async def concurrent():
    # Most calls wait for a connection first, which is not tested here.
    limits, timeout = httpx.Limits(max_connections=20), httpx.Timeout(10, pool=60)
    async with httpx.AsyncClient(base_url=base(1), limits=limits, timeout=timeout) as client:
        async def one(n):
            request = {"jsonrpc": "2.0", "id": n, "method": "demo.add", "params": [n, 7 * n]}
            return (await client.post("/", json=request)).json() == {"jsonrpc": "2.0", "id": n, "result": 8 * n}

        answers = await asyncio.gather(*(one(n) for n in range(CALLS)))
        same(f"{CALLS} calls over 20 connections, each its own answer", answers, [True] * CALLS)


with httpx.Client(base_url=base(1)) as first, httpx.Client(base_url=base(2)) as near:
    native(first)
    near_calls(near)
    errors(first, near)
asyncio.run(concurrent())
