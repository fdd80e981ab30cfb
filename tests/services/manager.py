#!/usr/bin/env python3
"""manager.py CHANRPC: does for a node what systemd does for a service: listens for it, passes the sockets, hears of its
state, and restarts it while clients go on calling."""

import collections
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

CHANRPC = sys.argv[1]
RESTARTS = int(os.environ.get("RESTARTS", "8"))
WAIT = 20
OPEN = "[[access]]\nfunctions = ['*', 'rpc.reload']\n"
SLOW = "[[function]]\nname = 'slow'\nexec = ['sleep', '0.3']\n"


class Manager:
    """The sockets, the messages of the node, and the node."""

    def __init__(self, folder, addresses, notify):
        self.config = folder / "node.toml"
        self.log = open(folder / "log", "a+")
        self.sockets = [listening(*address) for address in addresses]
        self.addresses = [sock.getsockname()[:2] for sock in self.sockets]
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(notify.replace("@", "\0"))
        self.notify.settimeout(WAIT)
        self.environment = dict(os.environ, NOTIFY_SOCKET=notify)
        self.node = None

    def configure(self, text):
        self.config.write_text(OPEN + text)

    def start(self, *options, **environment):
        # The variables and the descriptors of a service, from 3.
        code = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); " \
            "[os.dup2(int(fd), 3 + at) for at, fd in enumerate(sys.argv[1].split())]; os.execv(sys.argv[2], sys.argv[2:])"
        # Above those that they become.
        passed = [os.dup(sock.fileno()) for sock in self.sockets]
        high = [os.dup2(fd, 100 + at) for at, fd in enumerate(passed)]
        [os.close(fd) for fd in passed]
        [os.set_inheritable(fd, True) for fd in high]
        command = [sys.executable, "-c", code, " ".join(map(str, high)), CHANRPC, "serve", "--config", str(self.config)]
        environment = dict(self.environment, LISTEN_FDS=str(len(high)), LISTEN_FDNAMES="x", **environment)
        self.node = subprocess.Popen([*command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=self.log,
                                     close_fds=False)
        [os.close(fd) for fd in high]

    def message(self):
        lines = self.notify.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def expect(self, key, value="1"):
        message = self.message()
        assert message.get(key) == value, f"{message} instead of {key}={value}"
        return message

    def started(self, **environment):
        self.start(**environment)
        return self.expect("READY")["STATUS"]

    def reload(self):
        self.node.send_signal(signal.SIGHUP)
        before = time.monotonic_ns() // 1000
        told = int(self.expect("RELOADING")["MONOTONIC_USEC"])
        assert abs(told - before) < WAIT * 1_000_000, f"{told} is not the time, {before}"
        return self.expect("READY")["STATUS"]

    def stop(self):
        self.node.terminate()
        self.expect("STOPPING")
        assert self.node.wait(WAIT) == 0

    def close(self):
        if self.node and self.node.poll() is None:
            self.node.kill()
        [sock.close() for sock in (*self.sockets, self.notify)]


def listening(host, port):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.listen(4096)
    return sock


def listen(*addresses):
    return "".join(f"[[listen]]\naddress = '{host}:{port}'\n" for host, port in addresses)


def call(address, method, params=()):
    """Calls over a connection of its own. Returns the reply, or None if the connection ends without one."""
    with socket.create_connection(address, WAIT) as sock:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            sock.sendall(json.dumps(request).encode() + b"\n")
            line = sock.makefile().readline()
        except (ConnectionResetError, BrokenPipeError):
            return None
        return json.loads(line) if line else None


def states(folder):
    first, second = ("127.0.0.1", 0), ("127.0.0.1", 0)
    for notify in (str(folder / "notify"), f"@chanrpc-{os.getpid()}"):
        manager = Manager(folder, (first, second), notify)
        one, two = manager.addresses
        manager.configure(listen(one, two))
        status = manager.started()
        assert f"{one[0]}:{one[1]}" in status and f"{two[0]}:{two[1]}" in status, status
        assert all(call(address, "rpc.ping")["result"] == "pong" for address in (one, two))
        assert manager.reload().startswith("listening on"), status

        manager.configure("nmae = 'x'\n")
        status = manager.reload()
        assert "changed nothing" in status and "nmae" in status, status

        # A socket that no stanza has is not closed: connections wait in it until one has it again.
        manager.configure(listen(one))
        assert f"{two[1]}" not in manager.reload()
        with socket.create_connection(two, WAIT) as waiting:
            waiting.sendall(b'{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}\n')
            manager.configure(listen(one, two))
            assert f"{two[1]}" in manager.reload()
            assert json.loads(waiting.makefile().readline())["result"] == "pong"
        manager.stop()

        # Without any stanza the node listens where the service manager does.
        manager.configure("")
        manager.started()
        assert call(two, "rpc.ping")["result"] == "pong"
        manager.stop()

        # A socket that nobody would accept from is told, by --check too.
        for options in ((), ("--check",)):
            manager.configure(listen(one))
            manager.start(*options)
            assert manager.node.wait(WAIT) == 2
        manager.log.seek(0)
        assert f"the service manager listens on {two[0]}:{two[1]}" in manager.log.read()

        manager.configure("")
        manager.started(WATCHDOG_USEC="40000")
        for _ in range(3):
            manager.expect("WATCHDOG")
        manager.close()


def restarts(folder):
    manager = Manager(folder, (("127.0.0.1", 0),), str(folder / "notify-restarts"))
    (address,) = manager.addresses
    manager.configure(listen(address) + SLOW)
    manager.started()
    done, counts = threading.Event(), collections.Counter()

    def count(kind, connected):
        while not done.is_set():
            try:
                counts[kind, connected()] += 1
            except OSError as error:
                counts[kind, type(error).__name__] += 1

    def outcome(reply):
        if reply is None:
            return "lost"
        return "answered" if "result" in reply else reply["error"]["code"]

    def single():
        return outcome(call(address, "rpc.ping"))

    def slow():
        return outcome(call(address, "slow"))

    def http():
        with socket.create_connection(address, WAIT) as sock:
            body = b'{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}'
            sock.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
                         % (len(body), body))
            reply = b"".join(iter(lambda: sock.recv(4096), b""))
            return "answered" if b"pong" in reply else "closed" if b" 503 " in reply else "lost"

    threads = [threading.Thread(target=count, args=(work.__name__, work)) for work in (single, single, slow, http)]
    [thread.start() for thread in threads]
    try:
        for _ in range(RESTARTS):
            time.sleep(0.3)
            manager.node.terminate()
            manager.expect("STOPPING")
            assert manager.node.wait(WAIT) == 0
            manager.started()
    finally:
        done.set()
        [thread.join() for thread in threads]
    manager.close()
    answered = sum(number for (_, how), number in counts.items() if how == "answered")
    print(f"        {RESTARTS} restarts, {answered} calls answered, others: "
          f"{ {key: number for key, number in counts.items() if key[1] != 'answered'} }")
    assert {kind for kind, how in counts if how == "answered"} == {"single", "slow", "http"}, counts
    # A call of a stopping node may be told that it stops. None is refused, and none is lost.
    assert {how for _, how in counts} <= {"answered", "closed", -32014}, counts


with tempfile.TemporaryDirectory() as name:
    for test in (states, restarts):
        test(pathlib.Path(name))
        print(f"ok      {test.__name__}")
