"""Ports for servers that a test starts on them by number."""

from __future__ import annotations

import atexit
import socket
from contextlib import ExitStack, suppress
from secrets import randbelow

FIRST, END = 20_000, 32_000
"""Below those that the kernel gives to whoever asks for any, also between our look and our use."""

_taken = ExitStack()
atexit.register(_taken.close)


def free_ports(count: int) -> list[int]:
    """Return neighbours that nobody has, and that no other process is given by this function."""
    for _ in range(1000):
        first = FIRST + randbelow(END - FIRST - count)
        ports = list(range(first, first + count))
        if all(map(_take, ports)):
            return ports
    raise AssertionError(f"no {count} free ports from {FIRST} to {END}")


def _take(port: int) -> bool:
    """Take it, if it is free, by its namesake of UDP: for as long as this process lives."""
    with suppress(OSError), socket.create_server(("", port)):
        mine = _taken.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        mine.bind(("127.0.0.1", port))
        return True
    return False
