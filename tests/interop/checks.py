"""Helpers of the Python clients: checks that print, and the addresses of nodes from the command line."""

import sys


def fail(what, *seen):
    """Exits with what failed and the actual value."""
    sys.exit(f"FAILED  {what}: {', '.join(map(repr, seen))}")


def check(what, held, *seen):
    """Prints a passed check, or fails."""
    if not held:
        fail(what, *seen)
    print(f"ok      {what}")


def same(what, got, expected):
    """Checks that two values are equal and of the same type, because 1, 1.0 and True are equal in Python."""
    check(what, got == expected and type(got) is type(expected), got, expected)


def node_address(which=1):
    """Splits an argument HOST:PORT. The first node has native functions; the second (near.toml) runs programs and
    forwards to the first; the third (processes.toml) has programs that stay."""
    host, port = sys.argv[which].rsplit(":", 1)
    return host.strip("[]"), int(port)
