"""grpcio: a server with a core in C, and its function in Python. The message is decoded by hand, since only the core is
compared.

usage: grpcio.py PORT"""

import concurrent.futures
import sys

import grpc


def add(request, context):
    # Two positive numbers of one byte each, as fields 1 and 2.
    return bytes([8, request[1] + request[3]])


# By default it refuses calls while a thousand wait.
unlimited = [("grpc.server.max_pending_requests", 1 << 30), ("grpc.server.max_pending_requests_hard_limit", 1 << 30)]
server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), options=unlimited)
handlers = {"Add": grpc.unary_unary_rpc_method_handler(add)}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Adder", handlers),))
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
