"""grpcio both ways: its stubs, made of a .proto, call a program behind a node; and its server answers lines, HTTP and the
command line through the node.

usage: services.py BINARY"""

import concurrent.futures
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PROTOS = ROOT / "tests/grpc/proto"
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(PROTOS))

import grpc
from google.protobuf import descriptor_pb2, empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from grpc_tools import protoc

from checks import check, same

WELL_KNOWN = pathlib.Path(protoc.__file__).parent / "_proto"

protos, services = grpc.protos_and_services("shop.proto")
BINARY = sys.argv[1]


class Shop(services.ShopServicer):
    """The server behind the node."""

    def __init__(self):
        self.seen = {}
        self.ended = threading.Event()

    def Add(self, request, context):
        self.seen = dict(context.invocation_metadata(), remaining=context.time_remaining())
        return protos.Sum(sum=request.a + request.b)

    def Divide(self, request, context):
        if request.b == 0:
            context.abort(grpc.StatusCode.NOT_FOUND, "nö quotient\n")
        return protos.Quotient(quotient=request.a // request.b, remainder=request.a % request.b)

    def Echo(self, request, context):
        return request

    def Wait(self, request, context):
        self.ended.clear()
        context.add_callback(self.ended.set)
        self.ended.wait(20)
        return protos.Sum()


def serve(shop, port=0):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    services.add_ShopServicer_to_server(shop, server)
    names = (protos.DESCRIPTOR.services_by_name["Shop"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def status_of(work):
    try:
        work()
    except grpc.RpcError as error:
        return error.code(), error
    return grpc.StatusCode.OK, None


shop = Shop()
server, port = serve(shop)
work = pathlib.Path(tempfile.mkdtemp())
token = work / "token"
token.write_text("a secret")
token.chmod(0o600)
config = work / "node.toml"
config.write_text(f"""
[[process]]
name = "shop"
run = [{json.dumps(sys.executable)}, {json.dumps(str(HERE / "shop.py"))}]
[[function]]
name = "shop.*"
process = "shop"
method = "{{tail}}"
[[function]]
name = "away.*"
forward = "grpc://127.0.0.1:{port}"
service = "shop.v1.Shop"
token_file = {json.dumps(str(token))}
[[function]]
name = "sum"
forward = "grpc://127.0.0.1:{port}"
method = "shop.v1.Shop/Add"
descriptors = {json.dumps(str(PROTOS / "shop.binpb"))}
[[topic]]
name = "room.*"
keep = 1
[grpc]
descriptors = [{json.dumps(str(PROTOS / "shop.binpb"))}]
[grpc.methods]
"shop.v1.Shop/Echo" = "rpc.echo"
"shop.v1.Shop/Watch" = {{ topic = "room.{{room}}" }}
"shop.v1.Hidden/*" = false
""")
checked = subprocess.run([BINARY, "serve", "--check", "--config", config], capture_output=True, text=True)
check("the configuration", checked.returncode == 0, checked.stderr)
check("a method without a topic", "shop.v1.Shop/Untold: it gives a stream" in checked.stderr, checked.stderr)
ready = work / "ready"
# So that what was started ends too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("FAILED  ended by SIGTERM"))
node = subprocess.Popen([BINARY, "serve", "--listen", "127.0.0.1:0", "--config", config, "--ready-file", ready])
try:
    while not ready.exists() or not ready.read_text().strip():
        time.sleep(0.05)
    address = ready.read_text().split()[0]

    # A client's stubs, and a program behind the node.
    channel = grpc.insecure_channel(address)
    stub = services.ShopStub(channel)
    numbers = protos.Numbers(a=9007199254740993, b=-3)
    same("a call", stub.Add(numbers).sum, 9007199254740990)
    same("several results", (stub.Divide(protos.Numbers(a=17, b=5)).quotient, stub.Divide(protos.Numbers(a=17, b=5)).remainder), (3, 2))
    found = stub.Find(protos.FindRequest(name="ä", limit=3))
    same("a list of messages", [(item.name, item.price_in_cents) for item in found.items], [("ä", 0), ("ä", 1), ("ä", 2)])
    everything = protos.Everything(
        a_double=0.1, a_float=0.5, an_int32=-(1 << 31), an_int64=-(1 << 63), a_uint32=(1 << 32) - 1, a_uint64=(1 << 64) - 1,
        a_sint32=-3, a_sint64=-9007199254740993, a_fixed32=7, a_fixed64=9007199254740993, an_sfixed32=-8, an_sfixed64=-9,
        a_bool=True, a_string="ä\n\U0001f600", some_bytes=b"\0\xff", color=protos.COLOR_RED, numbers=[1, -1],
        inner=protos.Everything(a_double=2.2250738585072011e-308), many=[protos.Everything(), protos.Everything(a_bool=True)],
        by_name={"x": 9007199254740993}, by_number={-1: protos.Everything(a_string="y")}, number=0, maybe=0,
    )
    everything.object.update({"a": [1.5, None, {"b": "c"}]})
    everything.value.list_value.append(True)
    everything.at.FromJsonString("2026-11-30T12:00:00.000000001Z")
    everything.lasting.FromJsonString("-1.500s")
    everything.wrapped.value = 77
    same("every kind of field", stub.Echo(everything), everything)
    code, error = status_of(lambda: stub.Divide(protos.Numbers(a=1)))
    same("an error of the program", (code, error.details()), (grpc.StatusCode.INVALID_ARGUMENT, "integer division or modulo by zero"))
    same("a method that nothing answers", status_of(lambda: stub.Missing(numbers))[0], grpc.StatusCode.NOT_FOUND)
    same("a stream without a topic", status_of(lambda: list(stub.Untold(protos.WatchRequest())))[0], grpc.StatusCode.UNIMPLEMENTED)
    wrong = channel.unary_unary("/shop.v1.Shop/Add")
    code, error = status_of(lambda: wrong(b"\x0a\x01x"))
    check("a wrong message", code is grpc.StatusCode.INVALID_ARGUMENT and "a (field 1 of" in error.details(), error)
    publish = urllib.request.Request(f"http://{address}/rpc", json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "rpc.publish", "params": ["room.attic", {"celsius": 21.5}]}).encode())
    urllib.request.urlopen(publish).read()
    readings = stub.Watch(protos.WatchRequest(room="attic"))
    same("an event", next(readings).celsius, 21.5)
    readings.cancel()
    database = ProtoReflectionDescriptorDatabase(channel)
    check("services by reflection", "shop.v1.Shop" in database.get_services(), database.get_services())
    described = database.FindFileContainingSymbol("shop.v1.Shop")
    check("a service as it is seen", [method.name for method in described.service[0].method].count("Untold") == 0, described)
    compiled = descriptor_pb2.FileDescriptorSet.FromString((PROTOS / "shop.binpb").read_bytes())
    same("messages by reflection", described.message_type, next(f for f in compiled.file if f.name == "shop.proto").message_type)
    made = work / "made.binpb"
    protoc.main(["", f"-I{PROTOS}", f"-I{WELL_KNOWN}", "--include_imports", f"--descriptor_set_out={made}", "shop.proto"])
    check("the checked-in descriptors are what protoc makes", made.read_bytes() == (PROTOS / "shop.binpb").read_bytes())
    health = health_pb2_grpc.HealthStub(channel)
    same("health of a service", health.Check(health_pb2.HealthCheckRequest(service="shop.v1.Shop")).status, 1)

    # Callers of the node, and a gRPC server behind it.
    host, number = address.rsplit(":", 1)
    lines = socket.create_connection((host, int(number))).makefile("rw")

    def call(function, params, **meta):
        print(json.dumps({"jsonrpc": "2.0", "id": 1, "method": function, "params": params, "meta": meta}), file=lines, flush=True)
        reply = json.loads(lines.readline())
        return reply.get("result", reply.get("error"))

    same("a call by name", call("away.add", {"a": 9007199254740993, "b": 1}, deadline_ms=5000, hops=1), {"sum": 9007199254740994})
    check("its deadline", 0 < shop.seen["remaining"] <= 5.5, shop.seen)
    same("its hops and token", (shop.seen["chanrpc-hops"], shop.seen["authorization"]), ("2", "Bearer a secret"))
    same("a call by position", call("sum", [2, 3]), {"sum": 5})
    error = call("away.divide", [1, 0])
    same("a status", (error["code"], error["message"], error["data"]["status"]), (5, "nö quotient\n", 5))
    error = call("away.add", {"a": 1, "c": 2})
    check("a parameter that does not exist", error["code"] == -32602 and error["message"].startswith("c: "), error)
    same("a method that the server lacks", call("away.find", {"name": "x"})["code"], -32601)
    large = {"a_string": "x" * 900_000}
    same("a large message", len(call("away.echo", large)["a_string"]), 900_000)
    same("a deadline", call("away.wait", [], deadline_ms=200)["code"], -32003)
    check("it has ended at the server", shop.ended.wait(10))
    post = urllib.request.Request(f"http://{address}/rpc", b'{"jsonrpc":"2.0","id":1,"method":"away.add","params":[2,3]}')
    same("over HTTP", json.load(urllib.request.urlopen(post))["result"], {"sum": 5})

    def command(*arguments):
        done = subprocess.run([BINARY, "call", *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout.strip() or done.stderr.strip()

    same("the command", command("--to", address, "away.add", "2", "3"), (0, '{"sum":5}'))
    same("the command without a node", command("--to", f"grpc://127.0.0.1:{port}", "shop.v1.Shop/Add", "2", "3"), (0, '{"sum":5}'))
    described = subprocess.run([BINARY, "describe", "--to", address, "--proto", "away.*"], capture_output=True, text=True)
    check("a .proto of functions", "rpc Add(AwayAddRequest) returns (google.protobuf.Struct);" in described.stdout, described)
    (work / "made.proto").write_text(described.stdout)
    same("protoc takes it", protoc.main(["", f"-I{work}", f"-I{WELL_KNOWN}", f"--descriptor_set_out={made}", "made.proto"]), 0)
    server.stop(0).wait()
    code, text = command("--to", address, "away.add", "2", "3")
    check("a server that is gone", code == 3 and "-32001" in text, code, text)
    server, _ = serve(shop, port)
    for _ in range(100):
        if command("--to", address, "away.add", "2", "3")[0] == 0:
            break
        time.sleep(0.1)
    same("a server that is back", call("away.add", [2, 3]), {"sum": 5})
finally:
    node.terminate()
    node.wait(timeout=20)
    server.stop(0)
