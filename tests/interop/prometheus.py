"""A Prometheus server with the configuration and the alerts of docs/operations.md, which reads a node's metrics."""

import json
import pathlib
import re
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request

from checks import check, fail, node_address, same

HOST, PORT = node_address()
GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def block(name):
    """Returns the YAML after the marker `name` in the guide."""
    found = re.search(f"<!-- {re.escape(name)} -->\n```yaml\n(.*?)```", GUIDE.read_text(), re.S)
    return found[1] if found else fail(f"{GUIDE.name} has {name}")


def get(url):
    with urllib.request.urlopen(url, timeout=20) as reply:
        return reply.read().decode()


def call(method, *params):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    with urllib.request.urlopen(f"http://{HOST}:{PORT}/", body, timeout=20) as reply:
        return json.load(reply)


def promtool(*arguments, text=None):
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, timeout=60)
    check(f"promtool {' '.join(arguments[:2])}", done.returncode == 0, done.stdout, done.stderr)


class Server:
    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.api = f"http://127.0.0.1:{port}/api/v1"
        self.log = pathlib.Path(folder, "log")
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                   f"--web.listen-address=127.0.0.1:{port}"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log.open("w"))

    def ask(self, path):
        return json.loads(get(self.api + path))["data"]

    def query(self, expression):
        return self.ask("/query?" + urllib.parse.urlencode({"query": expression}))["result"]

    def eventually(self, what, holds):
        for _ in range(600):
            try:
                seen = holds()
            except OSError:
                seen = None
            if seen or self.process.poll() is not None:
                break
            time.sleep(0.1)
        check(what, bool(seen), self.log.read_text()[-2000:])
        return seen

    def stop(self):
        self.process.kill()
        self.process.wait()


def main(folder):
    for name in ("prometheus.yml", "chanrpc.rules.yml"):
        pathlib.Path(folder, name).write_text(block(name))
    promtool("check", "config", f"{folder}/prometheus.yml")
    promtool("check", "metrics", text=get(f"http://{HOST}:{PORT}/metrics"))
    text = block("prometheus.yml").replace("15s", "1s").replace("board.local:7300", f"{HOST}:{PORT}")
    pathlib.Path(folder, "prometheus.yml").write_text(text)
    server = Server(folder)
    try:
        server.eventually("the node is up", lambda: [s for s in server.query('up{job="chanrpc"}') if s["value"][1] == "1"])
        version = call("rpc.info")["result"]["version"]
        same("its version", server.query("chanrpc_build_info")[0]["metric"]["version"], version)
        quantile = ('histogram_quantile(0.95, sum by (function, le) '
                    '(rate(chanrpc_function_duration_seconds_bucket{function="demo.add"}[1m])))')

        def has_quantile():
            call("demo.add", 1, 2)
            found = server.query(quantile)
            return found and found[0]["value"][1] != "NaN" and found
        found = server.eventually("a percentile of a function", has_quantile)
        check("  within the histogram's bounds", 0 < float(found[0]["value"][1]) <= 30, found)

        def rules():
            groups = server.ask("/rules")["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            return rules if rules and all(rule["health"] == "ok" for rule in rules) else None
        found = server.eventually("the alerts can be evaluated", rules)
        same("six of them, none active", [rule["state"] for rule in found], ["inactive"] * 6)
    finally:
        server.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(temporary)
