import json, sys

def add(a, b):
    return a + b

for line in sys.stdin:
    call = json.loads(line)
    if "id" in call:
        result = add(*call["params"])
        print(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}), flush=True)
