"""Three browsers and a client of Leaf play the lobby of examples/lobby: they log in, chat and play cards; one of them loses
the connection and comes back. Usage: lobby.py LOBBY CHROMIUM SCREENSHOT-FOLDER"""

import json
import pathlib
import re
import socket
import subprocess
import sys
import threading

from browser import NAMELESS, PALE, PHONE, WATCH
from checks import check, fail, same
from playwright.sync_api import expect, sync_playwright

LOBBY, CHROMIUM = sys.argv[1:3]
FOLDER = pathlib.Path(sys.argv[3])
DESKTOP = {"viewport": {"width": 1180, "height": 780}}


class Lobby:
    """The lobby, and the terminal of its operator."""

    def __init__(self):
        command = [LOBBY, "127.0.0.1:0", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        found = re.fullmatch(r"open http://127\.0\.0\.1:(\d+)/ .* 127\.0\.0\.1:(\d+)\n", line)
        if not found:
            fail("the lobby starts", line)
        self.port, self.leaf_port = map(int, found.groups())

    def tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()


class Relay:
    """A network between a browser and the lobby, which can be cut."""

    def __init__(self, port):
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.open, self.is_cut = [], False
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            near = self.listener.accept()[0]
            with self.lock:
                if self.is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self.target))
                self.open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self.pump, args=(one, other), daemon=True).start()

    @staticmethod
    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        with self.lock:
            self.is_cut = True
            for end in self.open:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.open = []

    def mend(self):
        with self.lock:
            self.is_cut = False


class Leaf:
    """A client as Leaf's tutorial has it: JSON objects with one key, after a length of two bytes."""

    def __init__(self, port):
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.messages = []

    def send(self, name, data):
        body = json.dumps({name: data}).encode()
        self.stream.sendall(len(body).to_bytes(2, "big") + body)

    def take(self, count):
        data = b""
        while len(data) < count:
            more = self.stream.recv(count - len(data))
            if not more:
                fail("the gate stays open")
            data += more
        return data

    def receive(self, name):
        """Returns the data of the oldest message of this name that was not received yet."""
        while not any(name in message for message in self.messages):
            self.messages.append(json.loads(self.take(int.from_bytes(self.take(2), "big"))))
        found = next(message for message in self.messages if name in message)
        self.messages.remove(found)
        return found[name]


class Player:
    """A browser window."""

    def __init__(self, browser, name, port, **context):
        self.name, self.port = name, port
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(15_000)
        self.context.add_init_script(WATCH)
        self.page = page = self.context.new_page()
        self.complaints = []
        page.on("console", lambda message: message.type in ("error", "warning") and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")

    def log_in(self):
        self.page.get_by_label("Your name").fill(self.name)
        self.page.get_by_role("button", name="Enter").click()
        self.is_in()

    def is_in(self):
        expect(self.page.locator("#state")).to_have_text(self.name)

    def say(self, text):
        self.page.get_by_label("Say something").fill(text)
        self.page.get_by_label("Say something").press("Enter")

    def hears(self, who, text):
        expect(self.page.locator("#log li:not(.pending)", has_text=text).first).to_have_text(who + text)

    def cards(self):
        return self.page.locator("#hand .card").evaluate_all("cards => cards.map((card) => card.dataset.card)")

    def play(self):
        """Plays the first card when it is the player's turn; the answer is the shorter hand."""
        hand = self.page.locator("#hand .card")
        expect(hand.first).to_be_enabled()
        before = hand.count()
        name = hand.first.get_attribute("data-card")
        hand.first.click()
        expect(hand).to_have_count(before - 1)
        return name

    def fits(self):
        width, screen = self.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        check(f"{self.name}: nothing is wider than {screen} px", width <= screen, width)

    def accessible(self):
        same(f"{self.name}: every control has a name", self.page.evaluate(NAMELESS), [])
        same(f"{self.name}: every text can be told from its ground", self.page.evaluate(PALE, 8), [])

    def screenshot(self, name):
        self.page.screenshot(path=FOLDER / f"lobby-{name}.png")

    def end(self):
        same(f"{self.name}: the policy was never violated", self.page.evaluate("window.violations"), [])
        complaints = [text for text in self.complaints if not text.startswith("WebSocket connection to")]
        same(f"{self.name}: the console is silent", complaints, [])


def chat(players, leaf):
    ann, ben, cleo = players
    ann.say("good evening")
    for player in players:
        player.hears("Ann", "good evening")
    same("the client of Leaf hears it", leaf.receive("Chat"), {"From": "Ann", "Text": "good evening"})
    leaf.send("Say", {"Text": "hello from a gate"})
    for player in players:
        player.hears("Leo", "hello from a gate")
    cleo.say("<b>no markup</b>")
    ben.hears("Cleo", "<b>no markup</b>")
    print("ok      everybody hears everybody, whatever they speak")


def wins(seats, trick):
    """Returns who takes a trick: pairs of a player and a card."""
    rank = lambda card: ("2 3 4 5 6 7 8 9 10 J Q K A".split().index(card[:-1]), "CDHS".index(card[-1]))
    return max(trick, key=lambda played: rank(played[1]))[0]


def trick(order):
    """Plays a trick in this order. Returns who has taken it, by the page."""
    played = [(player.name, player.play()) for player in order]
    highest = wins(order, played)
    for player in order:
        expect(player.page.locator("#trick .taken")).to_have_text(re.compile(re.escape(highest) + "$"))
    print(f"ok      {highest} takes {' '.join(card for _, card in played)}")
    return highest


def rotated(players, first):
    """Returns the players in their order at the table, beginning with one."""
    at = [player.name for player in players].index(first)
    return players[at:] + players[:at]


def evening(lobby, players, relay):
    ann, ben, cleo = players
    for player in players:
        expect(player.page.locator("#others li")).to_have_count(2)
    ann.page.get_by_role("button", name="Deal").click()
    for player in players:
        expect(player.page.locator("#hand .card")).to_have_count(5)
    hands = [card for player in players for card in player.cards()]
    check("every card is dealt once", len(set(hands)) == 15, hands)
    ann.screenshot("desktop-light")
    expect(ben.page.locator("#hand .card").first).to_be_disabled()
    print("ok      nobody plays out of turn")
    first = trick(players)

    # The chat is slow, and the cards go on.
    lobby.tell("pause")
    ann.say("is anybody there?")
    pending = ann.page.locator("#log .pending")
    expect(pending).to_have_count(1)
    first = trick(rotated(players, first))
    expect(pending).to_have_count(1)
    lobby.tell("resume")
    ben.hears("Ann", "is anybody there?")
    expect(pending).to_have_count(0)
    print("ok      a slow chat held up no card")

    # One player loses the connection and comes back to the same cards.
    cards = ben.cards()
    relay.cut()
    expect(ann.page.locator("#others .gone")).to_contain_text("Ben")
    expect(ben.page.locator("#state")).to_have_text("connection lost")
    expect(ben.page.locator("#hand .card").first).to_be_disabled()
    ben.screenshot("phone-lost")
    relay.mend()
    ben.is_in()
    expect(ann.page.locator("#others .gone")).to_have_count(0)
    expect(ben.page.locator("#hand .card")).to_have_count(len(cards))
    same("Ben is back with his cards", ben.cards(), cards)
    first = trick(rotated(players, first))

    # The page is loaded again.
    cards = cleo.cards()
    cleo.page.reload()
    cleo.is_in()
    expect(cleo.page.locator("#hand .card")).to_have_count(len(cards))
    same("Cleo is back with her cards", cleo.cards(), cards)
    cleo.hears("Ann", "good evening")
    cleo.hears("Ann", "is anybody there?")
    cleo.screenshot("desktop-dark")
    ben.screenshot("phone-dark")
    for player in players:
        player.fits()
        player.accessible()
    for _ in range(2):
        first = trick(rotated(players, first))
    for player in players:
        expect(player.page.locator("#status")).to_have_text(re.compile("won"))
        expect(player.page.get_by_role("button", name="Deal")).to_be_visible()
    print("ok     ", ann.page.locator("#status").text_content())


def leaf_plays(players, leaf):
    """The client of Leaf plays against Ann in another room."""
    ann = players[0]
    ann.page.get_by_role("button", name="garden").click()
    expect(ann.page.locator("#status")).to_have_text("Waiting for somebody to play with")
    leaf.send("Enter", {"Room": "garden"})
    leaf.send("Sit", {"Table": "garden"})
    expect(ann.page.locator("#others li")).to_contain_text("Leo")
    after = lambda: (leaf.receive("Table"), leaf.receive("Hand"))
    table, hand = after()
    same("the client of Leaf has a seat", [table["Turn"], len(table["Seats"]), hand], [None, 2, []])
    ann.page.get_by_role("button", name="Deal").click()
    table, hand = after()
    while table["Turn"]:
        if table["Turn"] == "Ann":
            ann.play()
        else:
            leaf.send("Play", {"Card": hand[0]})
            same("the card is answered", leaf.receive("Play"), len(hand) - 1)
        # Everybody at the table sees each card.
        table, hand = after()
    expect(ann.page.locator("#status")).to_have_text(re.compile("won"))
    check("the client of Leaf sees who has won", table["Winners"], table)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    lobby = Lobby()
    try:
        relay = Relay(lobby.port)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM)
            ann = Player(browser, "Ann", lobby.port, color_scheme="light", **DESKTOP)
            ann.screenshot("login-light")
            ann.accessible()
            ben = Player(browser, "Ben", relay.port, **PHONE)
            cleo = Player(browser, "Cleo", lobby.port, color_scheme="dark", **DESKTOP)
            players = [ann, ben, cleo]
            for player in players:
                player.log_in()
            leaf = Leaf(lobby.leaf_port)
            leaf.send("Login", {"Name": "Leo"})
            same("the client of Leaf has its name", leaf.receive("Login")["Name"], "Leo")
            leaf.send("Enter", {"Room": "lobby"})
            same("the client of Leaf sees who is there", leaf.receive("Enter"), ["Ann", "Ben", "Cleo", "Leo"])
            for player in players:
                expect(player.page.locator("#people li")).to_have_text(["Ann", "Ben", "Cleo", "Leo"])
            chat(players, leaf)
            evening(lobby, players, relay)
            leaf_plays(players, leaf)
            for player in players:
                player.end()
            browser.close()
        lobby.tell("quit")
        same("the lobby ends", lobby.process.wait(timeout=20), 0)
    finally:
        lobby.process.kill()


main()
