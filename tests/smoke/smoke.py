"""Tests a release binary: it is static, starts, serves every dialect, runs programs, forwards to a node built for another
target, and exits as documented. Called by ci/smoke."""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
import urllib.request

from websockets.sync.client import connect

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
WINDOWS = os.name == "nt"
# Long enough for an emulator on a busy machine.
LONG = 60
# The DLLs that every Windows 10 has.
SYSTEM_DLLS = re.compile(
    r"(?i)(kernel32|ntdll|ws2_32|msvcrt|ucrtbase|advapi32|userenv|bcrypt|bcryptprimitives|api-ms-win-[\w-]+)\.dll"
)


def check(what, held, *seen):
    if not held:
        sys.exit(f"FAILED  {what}: {', '.join(map(repr, seen))}")
    print(f"ok      {what}", flush=True)


class Binary:
    """A binary and the command that runs it here."""

    def __init__(self, path, runner):
        self.command = [*shlex.split(runner), str(path)]
        self.windows = str(path).endswith(".exe")

    def run(self, *arguments, **options):
        return subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=LONG, **options)

    def start(self, *arguments):
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if WINDOWS else {}
        return subprocess.Popen(
            [*self.command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, **group
        )


class Node:
    """A node on a port chosen by the system."""

    def __init__(self, binary, *options):
        self.process = binary.start("serve", "--log", "warn", *options)
        line = self.process.stdout.readline()
        if not line.startswith("listening on 127.0.0.1:"):
            sys.exit(f"FAILED  a node starts: {line!r}, exit code {self.process.wait(LONG)}")
        self.address = line.split()[-1]

    def stop(self):
        """Stops it like a service manager; returns its exit code."""
        self.process.send_signal(signal.CTRL_BREAK_EVENT if WINDOWS else signal.SIGINT)
        return self.process.wait(LONG)


@contextlib.contextmanager
def serving(binary, *options):
    node = Node(binary, *options)
    try:
        yield node
    finally:
        node.process.kill()
        node.process.wait()


def linkage(path):
    if path.suffix == ".exe":
        headers = subprocess.run(["objdump", "-p", path], capture_output=True, text=True, check=True).stdout
        needed = re.findall(r"DLL Name: (.*)", headers)
        check(
            f"only DLLs of the system: {', '.join(sorted(set(needed)))}",
            needed and all(SYSTEM_DLLS.fullmatch(dll) for dll in needed),
            needed,
        )
        return
    sections = subprocess.run(["readelf", "-dlW", path], capture_output=True, text=True, check=True).stdout
    check(
        "static: no dynamic section, no interpreter",
        "no dynamic section" in sections and "INTERP" not in sections,
        sections,
    )


def request(method, params, number=1):
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def dialects(node):
    host, port = node.address.split(":")
    with socket.create_connection((host, int(port)), timeout=LONG) as tcp:
        tcp.sendall((request("demo.add", [2, 3]) + "\n" + request("demo.divide", [17, 5], 2) + "\n").encode())
        lines = tcp.makefile()
        answers = {reply["id"]: reply["result"] for reply in (json.loads(lines.readline()), json.loads(lines.readline()))}
    check("JSON-RPC over TCP", answers == {1: 5, 2: [3, 2]}, answers)

    body = request("demo.add", [20, 22]).encode()
    head = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"http://{node.address}/", body, head), timeout=LONG) as http:
        answer = json.load(http)
    check("JSON-RPC over HTTP", answer == {"jsonrpc": "2.0", "id": 1, "result": 42}, answer)
    with urllib.request.urlopen(f"http://{node.address}/healthz", timeout=LONG) as http:
        check("GET /healthz", http.status == 200, http.status)
    with urllib.request.urlopen(f"http://{node.address}/metrics", timeout=LONG) as http:
        check("GET /metrics", b"chanrpc_connections" in http.read())

    with connect(f"ws://{node.address}/", open_timeout=LONG) as ws:
        ws.send(request("demo.add", ["no", "numbers"]))
        answer = json.loads(ws.recv(LONG))
        check("JSON-RPC over WebSocket: an error", answer["error"]["code"] == -32602, answer)
        ws.send(request("demo.add", [-1, 1]))
        answer = json.loads(ws.recv(LONG))
    check("JSON-RPC over WebSocket", answer["result"] == 0, answer)


def command_line(binary, node):
    def expect(code, out, *arguments):
        done = binary.run(*arguments)
        shown = " ".join(arguments).replace(node.address, "A")
        check(
            f"exit code {code}: {shown}",
            done.returncode == code and out in done.stdout.replace("\r\n", "\n"),
            done.returncode,
            done.stdout,
            done.stderr,
        )

    to = ("--to", node.address)
    expect(0, "5\n", "call", *to, "demo.add", "2", "3")
    expect(0, '[{"a":[1,"ü"]}]\n', "call", *to, "--params", '[{"a": [1, "ü"]}]', "rpc.echo")
    expect(0, "", "go", *to, "demo.count", "5")
    expect(0, "demo.add\n", "list", *to)
    expect(1, "", "call", *to, "demo.divide", "1", "0")
    expect(2, "", "call", "--no-such-option")
    expect(3, "", "call", *to, "no.such.function")
    expect(4, "", "call", *to, "--timeout", "0.1", "demo.sleep", "60")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()[1]
    expect(3, "", "call", "--to", f"127.0.0.1:{nobody}", "rpc.ping")
    # It waits in the node until the signal arrives.
    call = binary.start("call", *to, "--timeout", "60", "demo.sleep", "50")
    while calls_in_flight(node) == 0:
        if call.poll() is not None:
            check("a call to interrupt waits", False, call.returncode)
    call.send_signal(signal.CTRL_BREAK_EVENT if WINDOWS else signal.SIGINT)
    check("exit code 130: an interrupted call", call.wait(LONG) == 130, call.returncode)


def calls_in_flight(node):
    with urllib.request.urlopen(f"http://{node.address}/metrics", timeout=LONG) as http:
        return int(re.search(r"^chanrpc_calls_in_flight (\d+)", http.read().decode(), re.M)[1])


CONFIGURATION = """
name = "a"
[[listen]]
address = "127.0.0.1:0"
[[function]]
name = "say"
exec = {program}
params = {{ text = "string" }}
[[function]]
name = "fail"
exec = ["no-such-program"]
[[function]]
name = "demo.*"
forward = "{peer}"
[[function]]
name = "nobody"
forward = "127.0.0.1:1"
"""


def in_a_row(binary, node, directory):
    """A node with a configuration: programs, and functions of a node of another target."""
    program = ["cmd", "/d", "/c", "echo", "{text}"] if binary.windows else ["echo", "{text}"]
    file = pathlib.Path(directory) / "a.toml"
    file.write_text(CONFIGURATION.format(program=json.dumps(program), peer=node.address))
    # Wine maps the root directory to drive Z.
    path = str(file) if WINDOWS or not binary.windows else f"Z:{file}"
    done = binary.run("serve", "--check", "--config", path)
    check("serve --check", done.returncode == 0, done)

    with serving(binary, "--config", path) as a:
        to = ("--to", a.address)
        done = binary.run("call", *to, "say", "hello")
        check("a program as a function", (done.returncode, done.stdout.strip()) == (0, '"hello"'), done)
        done = binary.run("call", *to, "fail")
        check("a program that is not there", done.returncode in (1, 3) and "no-such-program" in done.stderr, done)
        done = binary.run("call", *to, "demo.add", "40", "2")
        check("a forwards to b, of another target", (done.returncode, done.stdout.strip()) == (0, "42"), done)
        done = binary.run("call", *to, "demo.divide", "1", "0")
        check("b's error comes through a", done.returncode == 1, done)
        done = binary.run("call", *to, "nobody")
        check("exit code 3: forwarded to nobody", done.returncode == 3, done)
        check("a stops cleanly", a.stop() == 0, a.process.returncode)


def openssl(directory, arguments):
    environment = {**os.environ, "MSYS2_ARG_CONV_EXCL": "*"}
    subprocess.run(["openssl", *shlex.split(arguments)], cwd=directory, env=environment, capture_output=True, check=True)


CERTIFICATE = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout node.key -out node.pem -days 2"
NAMES = "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"

FULL = """
[[listen]]
address = "127.0.0.1:0"
tls = {{ certificate = {certificate}, key = {key} }}
[[access]]
functions = ["*"]
[[function]]
name = "away.*"
forward = "grpc://{peer}"
service = "chanrpc.v1.Node"
[[function]]
name = "cloud.*"
forward = "nats"
[nats]
server = "nats://{nats}"
"""


def all_features(binary, directory):
    """gRPC in both directions, over TLS, and a connection to a server of NATS."""
    import grpc

    directory = pathlib.Path(directory)
    openssl(directory, f"{CERTIFICATE} {NAMES}")
    with serving(binary, "--listen", "127.0.0.1:0") as peer, socket.create_server(("127.0.0.1", 0)) as nats:
        nats.settimeout(LONG)
        path = lambda name: str(directory / name) if WINDOWS or not binary.windows else f"Z:{directory / name}"
        file = directory / "full.toml"
        certificate, key = json.dumps(path("node.pem")), json.dumps(path("node.key"))
        server = "127.0.0.1:%d" % nats.getsockname()[1]
        file.write_text(FULL.format(certificate=certificate, key=key, peer=peer.address, nats=server))
        with serving(binary, "--config", path("full.toml")) as node:
            text = lambda number, value: bytes([number << 3 | 2, len(value)]) + value.encode()
            credentials = grpc.ssl_channel_credentials((directory / "node.pem").read_bytes())
            port = node.address.split(":")[1]
            with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
                call = channel.unary_unary("/chanrpc.v1.Node/Call")
                ask = lambda function, params: call(text(1, function) + text(2, params), timeout=LONG, wait_for_ready=True)
                answer = ask("rpc.echo", "[40,2]")
                check("gRPC over TLS", answer == text(1, "[40,2]"), answer)
                answer = ask("away.call", '["demo.add","[40,2]"]')
                check("a call of a gRPC server", answer == text(1, '{"result":"42"}'), answer)
            server, _ = nats.accept()
            with server:
                server.settimeout(LONG)
                server.sendall(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576,"headers":true}\r\n')
                line = server.makefile("rb").readline()
                check("a connection to NATS", line.startswith(b"CONNECT {"), line)
            check("it stops cleanly", node.stop() == 0, node.process.returncode)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--binary", type=pathlib.Path, required=True)
    options.add_argument("--runner", default="", help="what runs it here")
    options.add_argument("--peer", type=pathlib.Path, required=True, help="a binary for another target")
    options.add_argument("--peer-runner", default="")
    options.add_argument("--full", action="store_true", help="it has all features")
    options = options.parse_args()
    binary, peer = Binary(options.binary, options.runner), Binary(options.peer, options.peer_runner)

    linkage(options.binary)
    done = binary.run("--version")
    version = f"chanrpc {VERSION}" + " (tls, grpc, nats)" * options.full
    check(f"--version: {version}", (done.returncode, done.stdout.strip()) == (0, version), done)
    done = binary.run("--help")
    check("--help", done.returncode == 0 and "serve" in done.stdout, done)
    with serving(binary, "--listen", "127.0.0.1:0") as node:
        dialects(node)
        command_line(binary, node)
        check("it stops cleanly", node.stop() == 0, node.process.returncode)
    with tempfile.TemporaryDirectory() as directory, serving(peer, "--listen", "127.0.0.1:0") as node:
        in_a_row(binary, node, directory)
    if options.full:
        with tempfile.TemporaryDirectory() as directory:
            all_features(binary, directory)


main()
