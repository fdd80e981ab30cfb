"""The functions behind grpc.testing.TestService: JSON-RPC in lines, by a program that stays. A call with the payload
"sleep" gets no answer until it is cancelled. A file has a line for each that begins, and for each that is told to end.

usage: testing.py FILE"""

import base64
import json
import sys


class Failed(Exception):
    pass


def answer(method, params):
    if method == "emptyCall":
        return None
    if method == "unaryCall":
        status = params.get("response_status")
        if status:
            raise Failed(status["code"], status["message"])
        return {"payload": {"body": base64.b64encode(bytes(params["response_size"])).decode()}}
    raise Failed(5, f"no method {method}")


def note(text):
    with open(sys.argv[1], "a", encoding="utf-8") as file:
        file.write(text + "\n")


def is_asleep(params):
    return (params.get("payload") or {}).get("body") == base64.b64encode(b"sleep").decode()


sleeping = set()
for line in sys.stdin:
    call = json.loads(line)
    params = call.get("params") or {}
    if call["method"] == "$/cancelRequest" and params["id"] in sleeping:
        sleeping.remove(params["id"])
        note("cancelled")
        call["id"] = params["id"]
    elif "id" not in call:
        continue
    elif is_asleep(params):
        sleeping.add(call["id"])
        note("sleeping")
        continue
    reply = {"jsonrpc": "2.0", "id": call["id"]}
    try:
        reply["result"] = answer(call["method"], params)
    except Failed as error:
        reply["error"] = {"code": error.args[0], "message": error.args[1]}
    print(json.dumps(reply), flush=True)
