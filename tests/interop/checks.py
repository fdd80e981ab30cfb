"""What the Python clients here share: checks that print, and the addresses of nodes from the command line."""

import sys


def fail(what, *seen):
    """Ends the program: says what does not hold, and what was seen instead."""
    sys.exit(f"FAILED  {what}: {', '.join(map(repr, seen))}")


def check(what, held, *seen):
    """Prints what holds, or fails."""
    if not held:
        fail(what, *seen)
    print(f"ok      {what}")


def same(what, got, expected):
    """Checks that two values are equal and of one type: to Python 1, 1.0 and True are equal."""
    check(what, got == expected and type(got) is type(expected), got, expected)


def node_address(which=1):
    """Splits an argument, HOST:PORT: the first is a node with native functions, the second (near.toml) has programs
    and forwards to the first."""
    host, port = sys.argv[which].rsplit(":", 1)
    return host.strip("[]"), int(port)
