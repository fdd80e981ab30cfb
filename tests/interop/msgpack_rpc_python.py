"""msgpack-rpc-python, the reference client of MessagePack-RPC. Last released in 2013, it uses the MessagePack of that time:
texts and bytes have the same type when encoded."""

import msgpackrpc
from checks import check, fail, node_address, same


def connect(which):
    return msgpackrpc.Client(msgpackrpc.Address(*node_address(which)), timeout=30, unpack_encoding="utf-8")


def error_of(client, method, *params):
    """Returns the error sent by the node: code, message, data."""
    try:
        result = client.call(method, *params)
    except msgpackrpc.error.RPCError as error:
        return error.args[0]
    fail("the call is refused", result)


client, near = connect(1), connect(2)
same("no result", client.call("demo.reset"), None)
same("one result", client.call("demo.add", 20, 22), 42)
same("several results", client.call("demo.divide", 17, 5), [3, 2])
value = [1, -1, 2**63, 1.5, "ü", None, True, {"a": [{}]}, list(range(20)), "x" * 300, "x" * 70_000]
same("rpc.echo gives back what it got", client.call("rpc.echo", *value), value)
client.notify("demo.count", 5)
same("a notification ran, in order", client.call("demo.count", 0), 5)
for method, params, code in [
    ("no.such.function", [], -32601),
    ("demo.add", ["one", "two"], -32602),
    ("demo.panic", [], -32603),
]:
    error = error_of(client, method, *params)
    same(f"{method} is {code}", error[0], code)
    check("  and says why", isinstance(error[1], str) and error[1], error)
futures = [client.call_async("demo.add", n, 7 * n) for n in range(500)]
same("500 calls at once, each its own answer", [future.get() for future in futures], [8 * n for n in range(500)])
same("a program", near.call("program.echo", "ü"), "ü")
same("another node", near.call("demo.add", 20, 22), 42)
same("another node, several results", near.call("demo.divide", 17, 5), [3, 2])
same("another node, no result", near.call("demo.reset"), None)
code, _, data = error_of(near, "program.fails")
same("how a program failed", (code, data), (-32013, {"exit": 3, "signal": None, "stderr": "last words"}))
