"""Runs two nodes under mixed load, and checks that they hold no more resources at the end than at the beginning.

    soak.py BINARY SECONDS

Peers of every dialect call programs, another node and builtin functions. They cancel calls, send invalid input, read
slowly, disconnect during calls, present tokens, and connect by the thousand. After the load, memory, descriptors, threads,
child processes and connections of both nodes are compared with their values after the first seconds of the same load.
"""

import base64
import collections
import hashlib
import json
import os
import pathlib
import random
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

PEERS = 12
# The share of the time before the first measurement, in which buffers and tables grow to their size.
WARM_UP = 0.2
# The allowed difference in memory, because allocators do not return all freed memory.
SLACK_KIB = 4096
CONNECTIONS = 10_000
WAIT = 20

TOKEN = "soak-" + "t" * 40
counts = collections.Counter()
failures = []


def config(far):
    """The functions of the front node; it forwards to the other."""
    return f"""
name = "soak"
[[listen]]
address = "127.0.0.1:0"
[[listen]]
address = "localhost:0"
[limits]
connections = {CONNECTIONS + 200}
stall_timeout = "2s"
head_timeout = "2s"
deadline = "10s"
[[access]]
listen = ["localhost:0"]
functions = ["rpc.*"]
token = "sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}"
[[function]]
name = "cat"
exec = ["cat"]
output = "json"
concurrency = 4
queue = 64
[[function]]
name = "nap"
exec = ["sleep", "{{seconds}}"]
params = {{ seconds = "string" }}
concurrency = 8
queue = 64
[[function]]
name = "fail"
exec = ["false"]
concurrency = 2
queue = 64
[[function]]
name = "demo.*"
forward = "{far}"
"""


class Node:
    """A running node, its metrics, and its resource usage as reported by the system."""

    def __init__(self, binary, folder, name, arguments):
        ready = folder / f"{name}.ready"
        self.name = name
        self.log = open(folder / f"{name}.log", "w+")
        self.process = subprocess.Popen(
            [binary, "serve", "--ready-file", ready, "--log", "warn", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.log,
        )
        end = time.monotonic() + WAIT
        while not (ready.exists() and ready.read_text().endswith("\n")):
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"{name} does not listen: {pathlib.Path(self.log.name).read_text()}")
            time.sleep(0.05)
        self.addresses = [parse(line) for line in ready.read_text().split()]

    def state(self):
        proc = pathlib.Path("/proc") / str(self.process.pid)
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        with Peer(self.addresses[0]) as peer:
            stats = peer.line("rpc.stats", [])["result"]["node"]
        tasks = list((proc / "task").iterdir())
        children = " ".join((task / "children").read_text() for task in tasks)
        return {
            "memory (KiB)": int(status["VmRSS"].split()[0]),
            "descriptors": len(list((proc / "fd").iterdir())),
            "threads": len(tasks),
            "children": len(children.split()),
            "calls in flight": stats["in_flight"],
            "connections": stats["connections"],
        }

    def settled(self, goal=None):
        """Returns the state once nothing is in flight and it no longer changes, or once it meets the goal."""
        last, end = None, time.monotonic() + WAIT
        while True:
            state = self.state()
            quiet = state["calls in flight"] == 0 and state["children"] == 0
            same = last and not worse(last, state) and not worse(state, last)
            if time.monotonic() > end or quiet and (not worse(goal, state) if goal else same):
                return state
            last = state
            time.sleep(3)


def worse(before, after):
    """Returns the values that have grown."""
    slack = {"memory (KiB)": SLACK_KIB}
    return [key for key in before if after[key] > before[key] + slack.get(key, 0)]


def parse(address):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


class Peer:
    """One connection. Its failures are OSErrors."""

    def __init__(self, address, timeout=WAIT):
        self.socket = socket.create_connection(address, timeout)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def take(self, size):
        data = self.file.read(size)
        if len(data) != size:
            raise OSError("the connection ended")
        return data

    def read_line(self):
        data = self.file.readline()
        if not data.endswith(b"\n"):
            raise OSError("the connection ended")
        return data

    def line(self, method, params, id=1):
        self.send(request(id, method, params) + b"\n")
        return json.loads(self.read_line())

    def head(self):
        status, length = int(self.read_line().split()[1]), 0
        while (line := self.read_line().strip()):
            name, value = line.split(b":", 1)
            if name.lower() == b"content-length":
                length = int(value)
        return status, length

    def http(self, method, path, body=b""):
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self.send(head.encode() + body)
        status, length = self.head()
        return status, self.take(length)

    def upgrade(self):
        key = base64.b64encode(random.randbytes(16)).decode()
        self.send(
            f"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        expect(self.head()[0] == 101, "an upgrade")

    def frame(self, opcode, payload):
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 65536:
            length = b"\xfe" + struct.pack(">H", size)
        else:
            length = b"\xff" + struct.pack(">Q", size)
        self.send(bytes([0x80 | opcode]) + length + bytes(4) + payload)

    def read_frame(self):
        first, size = self.take(2)
        if size == 126:
            size = struct.unpack(">H", self.take(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", self.take(8))[0]
        return first & 15, self.take(size)


def request(id, method, params, **more):
    identity = {} if id is None else {"id": id}
    return json.dumps({"jsonrpc": "2.0", **identity, "method": method, "params": params, **more}).encode()


def expect(holds, what):
    """Records a fault of the node."""
    if not holds:
        raise AssertionError(what)


def asked(id):
    """A call and its expected result; None if it may fail."""
    n = random.randrange(1000)
    return random.choice(
        [
            lambda: (request(id, "rpc.echo", [n, "x" * n]), [n, "x" * n]),
            lambda: (request(id, "rpc.ping", []), "pong"),
            lambda: (request(id, "demo.add", [n, 1]), n + 1),
            lambda: (request(id, "demo.panic", []), None),
            lambda: (request(id, "cat", [n]), None),
            lambda: (request(id, "nap", ["0.01"]), None),
            lambda: (request(id, "nap", ["5"], meta={"deadline_ms": 20}), None),
            lambda: (request(id, "fail", []), None),
            lambda: (request(id, "no.such.function", []), None),
        ]
    )()


def check(reply, expected):
    is_reply = reply.get("jsonrpc") == "2.0" and ("result" in reply) != ("error" in reply)
    expect(is_reply, f"no reply: {reply}")
    if expected is not None:
        expect(reply.get("result") == expected, f"{reply} instead of {expected}")


def lines(node):
    """Concurrent calls, some of which are cancelled."""
    with Peer(node.addresses[0]) as peer:
        calls = {id: asked(id) for id in range(30)}
        for text, _ in calls.values():
            peer.send(text + b"\n")
        taken_back = random.sample(list(calls), 5)
        for id in taken_back:
            peer.send(request(None, "$/cancelRequest", {"id": id}) + b"\n")
        peer.send(request(None, "rpc.ping", []) + b"\n")
        for _ in list(calls):
            reply = json.loads(peer.read_line())
            expected = calls.pop(reply["id"])[1]
            check(reply, None if reply["id"] in taken_back else expected)


def batches(node):
    with Peer(node.addresses[0]) as peer:
        calls = [asked(id) for id in range(20)]
        peer.send(b"[" + b",".join(text for text, _ in calls) + b"]\n")
        for reply in json.loads(peer.read_line()):
            check(reply, calls[reply["id"]][1])


def http(node):
    with Peer(node.addresses[0]) as peer:
        for id in range(10):
            text, expected = asked(id)
            status, body = peer.http("POST", "/rpc", text)
            expect(status == 200, f"status {status}")
            check(json.loads(body), expected)
        for path in ("/", "/healthz", "/metrics"):
            expect(peer.http("GET", path)[0] == 200, path)
        expect(peer.http("POST", "/", request(None, "rpc.ping", []))[0] == 202, "a notification")


def websocket(node):
    with Peer(node.addresses[0]) as peer:
        peer.upgrade()
        for id in range(10):
            text, expected = asked(id)
            peer.frame(1, text)
            peer.frame(9, b"ping")
            for _ in range(2):
                opcode, payload = peer.read_frame()
                if opcode == 1:
                    check(json.loads(payload), expected)
                else:
                    expect((opcode, payload) == (10, b"ping"), "a pong")
        if random.random() < 0.5:
            peer.frame(8, struct.pack(">H", 1000))
            expect(peer.read_frame()[0] == 8, "a close")


def headers(node):
    with Peer(node.addresses[0]) as peer:
        for id in range(10):
            text, expected = asked(id)
            peer.send(f"Content-Length: {len(text)}\r\n\r\n".encode() + text)
            size = int(peer.read_line().split(b":")[1])
            expect(peer.read_line() == b"\r\n", "the end of a header")
            check(json.loads(peer.take(size)), expected)


def msgpack(node):
    with Peer(node.addresses[0]) as peer:
        for id in range(10):
            peer.send(b"\x94\x00" + bytes([id]) + b"\xa8rpc.echo\x91" + bytes([id]))
            expect(peer.take(5) == bytes([0x94, 1, id, 0xC0, 0x91]), "an answer")
            expect(peer.take(1) == bytes([id]), "its result")


def tokens(node):
    with Peer(node.addresses[1]) as peer:
        expect(peer.line("rpc.info", [])["error"]["code"] == -32002, "a denial")
        expect("error" in peer.line("rpc.auth", {"token": "wrong"}), "a wrong token")
        expect("result" in peer.line("rpc.auth", {"token": TOKEN}), "the right token")
        expect("result" in peer.line("rpc.info", []), "an answer")
    with Peer(node.addresses[1]) as peer:
        expect(peer.http("GET", "/metrics")[0] == 401, "a denial over HTTP")


def big(node):
    with Peer(node.addresses[0]) as peer:
        text = "x" * random.randrange(100_000, 900_000)
        check(peer.line("rpc.echo", [text]), [text])
        peer.send(request(2, "rpc.echo", ["x" * (1 << 20)]) + b"\n")
        expect(json.loads(peer.read_line())["error"]["code"] == -32007, "too large")
        check(peer.line("rpc.ping", []), "pong")


def nonsense(node):
    """Random bytes: the node replies or closes the connection; does not wait long for either."""
    with Peer(node.addresses[0], 1) as peer:
        start = random.choice([b"", b"GET ", b"POST / HTTP/1.1\r\n", b"\x94\x00", b"Content-Length: ", b"{", b"\x16\x03\x01"])
        try:
            peer.send(start + random.randbytes(random.randrange(2000)))
            peer.socket.shutdown(socket.SHUT_WR)
            while peer.socket.recv(65536):
                pass
        except OSError:
            pass


def leaves(node):
    """Disconnects during calls, in an orderly way or not."""
    with Peer(node.addresses[0]) as peer:
        if random.random() < 0.5:
            peer.upgrade()
            peer.frame(1, request(1, "nap", ["5"]))
        else:
            for id in range(5):
                peer.send(request(id, random.choice(["nap", "demo.sleep"]), ["5"] if id % 2 else [5]) + b"\n")
        if random.random() < 0.5:
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def slow_reader(node):
    """Sends requests without reading, until it is cut off."""
    with Peer(node.addresses[0], WAIT) as peer:
        text = request(1, "rpc.echo", ["x" * 500_000]) + b"\n"
        try:
            for _ in range(200):
                peer.send(text)
        except OSError:
            return
    raise AssertionError("a slow reader was not cut off")


def slow_head(node):
    with Peer(node.addresses[0]) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: loc")
        try:
            while peer.socket.recv(4096):
                pass
        except ConnectionError:
            pass


def come_and_go(node):
    for _ in range(50):
        with Peer(node.addresses[0]) as peer:
            if random.random() < 0.5:
                peer.send(random.choice([b"{", b"GET", b"\x94"]))


DEEDS = [lines] * 6 + [batches, http, http, websocket, websocket, headers, msgpack, tokens, big, nonsense, leaves, come_and_go]
RARE = [slow_reader, slow_head]


def load(node, until):
    """Runs concurrent peers until the given time."""

    def run(number):
        while time.monotonic() < until and not failures:
            deed = random.choice(RARE if number == 0 else DEEDS)
            try:
                deed(node)
                counts[deed.__name__] += 1
            except Exception:
                failures.append(f"{deed.__name__}: {traceback.format_exc()}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(PEERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def crowd(node):
    """Ten thousand concurrent connections from one host, or as many as this process may open; each is answered."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    size = min(CONNECTIONS, soft - 200)
    open_ones = []
    for _ in range(size):
        open_ones.append(socket.create_connection(node.addresses[0], WAIT))
        open_ones[-1].sendall(request(1, "rpc.ping", []) + b"\n")
    for peer in open_ones:
        expect(b"pong" in peer.recv(4096), "one of the crowd is not answered")
    for peer in open_ones:
        peer.close()
    counts["connections at once"] = size


def main():
    binary, seconds = pathlib.Path(sys.argv[1]).resolve(), float(sys.argv[2])
    # The nodes inherit the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        far = Node(binary, folder, "far", ["--listen", "127.0.0.1:0"])
        file = folder / "soak.toml"
        file.write_text(config("{}:{}".format(*far.addresses[0])))
        near = Node(binary, folder, "near", ["--config", file])
        nodes = [near, far]
        try:
            soak(nodes, near, seconds)
        finally:
            for node in nodes:
                node.process.terminate()
            codes = [node.process.wait(WAIT) for node in nodes]
        if codes != [0, 0]:
            sys.exit(f"the nodes ended with {codes}")


def soak(nodes, near, seconds):
    begin = time.monotonic()
    crowd(near)
    load(near, time.monotonic() + seconds * WARM_UP)
    before = [node.settled() for node in nodes]
    print("the first part is done", flush=True)
    load(near, max(begin + seconds, time.monotonic() + seconds * WARM_UP))
    if not failures:
        crowd(near)
    after = [node.settled(goal) for node, goal in zip(nodes, before)]
    print(f"{time.monotonic() - begin:.0f} s;", ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    bad = []
    for node, one, two in zip(nodes, before, after):
        for key in one:
            print(f"{node.name:6}{key:18}{one[key]:>10}{two[key]:>10}")
        bad += [f"{node.name}: {key}" for key in worse(one, two)]
    if failures:
        sys.exit("\n".join(failures[:3]))
    missing = {deed.__name__ for deed in DEEDS + RARE} - counts.keys()
    if missing and seconds >= 60:
        sys.exit(f"never done: {missing}")
    if bad:
        sys.exit(f"more than at the beginning: {', '.join(bad)}")


main()
