"""grpcio with stubs made from the checked-in .proto, its health and its reflection client. Follows the cases of gRPC's
own interoperability tests that apply to unary and server-streaming calls."""

import json
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
PROTOS = pathlib.Path(__file__).resolve().parents[3] / "src/node/app/grpc/proto"
sys.path.insert(0, str(PROTOS))

import grpc
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from checks import check, same

protos, services = grpc.protos_and_services("chanrpc/v1/node.proto")
address = sys.argv[1]
channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 4 << 20)])
node = services.NodeStub(channel)


def call(function, *params, **options):
    request = protos.CallRequest(function=function, params=json.dumps(params) if params else "")
    return json.loads(node.Call(request, **options).result)


def status_of(work):
    """Returns the code with which a call fails, and the error."""
    try:
        work()
    except grpc.RpcError as error:
        return error.code(), error
    return grpc.StatusCode.OK, None


same("a call", call("demo.add", 2, 3), 5)
same("empty parameters", call("rpc.ping"), "pong")
same("a text that is not ASCII", call("rpc.echo", "ä\n\U0001f600"), ["ä\n\U0001f600"])
exact = node.Call(protos.CallRequest(function="rpc.echo", params="[9007199254740993]")).result
same("an exact integer", exact, "[9007199254740993]")
large = "x" * 900_000
same("a large call", call("rpc.echo", large), [large])
same("many calls at once", [f.result().result for f in [
    node.Call.future(protos.CallRequest(function="rpc.echo", params=f"[{n}]")) for n in range(300)
]], [f"[{n}]" for n in range(300)])

code, error = status_of(lambda: call("demo.divide", 1, 0))
same("a function's own error", code, grpc.StatusCode.INVALID_ARGUMENT)
details = dict(error.trailing_metadata())["grpc-status-details-bin"]
check("its details", b"google.rpc.ErrorInfo" in details and b"chanrpc" in details, details)
code, error = status_of(lambda: call("absent.ü"))
check("an unknown function", code is grpc.StatusCode.UNIMPLEMENTED and "absent" in error.details(), error)
same("a panic", status_of(lambda: call("demo.panic"))[0], grpc.StatusCode.INTERNAL)
same("invalid parameters", status_of(lambda: call("demo.add", "x"))[0], grpc.StatusCode.INVALID_ARGUMENT)
same("a timeout", status_of(lambda: call("demo.sleep", 5, timeout=0.2))[0], grpc.StatusCode.DEADLINE_EXCEEDED)
same("too large", status_of(lambda: call("rpc.echo", "x" * 1_100_000))[0], grpc.StatusCode.RESOURCE_EXHAUSTED)
method = channel.unary_unary("/chanrpc.v1.Node/Absent")
same("an unknown method", status_of(lambda: method(b""))[0], grpc.StatusCode.UNIMPLEMENTED)
method = channel.unary_unary("/absent.Service/Method")
same("an unknown service", status_of(lambda: method(b""))[0], grpc.StatusCode.UNIMPLEMENTED)
small = protos.CallRequest(function="rpc.echo", params=json.dumps([large]))
code, _ = status_of(lambda: node.Call(small, compression=grpc.Compression.Gzip))
same("a compressed message", code, grpc.StatusCode.UNIMPLEMENTED)

future = node.Call.future(protos.CallRequest(function="demo.sleep", params="[20]"))
future.cancel()
check("cancelled after the beginning", future.cancelled())

health = health_pb2_grpc.HealthStub(channel)
SERVING = health_pb2.HealthCheckResponse.SERVING
same("health", health.Check(health_pb2.HealthCheckRequest()).status, SERVING)
known = health_pb2.HealthCheckRequest(service="chanrpc.v1.Node")
same("health of a service", health.Check(known).status, SERVING)
absent = health_pb2.HealthCheckRequest(service="absent")
same("health of no service", status_of(lambda: health.Check(absent))[0], grpc.StatusCode.NOT_FOUND)
watch = health.Watch(health_pb2.HealthCheckRequest())
same("health as a stream", next(watch).status, SERVING)
watch.cancel()

database = ProtoReflectionDescriptorDatabase(channel)
check("services by reflection", "chanrpc.v1.Node" in database.get_services(), database.get_services())
described = database.FindFileContainingSymbol("chanrpc.v1.Node")
compiled = descriptor_pb2.FileDescriptorProto()
protos.DESCRIPTOR.CopyToProto(compiled)
for message in [described, compiled]:
    for kind in message.message_type:
        for field in kind.field:
            field.ClearField("json_name")
check("the checked-in descriptors are what protoc makes of the .proto", described == compiled, described, compiled)
v1 = channel.stream_stream(
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
    response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
)
answers = list(v1(iter([reflection_pb2.ServerReflectionRequest(list_services="")])))
check("reflection v1", len(answers[0].list_services_response.service) == 4, answers)

events = node.Watch(protos.WatchRequest(topic="news"))
check("a topic", next(events).HasField("subscribed"))
same("published", call("rpc.publish", "news", {"text": "hello"}), 1)
event = next(events).event
same("an event", (event.topic, json.loads(event.data), event.HasField("age_ms")), ("news", {"text": "hello"}, False))
events.cancel()

# Several threads of one channel.
found = []
threads = [threading.Thread(target=lambda n=n: found.append(call("demo.add", n, 1))) for n in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
same("threads", sorted(found), list(range(1, 41)))
channel.close()
