"""Nodes, servers of NATS and stock clients: discovery, calls both ways, topics, and what callers see when something is
absent, slow, refused, failed or gone.

usage: fleet.py BINARY FOLDER"""

import asyncio
import contextlib
import json
import pathlib
import signal
import socket
import subprocess
import sys
import time

import nats
from nats.errors import NoRespondersError
from nats.micro import add_service

BINARY, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
# Long enough for a busy machine; nothing is as slow as this if all is well.
LIMIT = 30

NODE = """
name = "{name}"
[[listen]]
address = "127.0.0.1:0"
[limits]
forward_silence = "500ms"
connect_timeout = "1s"
[nats]
server = [{servers}]
{user}{nats}
{rest}
"""
SERVICE = """
[[function]]
name = "text.upper"
exec = ["tr", "a-z", "A-Z"]
output = "text"
[[function]]
name = "text.fail"
exec = ["sh", "-c", "echo no luck >&2; exit 7"]
[[function]]
name = "text.flood"
exec = ["seq", "40000"]
output = "text"
[[function]]
name = "text.slow"
exec = ["sleep", "1"]
output = "text"
[[function]]
name = "text.secret"
exec = ["echo", "1"]
"""
GATEWAY = """
[[function]]
name = "text.*"
forward = "nats"
[[function]]
name = "svc.*"
forward = "nats"
[[function]]
name = "weather"
forward = "nats"
subject = "svc.weather.now"
output = "text"
[[function]]
name = "refused"
forward = "nats"
subject = "forbidden.thing"
[[topic]]
name = "chat.*"
forward = "nats"
[[topic]]
name = "attic"
forward = "nats"
subject = "sensors.attic"
"""
# The users of the servers.
USERS = {"board": "board:secret", "stock": "stock:secret"}
SERVER = """
listen: 127.0.0.1:{port}
max_payload: 100KB
lame_duck_duration: 30s
lame_duck_grace_period: 2s
cluster {{ name: fleet, listen: 127.0.0.1:{cluster}, routes: [{routes}] }}
authorization {{
  users = [
    {{ user: board, password: secret, permissions: {{ publish: {{ deny: "forbidden.>" }} }} }}
    {{ user: stock, password: secret }}
  ]
}}
"""


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def say(text):
    print(f"ok      {text}", flush=True)


class Process:
    """A program that is killed at the end."""

    all = []

    def __init__(self, log, *command):
        self.log = FOLDER / log
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        Process.all.append(self)

    def send(self, number):
        self.child.send_signal(number)

    def end(self, number=signal.SIGKILL):
        self.send(number)
        return self.child.wait(LIMIT)


class Server(Process):
    def __init__(self, name, port, cluster, others):
        self.port, self.settings = port, (name, port, cluster, others)
        path = self.config = FOLDER / f"{name}.conf"
        routes = ", ".join(f'"nats://127.0.0.1:{other}"' for other in others)
        path.write_text(SERVER.format(port=port, cluster=cluster, routes=routes))
        super().__init__(f"{name}.log", "nats-server", "-c", str(path))

    def again(self):
        return Server(*self.settings)


class Node(Process):
    def __init__(self, name, servers, nats_keys, rest, user=f'user_file = "{FOLDER}/board"\n', line='exec "$0" "$@"'):
        config, ready = FOLDER / f"{name}.toml", FOLDER / f"{name}.ready"
        ready.unlink(missing_ok=True)
        listed = ", ".join(f'"nats://127.0.0.1:{port}"' for port in servers)
        text = NODE.format(name=name, servers=listed, user=user, nats=nats_keys, rest=rest)
        config.write_text(text)
        command = ["sh", "-c", line, BINARY, "serve", "--config", str(config), "--ready-file", str(ready), "--log", "debug"]
        super().__init__(f"{name}.log", *command)
        until = time.monotonic() + LIMIT
        while not (ready.exists() and ready.read_text().strip()):
            assert time.monotonic() < until and self.child.poll() is None, self.log.read_text()
            time.sleep(0.01)
        self.address = ready.read_text().split()[0]

    async def call(self, *arguments, timeout="10"):
        """Returns the exit code, what was printed, and the time that it took."""
        began = time.monotonic()
        command = [BINARY, "call", "--to", self.address, "--timeout", timeout, *arguments]
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = await asyncio.wait_for(child.communicate(), LIMIT)
        return child.returncode, out.decode().strip(), err.decode().strip(), time.monotonic() - began

    async def expect(self, code, text, *arguments, timeout="10"):
        """Calls a function, and checks the exit code and a part of what was printed."""
        found, out, err, took = await self.call(*arguments, timeout=timeout)
        assert found == code and text in out + err, (arguments, found, out, err)
        return took

    async def until_answers(self, *arguments):
        async def attempt():
            return (await self.call(*arguments, timeout="2"))[0] == 0

        await eventually(attempt, arguments)


async def eventually(check, what):
    until = time.monotonic() + LIMIT
    while not await check():
        assert time.monotonic() < until, what
        await asyncio.sleep(0.02)


async def ignore(_error):
    pass


async def client(port):
    async def attempt():
        with contextlib.suppress(OSError, nats.errors.Error):
            found.append(
                await nats.connect(
                    f"nats://127.0.0.1:{port}",
                    user="stock",
                    password="secret",
                    allow_reconnect=False,
                    connect_timeout=1,
                    error_cb=ignore,
                )
            )
        return bool(found)

    found = []
    await eventually(attempt, "a connection")
    return found[0]


async def stock_service(nc):
    """Functions of a stock service, called by `gateway`."""
    service = await add_service(nc, name="weather", version="1.0.0")

    async def hello(request):
        (name,) = json.loads(request.data)
        await request.respond(json.dumps(f"hello {name}").encode())

    async def now(request):
        await request.respond(b"21 C, no JSON")

    async def teapot(request):
        await request.respond_error("418", "teapot", b'{"kind":"stoneware"}')

    async def unavailable(request):
        await request.respond_error("503", "closed for today")

    async def deaf(request):
        seen.append(request.headers)

    seen = []
    for name, subject, handler in [
        ("hello", "chanrpc.svc.hello", hello),
        ("now", "svc.weather.now", now),
        ("teapot", "chanrpc.svc.teapot", teapot),
        ("unavailable", "chanrpc.svc.unavailable", unavailable),
        ("deaf", "chanrpc.svc.deaf", deaf),
    ]:
        await service.add_endpoint(name=name, subject=subject, handler=handler)
    await nc.flush()
    return seen


async def answers(nc, subject):
    """Returns what all services answer."""
    inbox, found = nc.new_inbox(), []
    subscription = await nc.subscribe(inbox)
    await nc.publish(subject, b"", reply=inbox)
    with contextlib.suppress(nats.errors.TimeoutError):
        while True:
            message = await subscription.next_msg(timeout=0.5)
            # Empty if there is no service.
            if message.data:
                found.append(json.loads(message.data))
    await subscription.unsubscribe()
    return found


async def found_and_called(nc, board):
    async def is_there():
        return any(one["name"] == "board" for one in await answers(nc, "$SRV.PING"))

    await eventually(is_there, "the service")
    (ping,) = await answers(nc, "$SRV.PING.board")
    assert ping["type"] == "io.nats.micro.v1.ping_response" and ping["version"].count(".") == 2, ping
    (info,) = await answers(nc, f"$SRV.INFO.board.{ping['id']}")
    assert info["type"] == "io.nats.micro.v1.info_response", info
    endpoints = {one["subject"]: one for one in info["endpoints"]}
    assert set(endpoints) == {f"chanrpc.text.{name}" for name in ["upper", "fail", "flood", "slow", "secret"]}, endpoints
    assert endpoints["chanrpc.text.upper"]["name"] == "text_upper"
    assert endpoints["chanrpc.text.upper"]["queue_group"] == "q"
    say("a node is found by $SRV.PING and $SRV.INFO, by name and id")

    reply = await nc.request("chanrpc.text.upper", b'{"a":1}', timeout=5)
    assert json.loads(reply.data).strip() == '{"A":1}', reply.data
    failed = await nc.request("chanrpc.text.fail", b"", timeout=5)
    assert failed.headers["Nats-Service-Error-Code"] == "-32013", failed.headers
    assert json.loads(failed.data)["data"]["exit"] == 7, failed.data
    flood = await nc.request("chanrpc.text.flood", b"", timeout=5)
    assert flood.headers["Nats-Service-Error-Code"] == "-32008", flood.headers
    bad = await nc.request("chanrpc.text.upper", b"{", timeout=5)
    assert bad.headers["Nats-Service-Error-Code"] == "-32700", bad.headers
    denied = await nc.request("chanrpc.text.secret", b"", timeout=5)
    assert denied.headers["Nats-Service-Error-Code"] == "-32002", denied.headers
    try:
        await nc.request("chanrpc.text.nothing", b"", timeout=5)
        raise AssertionError("somebody answers")
    except NoRespondersError:
        pass
    # Nobody waits for these, and they harm nobody.
    for _ in range(40):
        await nc.publish("chanrpc.text.upper", b"{")
    assert (await nc.request("chanrpc.text.upper", b"[]", timeout=5)).headers is None
    stats = (await answers(nc, "$SRV.STATS.board"))[0]
    upper = next(one for one in stats["endpoints"] if one["subject"] == "chanrpc.text.upper")
    assert stats["type"] == "io.nats.micro.v1.stats_response" and stats["started"].endswith("Z"), stats
    assert upper["num_requests"] == 2 and upper["average_processing_time"] > 0, upper
    say("a stock client calls functions, and sees errors, denials and absence")


async def javascript(gateway, port):
    script = pathlib.Path(__file__).parent / "services.js"
    child = Process("services.log", "node", str(script), str(port))

    async def has_told():
        assert child.child.poll() is None, child.log.read_text()
        return child.log.read_text().endswith("\n")

    await eventually(has_told, "services.js")
    told = json.loads(child.log.read_text())
    assert "chanrpc.text.upper" in told["endpoints"] and told["stats"] == ["io.nats.micro.v1.stats_response"], told
    assert "ANN" in told["upper"], told
    await gateway.expect(0, '"hello Ann"', "svc.js", "Ann")
    child.end()
    say("@nats-io/services finds and calls a node, and is called by another one")


async def four_answers(nc, gateway, deaf):
    await gateway.until_answers("svc.hello", "Ann")
    await gateway.expect(0, '"hello Ann"', "svc.hello", "Ann")
    await gateway.expect(0, '"21 C, no JSON"', "weather")
    absent = await gateway.expect(3, "no responders", "svc.nobody", timeout="20")
    assert absent < 10, absent
    await gateway.expect(4, "deadline", "svc.deaf", timeout="0.5")
    assert int(deaf[-1]["Rpc-Deadline-Ms"]) <= 500 and deaf[-1]["Rpc-Hops"] == "1", deaf
    refused = await gateway.expect(5, "permissions violation", "refused", timeout="20")
    assert refused < 10, refused
    await gateway.expect(1, "teapot (code 418)", "svc.teapot")
    # A service that says 503 is there.
    await gateway.expect(1, "closed for today (code 503)", "svc.unavailable")
    await gateway.expect(3, "no NATS subject", "svc.a..b")
    say("absent, slow, refused and failed are four answers")

    # One refused message does not end another call of the same connection, nor does one that is too long.
    slow = asyncio.create_task(gateway.call("text.slow"))
    await asyncio.sleep(0)
    await asyncio.gather(*(gateway.expect(5, "permissions violation", "refused") for _ in range(5)))
    large = FOLDER / "large.json"
    large.write_text(json.dumps(["x" * 150_000]))
    child = subprocess.run(
        [BINARY, "call", "--to", gateway.address, "text.upper", "--params", "-"],
        stdin=large.open(), capture_output=True, text=True, timeout=LIMIT,
    )
    assert child.returncode == 1 and "max_payload" in child.stderr and "-32007" in child.stderr, child
    assert (await slow)[0] == 0, await slow
    say("a message over max_payload is refused before it is sent")


async def permissions_changed(gateway, server):
    """A server that reads its configuration again refuses what it has allowed, and allows it again."""
    before = server.config.read_text()
    server.config.write_text(before.replace('"forbidden.>"', '["forbidden.>", "chanrpc.svc.hello"]'))
    server.send(signal.SIGHUP)

    async def is_refused():
        return (await gateway.call("svc.hello", "Ann"))[0] == 5

    await eventually(is_refused, "a refusal")
    server.config.write_text(before)
    server.send(signal.SIGHUP)
    await gateway.until_answers("svc.hello", "Ann")
    say("permissions that change on the server: refused, then allowed")


async def secured(port):
    """TLS, and a user with an NKey."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=FOLDER, timeout=LIMIT)

    new = ["req", "-newkey", "rsa:2048", "-nodes", "-batch"]
    openssl(*new, "-x509", "-subj", "/CN=fleet", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(*new, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr")
    (FOLDER / "names").write_text("subjectAltName = IP:127.0.0.1\n")
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"]
    openssl("x509", "-req", "-in", "server.csr", "-out", "server.pem", *signing)
    # Made by @nats-io/nkeys.
    (FOLDER / "seed").write_text("SUAL7P6QEAH56KSKFYVX4P4YWIVNU3Z3DK5KLRLLCTYRJC2JDPXVIQKCJM\n")
    (FOLDER / "secured.conf").write_text(
        f"""
        listen: 127.0.0.1:{port}
        tls {{ cert_file: "{FOLDER}/server.pem", key_file: "{FOLDER}/server.key" }}
        authorization {{ users = [ {{ nkey: UAHM6VA5HO6FUQ3IXXQDQKXKANWFMH75KGCLVVIGP32IJKBPRMZVVHTO }} ] }}
        """
    )
    server = Process("secured.log", "nats-server", "-c", str(FOLDER / "secured.conf"))
    tls, key = f'tls = {{ ca = "{FOLDER}/ca.pem" }}\n', f'nkey_file = "{FOLDER}/seed"\n'
    board = Node("secured-board", [port], 'offer = ["text.*"]\n' + tls, SERVICE, key)
    gateway = Node("secured-gateway", [port], tls, GATEWAY, key)
    await gateway.until_answers("text.upper")
    for keys, user, reason in [(tls, None, "Authorization Violation"), ("", key, "requires TLS")]:
        stranger = Node("stranger", [port], keys, GATEWAY, user or f'user_file = "{FOLDER}/board"\n')

        async def is_told():
            code, _, err, _ = await stranger.call("text.upper")
            return code == 3 and reason in err

        await eventually(is_told, reason)
        stranger.end()
    board.end(), gateway.end(), server.end()
    say("TLS and NKeys, and what is told without")


async def gone_and_back(gateway, server):
    call = asyncio.create_task(gateway.call("svc.deaf", timeout="20"))
    await asyncio.sleep(0.5)
    server.end()
    code, _, err, took = await call
    assert code == 3 and "lost" in err and took < 15, (code, err, took)
    # While it is gone, nobody waits.
    took = await gateway.expect(3, "no connection to nats://", "svc.hello", "Ann", timeout="20")
    assert took < 10, took
    say("kill -9 of the server: calls that were sent are lost, others are not sent, at once")
    return server.again()


async def frozen(gateway, server):
    call = asyncio.create_task(gateway.call("svc.deaf", timeout="20"))
    await asyncio.sleep(0.5)
    server.send(signal.SIGSTOP)
    code, _, err, took = await call
    assert code == 3 and "stopped responding" in err and took < 15, (code, err, took)
    took = await gateway.expect(3, "no connection to nats://", "svc.hello", "Ann", timeout="20")
    assert took < 10, took
    server.send(signal.SIGCONT)
    await gateway.until_answers("svc.hello", "Ann")
    say("SIGSTOP of the server: calls that were sent are lost after limits.forward_silence")


async def events(nc, gateway):
    watch = [BINARY, "watch", "--to", gateway.address, "--count", "2", "chat.*", "attic"]
    watcher = await asyncio.create_subprocess_exec(*watch, stdout=subprocess.PIPE)
    subscription = await nc.subscribe("chanrpc.chat.>")
    await nc.flush()

    async def arrives():
        await nc.publish("sensors.attic", b"21.5 C")
        await asyncio.sleep(0.05)
        return watcher.returncode is not None or b"attic" in watcher.stdout._buffer

    await eventually(arrives, "an event")
    publish = [BINARY, "publish", "--to", gateway.address, "chat.lobby", '{"text":"hi"}']
    subprocess.run(publish, check=True, timeout=LIMIT, stdout=subprocess.DEVNULL)
    message = await subscription.next_msg(timeout=LIMIT)
    assert (message.subject, message.data) == ("chanrpc.chat.lobby", b'{"text":"hi"}'), message
    out = (await asyncio.wait_for(watcher.communicate(), LIMIT))[0].decode()
    assert '"21.5 C"' in out, out
    await subscription.unsubscribe()
    say("events of topics go both ways")


async def lame_duck(first, ports):
    """All calls are answered while the server that they use stops and the other one takes over."""
    board = Node("moving-board", ports, 'offer = ["text.*"]\nprefix = "moving"', SERVICE)
    gateway = Node("moving-gateway", ports, 'prefix = "moving"', '[[function]]\nname = "text.*"\nforward = "nats"\n')
    await gateway.until_answers("text.upper")
    stopping = asyncio.Event()

    async def callers():
        codes = []
        while not stopping.is_set():
            code, _, err, _ = await gateway.call("text.upper")
            codes.append(err if code else 0)
        return codes

    running = [asyncio.create_task(callers()) for _ in range(3)]
    subprocess.run(["nats-server", "--signal", f"ldm={first.child.pid}"], check=True, timeout=LIMIT)
    await asyncio.to_thread(first.child.wait, 60)
    stopping.set()
    codes = sum(await asyncio.gather(*running), [])
    assert codes and not any(codes), set(codes)
    say(f"lame duck: {len(codes)} calls, all answered")
    board.end(), gateway.end()


async def offered(nc, board):
    """What a peer of a node offers comes and goes as an endpoint of the node."""
    offer = [BINARY, "offer", "--to", board.address, "text.late", "--", "cat"]
    peer = Process("offer.log", *offer)

    async def answers_late():
        with contextlib.suppress(NoRespondersError):
            return (await nc.request("chanrpc.text.late", b"[7]", timeout=5)).data == b"[7]"

    await eventually(answers_late, "the offer")
    peer.end()

    async def is_gone():
        try:
            await nc.request("chanrpc.text.late", b"[7]", timeout=5)
        except NoRespondersError:
            return True

    await eventually(is_gone, "the end of the offer")
    say("what a peer offers to a node comes and goes")


def listed(port, timeout="20", *options):
    command = [BINARY, "list", "--to", f"nats://127.0.0.1:{port}", "--creds", str(FOLDER / "board"), "--timeout", timeout, *options]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(child):
    """Returns the exit code, and what was printed."""
    try:
        out, err = child.communicate(timeout=LIMIT)
    finally:
        child.kill()
    return child.returncode, out, err


def empty(port):
    code, out, err = told(listed(port))
    assert (code, out) == (3, "") and "no service is at" in err, (code, out, err)
    say("a list of nobody is an error")


async def slow(port, board):
    """A list waits for a service that is slow."""
    code, out, err = told(listed(port))
    assert code == 0 and "text.upper" in out.split() and not err, (code, out, err)
    code, out, err = told(listed(f"{port}/elsewhere"))
    assert (code, out) == (0, "") and "none has a function below the prefix" in err, (code, out, err)
    board.send(signal.SIGSTOP)
    code, out, err = told(listed(port, "500ms"))
    assert (code, out) == (4, "") and "no service has answered" in err, (code, out, err)
    child = listed(port)
    await asyncio.sleep(1.5)
    assert child.poll() is None, told(child)
    board.send(signal.SIGCONT)
    code, out, err = told(child)
    assert code == 0 and "text.upper" in out.split(), (code, out, err)
    say("a list waits for a service that is slow")


async def reloads(port):
    """Nodes without stderr, with a full stdout and two threads, which load their configuration and its files again."""
    line = 'exec "$0" "$@" --threads 2 >/dev/full 2>&-'
    user = FOLDER / "quiet"
    user.write_text(USERS["board"])
    keys = f'user_file = "{user}"\n'
    rule = '[[access]]\nfunctions = ["*", "rpc.reload"]\n'
    board = Node("quiet-board", [port], 'offer = ["text.*"]\nprefix = "quiet"', rule + SERVICE, keys, line)
    forward = rule + '[[function]]\nname = "text.*"\nforward = "nats"\n'
    gateway = Node("quiet-gateway", [port], 'prefix = "quiet"', forward, keys, line)
    await gateway.until_answers("text.upper")
    config = FOLDER / "quiet-gateway.toml"
    stopping, counts = asyncio.Event(), []

    async def caller():
        while not stopping.is_set():
            await gateway.expect(0, "ANN", "text.upper", "ann")
            counts.append(1)

    callers = [asyncio.create_task(caller()) for _ in range(3)]
    before = config.read_text()
    for number in range(10):
        # Another connection, since the file is another, and a function that comes and goes.
        user.write_text(USERS["board"] + "\n" * number)
        extra = '[[function]]\nname = "svc.*"\nforward = "nats"\n' if number % 2 else ""
        config.write_text(before + extra)
        for node in (board, gateway):
            command = [BINARY, "reload", "--to", node.address]
            reload = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            out = (await asyncio.wait_for(reload.communicate(), LIMIT))[0]
            assert reload.returncode == 0, out
    stopping.set()
    await asyncio.gather(*callers)
    # The file cannot be used: nothing changes.
    user.write_text("")
    refused = subprocess.run([BINARY, "reload", "--to", gateway.address], capture_output=True, text=True, timeout=LIMIT)
    assert refused.returncode == 2 and "the file is empty" in refused.stderr, refused
    await gateway.expect(0, "ANN", "text.upper", "ann")
    for node in (board, gateway):
        assert node.end(signal.SIGTERM) == 0
    say(f"10 reloads, without stderr and with a full stdout: {len(counts)} calls, all answered")


async def drained(nc, board, gateway):
    """A node that stops answers what it has received."""
    await gateway.until_answers("text.upper")
    slow = [asyncio.create_task(nc.request("chanrpc.text.slow", b"", timeout=10)) for _ in range(4)]
    await asyncio.sleep(0.4)
    code = await asyncio.to_thread(board.end, signal.SIGTERM)
    assert code == 0, code
    for one in slow:
        assert (await one).headers is None
    await gateway.expect(3, "no responders", "text.upper")
    say("a node that stops answers what it has received, and is absent then")


async def main():
    for user, text in USERS.items():
        (FOLDER / user).write_text(text + "\n")
    ports = free_ports(5)
    first = Server("first", ports[0], ports[2], [])
    rule = '[[access]]\nlisten = ["nats"]\nfunctions = ["text.u*", "text.f*", "text.sl*", "text.late"]\n[[access]]\nlisten = ["127.0.0.1:0"]\nfunctions = ["*"]\noffer = ["*"]\n'
    await (await client(ports[0])).close()
    empty(ports[0])
    board = Node("board", ports[:1], 'offer = ["text.*"]', SERVICE + rule)
    gateway = Node("gateway", ports[:1], "", GATEWAY)
    nc = await client(ports[0])
    await found_and_called(nc, board)
    await slow(ports[0], board)
    seen = await stock_service(nc)
    await four_answers(nc, gateway, seen)
    await javascript(gateway, ports[0])
    await offered(nc, board)
    await events(nc, gateway)
    await permissions_changed(gateway, first)
    await reloads(ports[0])
    first = await gone_and_back(gateway, first)
    nc = await client(ports[0])
    seen = await stock_service(nc)
    await gateway.until_answers("svc.hello", "Ann")
    await frozen(gateway, first)
    await drained(nc, board, gateway)
    gateway.end()
    await nc.close()
    # Servers tell clients of each other.
    second = Server("second", ports[1], ports[3], [ports[2]])
    await (await client(second.port)).close()
    await lame_duck(first, ports[:1])
    await secured(ports[4])


# So that what was started ends too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("FAILED  ended by SIGTERM"))
try:
    asyncio.run(main())
finally:
    for process in Process.all:
        with contextlib.suppress(OSError):
            process.child.kill()