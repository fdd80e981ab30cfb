"""The cases of gRPC's interoperability tests that apply to unary and server-streaming calls: by grpcio, grpc-js and tonic
against a node, whose functions are a program's, and by a node against a server of tonic. What does not apply, docs/grpc.md
tells.

usage: cases.py BINARY TONIC"""

import base64
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

import grpc
from grpc_tools import protoc

from checks import check, same

BINARY, TONIC = sys.argv[1:]
SIZES = [31415, 9, 2653, 58979]
# Long enough for a busy machine; nothing is as slow as this if all is well.
LIMIT = 30
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"

protos, services = grpc.protos_and_services("testing.proto")
work = pathlib.Path(tempfile.mkdtemp())
DESCRIPTORS, TOLD = work / "testing.binpb", work / "told"
protoc.main(["", f"-I{HERE}", f"--descriptor_set_out={DESCRIPTORS}", "testing.proto"])


class Node:
    """A node with a configuration."""

    def __init__(self, name, config):
        (work / f"{name}.toml").write_text(config)
        ready = work / f"{name}.ready"
        options = ["--listen", "127.0.0.1:0", "--config", work / f"{name}.toml", "--ready-file", ready]
        self.process = subprocess.Popen([BINARY, "serve", "--log", "warn", *options], stdout=subprocess.DEVNULL)
        started.append(self.process)
        while not ready.exists() or not ready.read_text().strip():
            check_runs(self.process)
            time.sleep(0.05)
        self.address = ready.read_text().split()[0]

    def post(self, function, params, deadline=20_000):
        call = {"jsonrpc": "2.0", "id": 1, "method": function, "params": params, "meta": {"deadline_ms": deadline}}
        reply = json.load(urllib.request.urlopen(f"http://{self.address}/rpc", json.dumps(call).encode(), timeout=30))
        return reply.get("error") or reply["result"]


    def metric(self, name):
        lines = urllib.request.urlopen(f"http://{self.address}/metrics", timeout=30).read().decode().split("\n")
        return int(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def holds(self, calls, streams):
        """Waits until the node has these numbers of calls and streams."""
        expected, until = (calls, streams), time.monotonic() + LIMIT
        while True:
            seen = self.metric("chanrpc_calls_in_flight"), self.metric("chanrpc_subscriptions")
            if seen == expected:
                return
            check("calls and streams under way", time.monotonic() < until, seen, expected)
            time.sleep(0.01)


def told(what):
    """Returns how often the functions have said that they sleep, or were cancelled."""
    return TOLD.read_text().split().count(what) if TOLD.exists() else 0


def await_told(what, count):
    until = time.monotonic() + LIMIT
    while told(what) < count:
        if time.monotonic() > until:
            sys.exit(f"FAILED  the function was not told: {what}: {told(what)} of {count}")
        time.sleep(0.01)


def nothing_is_left(node):
    """Checks that every call that has begun was told to end, and that the node has none."""
    node.holds(0, 0)
    await_told("cancelled", told("sleeping"))
    same("each call that slept was cancelled", told("cancelled"), told("sleeping"))


def check_runs(process):
    if process.poll() is not None:
        sys.exit(f"FAILED  a process has ended: {process.args}")


def status_of(work):
    try:
        work()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def grpcio(node):
    """The cases, by grpcio."""
    channel = grpc.insecure_channel(node.address)
    test = services.TestServiceStub(channel)
    zeros = lambda size: protos.Payload(body=bytes(size))
    same("empty_unary", test.EmptyCall(protos.Empty()), protos.Empty())
    large = protos.SimpleRequest(response_size=314159, payload=zeros(271828))
    same("large_unary", test.UnaryCall(large).payload, zeros(314159))
    calls = [test.UnaryCall.future(large) for _ in range(5)]
    check("several large ones at once", all(call.result().payload == zeros(314159) for call in calls))
    for case, message in [("status_code_and_message", "test status message"), ("special_status_message", SPECIAL)]:
        request = protos.SimpleRequest(response_status=protos.EchoStatus(code=2, message=message))
        same(case, status_of(lambda: test.UnaryCall(request)), (grpc.StatusCode.UNKNOWN, message))
    unimplemented = grpc.StatusCode.UNIMPLEMENTED
    same("unimplemented_method", status_of(lambda: test.UnimplementedCall(protos.Empty()))[0], unimplemented)
    other = services.UnimplementedServiceStub(channel)
    same("unimplemented_service", status_of(lambda: other.UnimplementedCall(protos.Empty()))[0], unimplemented)
    metadata = [("x-grpc-test-echo-initial", "initial"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab")]
    reply = test.UnaryCall(protos.SimpleRequest(response_size=1), metadata=metadata)
    same("custom_metadata is taken, and not echoed", reply.payload, zeros(1))
    sleep = protos.SimpleRequest(payload=protos.Payload(body=b"sleep"))
    late = grpc.StatusCode.DEADLINE_EXCEEDED
    same("timeout_on_sleeping_server", status_of(lambda: test.UnaryCall(sleep, timeout=0.2))[0], late)
    request = protos.StreamingOutputCallRequest(response_parameters=[protos.ResponseParameters(size=1)])
    silent = lambda: list(test.StreamingOutputCall(request, timeout=0.2))
    same("timeout_on_sleeping_server, of a stream", status_of(silent)[0], late)
    await_told("cancelled", 1)
    nothing_is_left(node)
    # The connection stays open: the node learns of each cancellation by itself.
    call = test.UnaryCall.future(sleep)
    await_told("sleeping", 2)
    node.holds(1, 0)
    call.cancel()
    check("cancel_after_begin", call.cancelled())
    await_told("cancelled", 2)
    nothing_is_left(node)
    stream = test.StreamingOutputCall(request)
    same("server_streaming", [len(next(stream).payload.body) for _ in SIZES], SIZES)
    node.holds(0, 1)
    stream.cancel()
    same("its end", status_of(lambda: next(stream))[0], grpc.StatusCode.CANCELLED)
    node.holds(0, 0)
    stream = test.StreamingOutputCall(request)
    same("cancel_after_first_response", len(next(stream).payload.body), SIZES[0])
    node.holds(0, 1)
    stream.cancel()
    same("its end", status_of(lambda: next(stream))[0], grpc.StatusCode.CANCELLED)
    node.holds(0, 0)
    channel.close()


def behind_a_node(node, lines):
    """Calls of tonic's server through a node."""
    same("an empty call", node.post("away.emptyCall", []), {})
    reply = node.post("away.unaryCall", {"response_size": 314159, "payload": {"body": base64.b64encode(bytes(271828)).decode()}})
    same("a large call", len(base64.b64decode(reply["payload"]["body"])), 314159)
    told = node.post("away.unaryCall", {"fill_username": True}, deadline=5_000)["username"]
    check("its deadline and hops", told.startswith("grpc-timeout: ") and told.endswith("chanrpc-hops: 1"), told)
    codes = {
        1: -32800, 2: 2, 3: -32602, 4: -32003, 5: 5, 6: 6, 7: -32002, 8: -32009, 9: 9, 10: 10, 11: 11, 12: -32601,
        13: -32603, 14: -32001, 15: -32603, 16: -32002,
    }
    for status, code in codes.items():
        error = node.post("away.unaryCall", {"response_status": {"code": status, "message": SPECIAL}})
        seen = (error["code"], error["message"], error["data"]["status"])
        same(f"status {status}", seen, (code, SPECIAL, status))
        check("its details", b"details of tonic" in base64.b64decode(error["data"]["details"] + "=="), error)
    error = node.post("away.unaryCall", {"payload": {"body": base64.b64encode(b"sleep").decode()}}, deadline=300)
    same("a deadline", error["code"], -32003)
    same("the call had begun", lines.readline(), "sleeping\n")
    same("the server's call has ended", lines.readline(), "cancelled\n")
    with socket.create_connection(node.address.split(":")) as tcp:
        stream = tcp.makefile("rw")
        params = {"payload": {"body": base64.b64encode(b"sleep").decode()}}
        print(json.dumps({"jsonrpc": "2.0", "id": 7, "method": "away.unaryCall", "params": params}), file=stream, flush=True)
        same("the call has begun", lines.readline(), "sleeping\n")
        print(json.dumps({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 7}}), file=stream, flush=True)
        same("a cancelled call", json.loads(stream.readline())["error"]["code"], -32800)
        same("the server's call is cancelled", lines.readline(), "cancelled\n")
    error = node.post("away.streamingOutputCall", {})
    check("a method that gives a stream", error["code"] == -32601, error)
    done = subprocess.run([BINARY, "list", "-v", "--to", node.address, "away.*"], capture_output=True, text=True)
    check("its methods are listed", "away.unaryCall(" in done.stdout, done)


started = []
# So that what was started ends too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("FAILED  ended by SIGTERM"))
try:
    testing = Node("testing", f"""
[[process]]
name = "testing"
run = [{json.dumps(sys.executable)}, {json.dumps(str(HERE / "testing.py"))}, {json.dumps(str(TOLD))}]
[[function]]
name = "testing.*"
process = "testing"
method = "{{tail}}"
[[topic]]
name = "testing.output"
keep = 4
keep_bytes = "1 MiB"
[grpc]
descriptors = [{json.dumps(str(DESCRIPTORS))}]
[grpc.methods]
"grpc.testing.TestService/*" = "testing.*"
"grpc.testing.TestService/UnimplementedCall" = false
"grpc.testing.TestService/StreamingOutputCall" = {{ topic = "testing.output" }}
"grpc.testing.UnimplementedService/*" = false
""")
    for size in SIZES:
        event = {"payload": {"body": base64.b64encode(bytes(size)).decode()}}
        testing.post("rpc.publish", ["testing.output", event])
    print("-- grpcio")
    grpcio(testing)
    for client in ["node", HERE / "cases.js", testing.address, TOLD], [TONIC, "client", testing.address]:
        print("--", *client[:2], flush=True)
        subprocess.run(client, check=True, timeout=60)
        nothing_is_left(testing)

    print("-- a node in front of tonic")
    server = subprocess.Popen([TONIC, "server"], stdout=subprocess.PIPE, text=True)
    started.append(server)
    address = server.stdout.readline().removeprefix("listening on ").strip()
    away = Node("away", f"""
[[function]]
name = "away.*"
forward = "grpc://{address}"
service = "grpc.testing.TestService"
descriptors = {json.dumps(str(DESCRIPTORS))}
""")
    behind_a_node(away, server.stdout)
finally:
    for process in reversed(started):
        process.kill()
        process.wait()
    shutil.rmtree(work, ignore_errors=True)
