"""The functions of the shop as a program that stays: JSON-RPC in lines."""

import json
import sys


def answer(method, params):
    if method == "add":
        return params["a"] + params["b"]
    if method == "divide":
        return list(divmod(params["a"], params["b"]))
    if method == "find":
        return [{"name": params["name"], "price_in_cents": n} for n in range(params.get("limit", 2))]
    raise LookupError(method)


for line in sys.stdin:
    call = json.loads(line)
    if "id" not in call:
        continue
    reply = {"jsonrpc": "2.0", "id": call["id"]}
    try:
        reply["result"] = answer(call["method"], call.get("params") or {})
    except Exception as error:
        code = 5 if isinstance(error, LookupError) else 3
        reply["error"] = {"code": code, "message": f"{error}", "data": {"of": "the shop"}}
    print(json.dumps(reply), flush=True)
