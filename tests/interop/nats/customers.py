"""Accounts of customers: a server whose users have JWTs, nodes and the command line with .creds files.

usage: customers.py BINARY FOLDER"""

import base64
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import nkeys

BINARY, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
# Long enough for a busy machine; nothing is as slow as this if all is well.
LIMIT = 30
CREDS = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""
NODE = """
name = "{name}"
[[listen]]
address = "127.0.0.1:0"
[nats]
server = "nats://127.0.0.1:{port}"
creds_file = "{creds}"
offer = ["who"]
[[function]]
name = "who"
exec = ["echo", "{name}"]
output = "text"
"""
ANY = {"subs": -1, "data": -1, "payload": -1}


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Key:
    def __init__(self, prefix):
        self.seed = nkeys.encode_seed(os.urandom(32), prefix).decode()
        self.pair = nkeys.from_seed(self.seed.encode())
        self.public = self.pair.public_key.decode()

    def says(self, kind, subject, name, claims):
        """Returns a JWT."""
        body = {"iat": int(time.time()), "iss": self.public, "name": name, "sub": subject}
        body["nats"] = {**claims, "type": kind, "version": 2}
        digest = hashlib.sha256(json.dumps(body).encode()).digest()
        body["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(encoded(json.dumps(part).encode()) for part in (header, body))
        return f"{text}.{encoded(self.pair.sign(text.encode()))}"


def customer(operator, name):
    """Creates an account with one user. Returns its name, its JWT and the user's .creds file."""
    account, user = Key(nkeys.PREFIX_BYTE_ACCOUNT), Key(nkeys.PREFIX_BYTE_USER)
    limits = {**ANY, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
    jwt = operator.says("account", account.public, name, {"limits": limits})
    path = FOLDER / f"{name}.creds"
    users = account.says("user", user.public, f"{name}-user", {"pub": {}, "sub": {}, **ANY})
    path.write_text(CREDS.format(jwt=users, seed=user.seed))
    return account.public, jwt, path


def run(*arguments):
    command = [BINARY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL, check=False)
    return done.returncode, done.stdout + done.stderr


def eventually(check, what):
    until = time.monotonic() + LIMIT
    while not check():
        assert time.monotonic() < until, what
        time.sleep(0.05)


def say(text):
    print(f"ok      {text}", flush=True)


def main(children):
    operator = Key(nkeys.PREFIX_BYTE_OPERATOR)
    accounts = [customer(operator, name) for name in ("acme", "bolt")]
    ports = FOLDER / "ports"
    ports.mkdir()
    config = FOLDER / "server.conf"
    preload = "\n".join(f"  {account}: {jwt}" for account, jwt, _ in accounts)
    config.write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{ports}"\n'
        f"operator: {operator.says('operator', operator.public, 'operator', {})}\n"
        f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"
    )
    log = (FOLDER / "server.log").open("w")
    server = subprocess.Popen(["nats-server", "-c", str(config)], stdout=log, stderr=log)
    children.append(server)
    found = lambda: [file for file in ports.iterdir() if file.read_text().endswith("}")]
    eventually(found, "the server")
    port = json.loads(found()[0].read_text())["nats"][0].rsplit(":", 1)[1]
    for (_, _, creds), name in zip(accounts, ("acme", "bolt"), strict=True):
        path = FOLDER / f"{name}.toml"
        path.write_text(NODE.format(name=name, port=port, creds=creds))
        command = [BINARY, "serve", "--config", str(path), "--log", "off"]
        children.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL))
    to = f"nats://127.0.0.1:{port}"
    acme, bolt = (["--to", to, "--creds", str(creds)] for _, _, creds in accounts)
    for options, name in ((acme, "acme"), (bolt, "bolt")):
        eventually(lambda: run("call", *options, "who") == (0, f'"{name}"\n'), f"the node of {name}")
        code, text = run("list", *options, "-v")
        assert code == 0 and text.count("\n") == 1 and f"(nats {name})" in text, text
    say("each customer finds and calls its own nodes, and no others, under the same name")

    code, text = run("call", "--to", to, "who")
    assert code == 3 and "Authorization Violation" in text, (code, text)
    swapped = FOLDER / "swapped.creds"
    lines = accounts[0][2].read_text().split("-----BEGIN USER")[0], accounts[1][2].read_text().split("-----BEGIN USER")[1]
    swapped.write_text("-----BEGIN USER".join(lines))
    code, text = run("call", "--to", to, "--creds", str(swapped), "who")
    assert code == 3 and "Authorization Violation" in text, (code, text)
    swapped.write_text("-----BEGIN NATS USER JWT-----\nx\n")
    code, text = run("call", "--to", to, "--creds", str(swapped), "who")
    assert code == 2 and "no seed of an NKey" in text, (code, text)
    say("without credentials, and with those of nobody, the server lets nobody in")

    # A server that loads its configuration again, with nodes and calls.
    for _ in range(5):
        server.send_signal(signal.SIGHUP)
        eventually(lambda: run("call", *acme, "who")[0] == 0, "calls after a reload of the server")
    # One customer is gone.
    config.write_text(config.read_text().replace(f"  {accounts[1][0]}: {accounts[1][1]}\n", ""))
    config.write_text("\n".join(line for line in config.read_text().split("\n") if accounts[1][0] not in line))
    server.send_signal(signal.SIGHUP)
    eventually(lambda: run("call", *bolt, "who")[0] == 3, "the end of an account")
    assert run("call", *acme, "who")[0] == 0
    say("a server that loads accounts again ends one, and not another")


# So that what was started ends too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("FAILED  ended by SIGTERM"))
started = []
try:
    main(started)
finally:
    for one in started:
        one.kill()
        one.wait()
