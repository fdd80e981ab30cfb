"""Tests the page that a node serves, in headless Chromium. Usage: page.py BINARY CHROMIUM SCREENSHOT-FOLDER"""

import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

from browser import NAMELESS, PALE, PHONE, WATCH
from checks import check, fail, same
from playwright.sync_api import expect, sync_playwright

BINARY, CHROMIUM = sys.argv[1:3]
FOLDER = pathlib.Path(sys.argv[3])
HTML = "<img src=x onerror=window.injected=1>"


class Node:
    """A node process; `start` after `kill` reuses the port."""

    def __init__(self, config=None):
        self.address = "127.0.0.1:0"
        self.config = config
        self.start()

    def start(self):
        command = [BINARY, "serve", "--log", "warn", "--listen", self.address]
        if self.config:
            command += ["--config", self.config]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            fail("the node listens", line)
        self.address = line.split()[-1]
        self.url = f"http://{self.address}/"

    def kill(self):
        self.process.kill()
        self.process.wait()


class Watched:
    """A page, and the errors that must not occur on it."""

    def __init__(self, browser, node, **context):
        self.node = node
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(15_000)
        self.context.add_init_script(WATCH)
        self.page = page = self.context.new_page()
        self.complaints, self.hosts = [], set()
        page.on("console", lambda message: message.type in ("error", "warning") and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.hosts.add(re.sub(r"^\w+://([^/]*)/.*", r"\1", request.url)))
        page.on("websocket", lambda socket: self.hosts.add(re.sub(r"^\w+://([^/]*)/.*", r"\1", socket.url)))
        page.goto(node.url)
        self.is_connected()

    def is_connected(self):
        expect(self.page.locator("#status")).to_have_text("connected", timeout=15_000)

    def choose(self, name):
        self.page.locator("#list .name", has_text=re.compile(rf"^{re.escape(name)}(\(|$)")).click()
        expect(self.page.locator("#chosen")).to_have_text(name)

    def call(self, name, outcome, result=None, how="#sync", **fields):
        """Calls a function through the form and checks the displayed reply."""
        self.choose(name)
        for label, value in fields.items():
            self.page.locator("#form").get_by_label(re.compile(f"^{label}", re.I)).fill(value)
        self.page.click(how)
        expect(self.page.locator("#outcome")).to_have_text(re.compile(outcome))
        if result is not None:
            expect(self.page.locator("#result")).to_have_text(result)
        print(f"ok      {name} {' '.join(fields.values())[:80]}: {outcome} {result or ''}")

    def fits(self):
        """Nothing extends beyond the width of the screen."""
        width, screen = self.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        check(f"nothing is wider than {screen} px", width <= screen, width)

    def accessible(self):
        same("every control has a name", self.page.evaluate(NAMELESS), [])
        same("every text can be told from its ground", self.page.evaluate(PALE), [])

    def screenshot(self, name):
        self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(path=FOLDER / f"{name}.png", full_page=True)

    def end(self, complaints=0):
        same("nothing was injected", self.page.evaluate("[window.injected ?? 0, document.images.length]"), [0, 0])
        same("the policy was never violated", self.page.evaluate("window.violations"), [])
        same("no other host was asked", self.hosts, {self.node.address})
        same("the console is silent", self.complaints[complaints:], [])
        self.context.close()


def lists(watched):
    page = watched.page
    expect(page.locator("#name")).to_have_text("chanrpc")
    expect(page.locator("#about")).to_have_text(re.compile(r"^chanrpc \d+\.\d+\.\d+ · up "))
    add = page.locator("#list button", has_text="demo.add")
    expect(add).to_contain_text("native")
    expect(add).to_contain_text("1 result")
    expect(page.locator("#list button", has_text="demo.divide")).to_contain_text("n results")
    expect(page.locator("#list button", has_text="demo.reset")).to_contain_text("no result")
    expect(page.locator("#list button", has_text="rpc.list")).to_contain_text("(pattern?: string, verbose?: boolean)")
    print("ok      the functions, with kinds, providers and parameters")
    page.fill("#filter", "DEMO.")
    expect(page.locator("#list button")).to_have_count(6)
    page.fill("#filter", "")
    groups = page.locator("#list summary")
    expect(groups).to_have_text([re.compile(r"^demo \d+$"), re.compile(r"^rpc \d+$")])
    groups.first.click()
    expect(page.locator("#list button", has_text="demo.add")).to_be_hidden()
    groups.first.click()
    expect(page.locator("#list button", has_text="demo.add")).to_be_visible()
    print("ok      the filter, and groups by prefix")
    page.locator("h1").click()
    page.keyboard.press("/")
    page.keyboard.type("count")
    page.keyboard.press("Enter")
    expect(page.locator("#chosen")).to_have_text("demo.count")
    page.fill("#filter", "")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#chosen")).to_have_text("demo.count")
    print("ok      the keyboard reaches the filter and the list")


def calls(watched):
    page = watched.page
    watched.call("demo.add", "^answered$", "5", a="2", b="3")
    expect(page.locator("#took")).to_have_text(re.compile(r"^\d+(\.\d)? ms$"))
    expect(page.locator("#log .entry").first).to_have_text(
        re.compile(r"^\d\d:\d\d:\d\ddemo\.add\[2, 3\]5\d+(\.\d)? ms$"))
    watched.call("demo.divide", "^answered$", "[3,2]", a="17", b="5")
    watched.call("rpc.list", "^answered$", "[]", pattern="nothing like it")
    watched.call("rpc.echo", "^answered$", '["two words", "x", 12345678901234567890, {"a": [1, 2]}]',
                 parameters='"two words" x 12345678901234567890 \'{"a": [1, 2]}\'')
    page.get_by_label("Parameters").fill('{"b": 1}')
    page.get_by_label("Parameters").press("Enter")
    expect(page.locator("#result")).to_have_text('{"b": 1}')
    print("ok      Enter calls")
    watched.call("demo.reset", "^answered$", "null")
    watched.call("demo.count", "^sent$", "", how="#go", by="5")
    expect(page.locator("#log li").first).to_contain_text("sent")
    watched.call("demo.count", "^answered$", "6", by="1")


def history(watched):
    """A call of the history is shown with its parameters and answer, is made again, and survives a reload."""
    page = watched.page
    watched.call("demo.add", "^answered$", "42", a="20", b="22")
    watched.call("demo.divide", "^answered$", "[3,2]", a="17", b="5")
    page.locator("#log .entry", has_text="[20, 22]").first.click()
    expect(page.locator("#chosen")).to_have_text("demo.add")
    same("its parameters are in the form", [page.get_by_label(re.compile(f"^{name} ")).input_value() for name in "ab"], ["20", "22"])
    expect(page.locator("#result")).to_have_text("42")
    calls = page.locator("#log li").count()
    page.get_by_label("Call demo.divide again").first.click()
    expect(page.locator("#result")).to_have_text("[3,2]")
    expect(page.locator("#log li")).to_have_count(calls + 1)
    page.reload()
    watched.is_connected()
    expect(page.locator("#log .entry").first).to_contain_text("demo.divide[17, 5][3,2]")
    print("ok      calls are shown again, made again, and kept")


def commands(watched):
    """The commands that the page shows do what the page does."""
    page = watched.page
    page.locator("#commands summary").click()
    for name, fields in [("demo.divide", {"a": "17", "b": "5"}), ("rpc.list", {"pattern": "demo.*"}),
                         ("rpc.echo", {"parameters": """"it's" {"a":[1]} 12345678901234567890 '"2"' -5"""})]:
        watched.call(name, "^answered$", **fields)
        shown = json.loads(page.evaluate("JSON.stringify(document.getElementById('result').textContent)"))
        for how in ("chanrpc", "curl"):
            command = page.locator(f"#{how}").text_content()
            done = subprocess.run(["sh", "-c", command.replace("chanrpc ", f"'{BINARY}' ", 1) if how == "chanrpc" else
                                   command.replace("curl ", "curl --silent --show-error ", 1)], capture_output=True, text=True)
            check(command, done.returncode == 0, done.stderr)
            got = done.stdout if how == "chanrpc" else re.search(r'"result":(.*),?"id":1|"result":(.*)}$', done.stdout)
            got = got if how == "chanrpc" else next(group for group in got.groups() if group).rstrip(",")
            same(f"{how}: {command[:60]}", json.loads(got), json.loads(shown))
    page.locator("#commands summary").click()


def links(watched):
    page = watched.page
    url = page.url.split("#")[0]
    page.goto(url + "#demo.add=%5B40%2C2%5D")
    expect(page.locator("#chosen")).to_have_text("demo.add")
    same("a link fills the form", [page.get_by_label(re.compile(f"^{name} ")).input_value() for name in "ab"], ["40", "2"])
    expect(page.locator("#answer")).to_be_hidden()
    page.goto(url + "#demo.add=%5B9007199254740993,%201e2%5D")
    expect(page.locator("#preview")).to_have_text("[9007199254740993, 1e2]")
    print("ok      no digit of a link is lost")
    page.goto(url + "#no.such.function")
    expect(page.locator("#chosen")).to_have_text("no.such.function")
    page.click("#sync")
    expect(page.locator("#outcome")).to_have_text(re.compile("^error -32601: "))
    page.goto(url + "#%")
    watched.choose("demo.add")
    check("the address names what is chosen", page.url.endswith("#demo.add"), page.url)


def health(watched):
    page = watched.page
    for _ in range(20):
        watched.call("demo.add", "^answered$", "3", a="1", b="2")
    row = page.locator("#rows tr", has_text="demo.add")
    expect(row.locator("td").nth(2)).to_have_text(re.compile(r"^\d+(\.\d)? (µs|ms)$"), timeout=15_000)
    tiles = page.locator("#tiles dt").all_text_contents()
    same("the node's figures", tiles[:4], ["calls/s", "errors/s", "in flight", "connections"])


def first_click(watched):
    """The form starts with values that a function accepts."""
    for name, result in [("demo.add", "2"), ("demo.divide", "[1,0]"), ("demo.count", None), ("demo.reset", "null"),
                         ("demo.sleep", "1.0"), ("rpc.echo", "null"), ("rpc.info", None), ("rpc.list", None),
                         ("rpc.ping", "pong"), ("rpc.stats", None)]:
        watched.call(name, "^answered$", result)


def errors(watched):
    page = watched.page
    watched.call("demo.divide", "^error -32602: .*must not be 0", "", a="1", b="0")
    expect(page.locator("#log li").first).to_contain_text("error -32602")
    watched.call("demo.panic", "^error -32603: ")
    watched.call("rpc.echo", "^error -32700: .*limits.depth", parameters="[" * 200 + "]" * 200)
    expect(page.locator("#log li").first).to_contain_text("error -32700")
    watched.call("demo.sleep", "^error -32003: ", seconds="60", deadline="50")
    page.fill("#deadline", "")
    watched.call("demo.sleep", "^waiting$", "", seconds="60")
    page.click("#cancel")
    expect(page.locator("#outcome")).to_have_text(re.compile("^error -32800: "))
    print("ok      a call is cancelled")
    watched.call("demo.sleep", "^waiting$", "", seconds="59")
    watched.call("demo.sleep", "^waiting$", "", seconds="58")
    page.locator("#log .entry", has_text="[59]").first.click()
    page.click("#cancel")
    expect(page.locator("#log .entry", has_text="[59]").first).to_contain_text("-32800")
    expect(page.locator("#log .entry", has_text="[58]").first).to_contain_text("waiting")
    print("ok      the call that is shown is the one that is cancelled")
    page.locator("#log .entry", has_text="[58]").first.click()
    page.click("#cancel")
    expect(page.locator("#outcome")).to_have_text(re.compile("^error -32800: "))
    watched.call("rpc.subscribe", "^answered$", topic="page.test")
    watched.call("demo.sleep", "^waiting$", "", seconds="1")
    page.evaluate("""fetch("rpc", {method: "POST", body: '{"jsonrpc":"2.0","id":1,"method":"rpc.publish","params":["page.test",1]}'})""")
    expect(page.locator("#result")).to_have_text("1.0")
    print("ok      an event is no answer")


def html(watched):
    page = watched.page
    watched.call("rpc.echo", "^answered$", f'["{HTML}"]', parameters=f'"{HTML}"')
    expect(page.locator("#log li").first).to_contain_text(HTML)


def comes_back(watched):
    page, node = watched.page, watched.node
    same("nothing to complain about so far", watched.complaints, [])
    watched.call("demo.sleep", "^waiting$", seconds="60")
    node.kill()
    expect(page.locator("#outcome")).to_have_text("lost")
    expect(page.locator("#log li").first).to_contain_text("lost")
    expect(page.locator("#status")).to_have_text("connection lost")
    expect(page.locator("#wait")).to_have_text(re.compile(r"^· trying( again in \d s)?$"))
    expect(page.locator("#sync")).to_be_disabled()
    print("ok      the node was killed, and the page says so")
    watched.accessible()
    watched.screenshot("desktop-lost")
    up = page.locator("#about").text_content()
    node.start()
    watched.is_connected()
    expect(page.locator("#about")).to_have_text(re.compile(r" · up \d s$"))
    check("the page tells how long the new node is up", " · up " not in up, up)
    expect(page.locator("#chosen")).to_have_text("demo.sleep")
    expect(page.get_by_label("seconds")).to_have_value("60")
    print("ok      what was typed is still there")
    watched.call("demo.count", "^answered$", "1")
    # The browser itself reports a port without a listener.
    others = [text for text in watched.complaints if not text.startswith("WebSocket connection to 'ws://127.0.0.1:")]
    same("the browser complained about the lost connection only", others, [])


def falls_silent(watched):
    """A node that does not respond, as if the network were down: no connection closes by itself."""
    page, process = watched.page, watched.node.process
    watched.choose("rpc.ping")
    process.send_signal(signal.SIGSTOP)
    try:
        expect(page.locator("#status")).to_have_text("connection lost", timeout=15_000)
    finally:
        process.send_signal(signal.SIGCONT)
    watched.is_connected()
    watched.call("rpc.ping", "^answered$", "pong")


def token(watched):
    page = watched.page
    same("no protocol is offered without a token", page.evaluate("offered.filter((list) => list.length)"), [])
    use_token(page, "secret-1")
    page.wait_for_function("offered.at(-1).length > 0")
    same("with a token it is", page.evaluate("offered.at(-1)"), ["chanrpc", "chanrpc.bearer.secret-1"])
    same("token and calls are kept for this tab", page.evaluate("[Object.keys(sessionStorage).sort(), localStorage.length]"),
         [["chanrpc.calls", "chanrpc.token"], 0])
    use_token(page, "")
    watched.is_connected()


def use_token(page, token):
    field = page.get_by_label("Token, if")
    if not field.is_visible():
        page.get_by_text("Token", exact=True).click()
    field.fill(token)
    page.get_by_role("button", name="Use").click()


def guarded(browser, folder):
    """A node with access rules: public functions, functions that need a token, and an invalid token."""
    made = subprocess.run([BINARY, "token"], capture_output=True, text=True, check=True)
    secret, digest = made.stdout.strip(), re.search(r"sha256:\w+", made.stderr)[0]
    config = pathlib.Path(folder, "guarded.toml")
    config.write_text(f"""
[[access]]
functions = ["rpc.*"]
[[access]]
functions = ["greet"]
token = "{digest}"
[[function]]
name = "greet"
exec = ["echo", "-n", "hi"]
""")
    node = Node(config)
    try:
        watched = Watched(browser, node)
        listed = watched.page.locator("#list .name")
        expect(listed.filter(has_text="rpc.ping")).to_have_count(1)
        expect(listed.filter(has_text="greet")).to_have_count(0)
        print("ok      what needs a token is not shown without one")
        use_token(watched.page, "none-of-this-node")
        expect(watched.page.locator("#status")).to_have_text("the node refused this token")
        expect(watched.page.locator("#wait")).to_have_text("")
        print("ok      a refused token is told, and not tried again")
        use_token(watched.page, secret)
        watched.is_connected()
        watched.call("greet", "^answered$", "hi")
        same("nobody complained but of the token that is none", [
            text for text in watched.complaints if "HTTP Authentication failed" not in text and "status of 401" not in text
        ], [])
        watched.context.close()
    finally:
        node.kill()


def telephone(browser, node):
    watched = Watched(browser, node, **PHONE)
    watched.call("demo.divide", "^error -32602: ", a="1", b="0")
    for n in range(20):
        watched.call("demo.add", "^answered$", str(n), a=str(n), b="0")
    watched.fits()
    watched.accessible()
    watched.call("rpc.list", "^answered$", pattern="demo.*")
    watched.screenshot("phone-dark")
    watched.end()


def strange_functions(browser, demo, folder):
    """Names of maximum length, HTML in a description, parameters of each type, a family of functions."""
    config = pathlib.Path(folder, "node.toml")
    config.write_text(f"""
name = "board-{'a' * 50}"
[[function]]
name = "greet"
description = "{HTML}"
exec = ["echo", "{{who}} {{times}} {{scale}} {{loud}}"]
params = {{ who = "string", times = "integer", scale = "number", loud = "boolean" }}
[[function]]
name = "demo.*"
forward = "{demo.address}"
[[function]]
name = "board.bytes"
exec = ["printf", '\\377\\000\\001']
output = "base64"
[[function]]
name = "board.table"
exec = ["printf", 'name size\\nroot 5\\n']
params = {{ unit = {{ type = "string", choices = ["kB", "MB"], default = "MB" }} }}
[[function]]
name = "{'w' * 128}"
description = "{'long ' * 40}"
exec = ["echo", "-n", "x"]
""")
    node = Node(config)
    try:
        watched = Watched(browser, node, **PHONE)
        page = watched.page
        expect(page.locator("#list button", has_text="demo.*")).to_contain_text("→ " + demo.address)
        expect(page.locator("#list button", has_text="greet")).to_contain_text(HTML)
        watched.call("demo.*", "^answered$", "5", function="demo.add", parameters="2 3")
        while not page.locator("#list button", has_text="demo.add").count():
            page.click("#refresh")
            page.wait_for_timeout(50)
        watched.call("demo.add", "^answered$", "7", a="3", b="4")
        watched.choose("greet")
        page.get_by_label("who").fill("Ada")
        page.get_by_label("loud").check()
        page.get_by_label("times").fill("")
        page.click("#sync")
        same("a number that is missing is asked for", page.evaluate("document.activeElement.labels[0].textContent"),
             "times * integer")
        page.get_by_label("times").fill("3")
        page.get_by_label("scale").fill("0.5")
        page.click("#sync")
        expect(page.locator("#result")).to_have_text("Ada 3 0.5 true")
        print("ok      typed parameters reach a program")
        watched.choose("board.table")
        same("choices are a list", page.locator("#fields option").all_text_contents(), ["–", "kB", "MB"])
        watched.call("board.table", "^answered$", "name size\nroot 5")
        watched.choose("board.bytes")
        page.click("#sync")
        expect(page.locator("#took")).to_contain_text("3 bytes")
        with page.expect_download() as download:
            page.click("#save")
        same("bytes are a file", (download.value.suggested_filename, pathlib.Path(download.value.path()).read_bytes()),
             ("board.bytes.bin", b"\xff\x00\x01"))
        watched.choose("w" * 128)
        page.get_by_label("Parameters").fill('"' + "y" * 500 + '"')
        page.click("#sync")
        expect(page.locator("#outcome")).to_have_text("answered")
        watched.fits()
        page.get_by_text("Token", exact=True).click()
        watched.fits()
        page.get_by_text("Token", exact=True).click()
        watched.accessible()
        watched.screenshot("phone-odd-names")
        watched.end()
    finally:
        node.kill()


def offers(browser, node):
    """The page of docs/offers.md offers a function."""
    text = pathlib.Path(__file__).parents[2].joinpath("docs/offers.md").read_text()
    script = re.search(r"## A page in a browser\n.*?```js\n(.*?)```", text, re.S)[1]
    watched = Watched(browser, node)
    watched.page.evaluate("() => {" + script + "}")
    command = [BINARY, "call", "--to", node.address, "page.title"]
    for _ in range(100):
        called = subprocess.run(command, capture_output=True, text=True)
        if called.returncode == 0:
            break
        watched.page.wait_for_timeout(50)
    same("a page offers a function", called.stdout.strip(), '"chanrpc – chanrpc"')
    watched.end()
    for _ in range(100):
        called = subprocess.run(command, capture_output=True, text=True)
        if called.returncode == 3:
            break
    same("until it is closed", called.returncode, 3)


def policy(browser, node):
    """Actions that the page never takes are blocked as well."""
    watched = Watched(browser, node)
    page = watched.page
    held = page.evaluate("""async () => {
      const failed = [];
      try { document.body.innerHTML = "<b>x</b>"; } catch { failed.push("html"); }
      try { await fetch("http://127.0.0.1:1/"); } catch { failed.push("fetch"); }
      return failed;
    }""")
    same("the policy lets in neither HTML nor another host", held, ["html", "fetch"])
    page.wait_for_function("violations.length === 2")
    watched.context.close()


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    node = Node()
    try:
        with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
            browser = playwright.chromium.launch(executable_path=CHROMIUM)
            print(f"Chromium {browser.version}")
            watched = Watched(browser, node, color_scheme="light", viewport={"width": 1280, "height": 860})
            for part in (lists, first_click, calls, errors, html, history, commands, links, health):
                part(watched)
            watched.accessible()
            watched.fits()
            watched.call("rpc.info", "^answered$")
            watched.screenshot("desktop-light")
            comes_back(watched)
            complaints = len(watched.complaints)
            watched.end(complaints)
            telephone(browser, node)
            strange_functions(browser, node, folder)
            offers(browser, node)
            policy(browser, node)
            guarded(browser, folder)
            watched = Watched(browser, node)
            falls_silent(watched)
            token(watched)
            watched.context.close()
            browser.close()
    finally:
        node.kill()


main()
