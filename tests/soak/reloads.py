"""Reloads a node again and again under load: no call may be lost, and no memory held.

    reloads.py BINARY COUNT

Callers of four dialects call builtin functions, programs, a program that stays and another node, all the time. Each reload
changes some of that; the calls must be answered as if nothing happened.
"""

import base64
import collections
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

BINARY, COUNT = sys.argv[1], int(sys.argv[2])
WAIT = 30
# The share of the reloads before the first measurement.
WARM_UP = 0.2
SLACK_KIB = 2048
# Programs that run at the moment have some.
SLACK_DESCRIPTORS = 100
OPEN = "[[access]]\nname = 'n{number}'\nfunctions = ['*', 'rpc.reload']\nsubscribe = ['*']\n"
WORKER = r"""
import sys, json
for line in sys.stdin:
    call = json.loads(line)
    print(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": call["params"]}), flush=True)
"""
counts = collections.Counter()
failures = []


def config(number, far, worker):
    """Everything that a reload can change, at its own pace."""
    return f"""
{OPEN.format(number=number)}
[limits]
drain = "{1 + number % 3}s"
depth = {100 + number // 10 % 3}
[workers]
count = {200 + number % 5}
queue = 1000
[[listen]]
address = "127.0.0.1:0"
{'[[listen]]' if number % 2 else ''}
{'address = "localhost:0"' if number % 2 else ''}
[[process]]
name = "worker"
run = ["{sys.executable}", "{worker}"]
in_flight = {8 + number // 25 % 2}
[[function]]
name = "stays"
process = "worker"
[[function]]
name = "program"
exec = ["echo", "{number}"]
concurrency = {4 + number % 3}
queue = 1000
[[function]]
name = "far.*"
forward = "{far}"
{'description = "odd"' if number % 2 else ''}
[[function]]
name = "number{number % 7}"
exec = ["echo", "{number}"]
[[topic]]
name = "t"
"""


class Node:
    def __init__(self, folder, name, text):
        self.file, ready = folder / f"{name}.toml", folder / f"{name}.ready"
        self.file.write_text(text)
        self.log = open(folder / f"{name}.log", "w")
        command = [BINARY, "serve", "--log", "warn", "--config", str(self.file), "--ready-file", str(ready)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log)
        until = time.monotonic() + WAIT
        while not (ready.exists() and ready.read_text().endswith("\n")):
            assert time.monotonic() < until and self.process.poll() is None, f"{name} does not listen"
            time.sleep(0.02)
        host, port = ready.read_text().split()[0].rsplit(":", 1)
        self.address = host, int(port)

    def holdings(self):
        proc = pathlib.Path(f"/proc/{self.process.pid}")
        status = (proc / "status").read_text()
        memory = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
        return memory, len(os.listdir(proc / "fd"))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT) == 0


class Lines:
    def __init__(self, address):
        self.socket = socket.create_connection(address, WAIT)
        self.file = self.socket.makefile("rb")

    def call(self, method, params):
        self.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())
        return json.loads(self.receive())

    def send(self, text):
        self.socket.sendall(text + b"\n")

    def receive(self):
        line = self.file.readline()
        assert line, "the connection has ended"
        return line


class Http(Lines):
    def send(self, text):
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n"
        self.socket.sendall(head.encode() + text)

    def receive(self):
        length = 0
        while (line := super().receive()) != b"\r\n":
            name, _, value = line.decode().partition(":")
            length = int(value) if name.lower() == "content-length" else length
        return self.file.read(length)


class WebSocket(Lines):
    def __init__(self, address):
        super().__init__(address)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        assert b" 101 " in super().receive()
        while super().receive() != b"\r\n":
            pass

    def send(self, text):
        length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + struct.pack(">H", len(text))
        self.socket.sendall(b"\x81" + length + bytes(4) + text)

    def receive(self):
        kind, length = self.file.read(2)
        assert kind == 0x81, f"a frame {kind:#x}"
        return self.file.read(struct.unpack(">H", self.file.read(2))[0] if length == 126 else length)


class MessagePack(Lines):
    """Knows one call: rpc.echo of a number."""

    def call(self, method, params):
        assert method == "rpc.echo"
        (number,) = params
        self.socket.sendall(b"\x94\x00\x01\xa8rpc.echo\x91" + bytes([number]))
        expected = b"\x94\x01\x01\xc0\x91" + bytes([number])
        received = self.file.read(len(expected))
        return {"result": params} if received == expected else {"error": received.hex()}


def caller(dialect, address, method, stop):
    try:
        client, number = dialect(address), 0
        while not stop.is_set():
            number = (number + 1) % 100
            reply = client.call(method, [number] if method != "program" else [])
            expected = reply.get("result") if method == "program" else [number]
            if "error" in reply or reply["result"] != expected:
                raise AssertionError(f"{method} over {dialect.__name__}: {reply}")
            counts[method, dialect.__name__] += 1
    except Exception as error:
        failures.append(repr(error))


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    far = Node(folder, "far", "[[access]]\nfunctions = ['*']\n[[listen]]\naddress = '127.0.0.1:0'\n"
                              "[[function]]\nname = 'far.echo'\nexec = ['cat']\noutput = 'json'\nconcurrency = 8\n")
    target = "{}:{}".format(*far.address)
    near = Node(folder, "near", config(0, target, worker))
    stop = threading.Event()
    work = [(dialect, method) for dialect in (Lines, Http, WebSocket)
            for method in ("rpc.echo", "program", "stays", "far.echo")] + [(MessagePack, "rpc.echo")]
    threads = [threading.Thread(target=caller, args=(dialect, near.address, method, stop)) for dialect, method in work]
    operator = Lines(near.address)
    assert "result" in operator.call("rpc.subscribe", ["t"])
    until = time.monotonic() + WAIT
    while "error" in operator.call("far.echo", [1]):
        assert time.monotonic() < until, "the other node is not there"
    [thread.start() for thread in threads]
    began, before = time.monotonic(), None
    for number in range(1, COUNT + 1):
        near.file.write_text(config(number, target, worker))
        reply = operator.call("rpc.reload", [])
        assert "result" in reply, reply
        assert operator.call(f"number{number % 7}", [])["result"] == str(number)
        if number == int(COUNT * WARM_UP):
            before = near.holdings()
        if failures:
            break
    took, after = time.monotonic() - began, near.holdings()
    stop.set()
    [thread.join() for thread in threads]
    if not failures:
        near.stop()
        far.stop()
    print(f"{number} reloads in {took:.0f} s, {sum(counts.values())} calls; "
          f"memory and descriptors {before} then {after}")
    print("calls: " + ", ".join(f"{method} {dialect} {count}" for (method, dialect), count in sorted(counts.items())))
    print((folder / "near.log").read_text()[-1500:] if failures else "")
    [node.process.kill() for node in (near, far)]
    assert not failures, failures
    assert len(counts) == len(work), "a caller was never answered"
    assert after[0] <= before[0] + SLACK_KIB and after[1] <= before[1] + SLACK_DESCRIPTORS, "the node has grown"
