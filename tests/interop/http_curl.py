"""curl against two nodes: JSON-RPC 2.0 over POST, and the monitoring endpoints, parsed as Prometheus does."""

import json
import pathlib
import subprocess
import tempfile

from checks import check, fail, node_address, same
from prometheus_client.parser import text_string_to_metric_families

CALLS = 1000
HOST, PORT = node_address()
BASE = f"http://{HOST}:{PORT}"


def curl(path, *options, data=None):
    """Runs curl; returns the status, the content type and the body. Accepts a URL in place of a path."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code} %{content_type}"]
    if data is not None:
        command += ["--header", "Content-Type: application/json", "--data-binary", "@-"]
    command += [*options, path if "://" in path else BASE + path]
    done = subprocess.run(command, input=data, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        fail(f"curl {path}", done.returncode, done.stderr)
    body, _, tail = done.stdout.rpartition("\n")
    status, _, kind = tail.partition(" ")
    return int(status), kind, body


def post(path, value, *options):
    """Posts a JSON value (or text unchanged); returns the status and the parsed reply, None if it is empty."""
    text = value if isinstance(value, str) else json.dumps(value)
    status, kind, body = curl(path, *options, data=text)
    if not body:
        return status, None
    if not kind.startswith("application/json"):
        fail("an answer is application/json", kind)
    return status, json.loads(body)


def call(id, method, params):
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def note(method, params):
    return {"jsonrpc": "2.0", "method": method, "params": params}


def result(method, *params):
    return post("/", call(1, method, list(params)))[1]["result"]


def calls():
    for path in ("/", "/rpc"):
        status, reply = post(path, call("é", "rpc.echo", [1, "x"]))
        same(f"POST {path}", (status, reply), (200, {"jsonrpc": "2.0", "result": [1, "x"], "id": "é"}))
    same("demo.add", result("demo.add", 20, 22), 42)
    same("demo.divide", result("demo.divide", 17, 5), [3, 2])
    same("demo.reset", result("demo.reset"), None)
    same("demo.count", [result("demo.count", 5), result("demo.count", 2)], [5, 7])


def errors():
    for what, value, code in [
        ("an unknown function", call(1, "no.such.function", []), -32601),
        ("wrong parameters", call(1, "demo.add", ["one", "two"]), -32602),
        ("division by zero", call(1, "demo.divide", [1, 0]), -32602),
        ("a panic", call(1, "demo.panic", []), -32603),
        ("not JSON", '{"jsonrpc": "2.0", "method"', -32700),
        ("not a request", "1", -32600),
        ("an empty batch", "[]", -32600),
    ]:
        same(f"{what} is {code}", post("/", value)[1]["error"]["code"], code)


def notifications():
    result("demo.reset")
    same("a notification: 202, empty", post("/", note("demo.count", [5])), (202, None))
    same("a batch of notifications: 202, empty", post("/rpc", [note("demo.count", [1])] * 3), (202, None))
    same("all four ran", result("demo.count", 0), 8)


def batches():
    values = [call(1, "demo.add", [1, 2]), note("demo.add", [1, 2]), call("2", "no.such.function", []), 1]
    status, replies = post("/", values)
    by_id = {reply["id"]: reply for reply in replies}
    same("a batch: three answers", (status, len(replies)), (200, 3))
    same("batch: a result", by_id[1]["result"], 3)
    same("batch: an unknown function", by_id["2"]["error"]["code"], -32601)
    same("batch: not a request", by_id[None]["error"]["code"], -32600)


def near():
    host, port = node_address(2)

    def reply(method, *params):
        return post(f"http://{host}:{port}/", call(1, method, list(params)))[1]

    same("a program", reply("program.echo", "ü")["result"], "ü")
    same("another node", reply("demo.add", 20, 22)["result"], 42)
    same("another node, several results", reply("demo.divide", 17, 5)["result"], [3, 2])
    same("a program that fails", reply("program.fails")["error"]["code"], -32013)
    same("another node's panic", reply("demo.panic")["error"]["code"], -32603)


def forms():
    """Further ways in which curl sends a body."""
    value = call(1, "rpc.echo", ["x" * 300_000])
    for what, options in [
        ("chunked", ["--header", "Transfer-Encoding: chunked"]),
        ("after 100 Continue", ["--header", "Expect: 100-continue"]),
        ("by HTTP/1.0", ["--http1.0"]),
    ]:
        status, reply = post("/", value, *options)
        check(f"300 kB, {what}", status == 200 and reply["result"] == value["params"], status)


def pages():
    same("GET /healthz", curl("/healthz")[0], 200)
    status, kind, body = curl("/metrics")
    check("GET /metrics is text", status == 200 and kind.startswith("text/plain; version=0.0.4"), status, kind)
    families = {family.name: family for family in text_string_to_metric_families(body)}
    untyped = [name for name, family in families.items() if family.type == "unknown" or not family.documentation]
    same("  that Prometheus's parser reads, every family with its type and help", untyped, [])
    samples = families["chanrpc_function_calls"].samples
    calls = {sample.labels["function"]: sample.value for sample in samples}
    check("  in which the calls made here are counted", calls["demo.divide"] >= 2, calls)
    same("GET of an unknown path", curl("/no/such/page")[0], 404)
    status = curl("/rpc", "--request", "PUT", data="{}")[0]
    check("PUT is refused", 400 <= status < 500, status)


def keeps_connection():
    done = subprocess.run(
        ["curl", "--silent", "--max-time", "20", "--write-out", "%{num_connects}\n", "--output", "/dev/null"]
        + ["--output", "/dev/null", f"{BASE}/healthz", f"{BASE}/metrics"],
        capture_output=True, text=True, timeout=30,
    )
    same("two requests, one connection", done.stdout.split(), ["1", "0"])


def concurrent():
    """One curl process with many connections, each reply in its own file."""
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for n in range(CALLS):
            body = json.dumps(call(n, "demo.add", [n, 7 * n]))
            lines += ["next"] if n else []
            lines += [f'url = "{BASE}/"', f"data = {json.dumps(body)}", f'output = "{folder}/{n}"', "silent"]
            lines += ['header = "Content-Type: application/json"', "max-time = 30", "show-error"]
        config = pathlib.Path(folder, "config")
        config.write_text("\n".join(lines))
        done = subprocess.run(
            ["curl", "--parallel", "--parallel-max", "50", "--config", str(config)],
            capture_output=True, text=True, timeout=60,
        )
        check("curl made all its calls", done.returncode == 0, done.returncode, done.stderr[:500])
        replies = [json.loads(pathlib.Path(folder, str(n)).read_text()) for n in range(CALLS)]
        wanted = [{"jsonrpc": "2.0", "result": 8 * n, "id": n} for n in range(CALLS)]
        same(f"{CALLS} calls, 50 at once, each its own answer", replies, wanted)


def events():
    """curl reads a stream of server-sent events."""
    command = ["curl", "--silent", "--no-buffer", "--max-time", "20", f"{BASE}/events?topic=interop.curl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stream:
        check("the stream begins with its id", stream.stdout.readline().startswith("id: "))
        same("an event reaches curl", post("/", call(1, "rpc.publish", ["interop.curl", {"é": 1}]))[1]["result"], 1)
        lines = [stream.stdout.readline() for _ in range(3)]
        check("  with its id", lines[0] == "\n" and lines[1].startswith("id: "), lines)
        params = json.loads(lines[2].removeprefix("data: "))
        same("  and its data", (params["topic"], params["data"]), ("interop.curl", {"é": 1}))
        stream.kill()


for part in (calls, errors, notifications, batches, near, forms, pages, keeps_connection, concurrent, events):
    part()
