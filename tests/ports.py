"""Ports for servers that a test starts on them by number."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import suppress

FIRST, END = 20_000, 32_000
"""Below those that the kernel gives to whoever asks for any, also between our look and our use."""

_SPACE = 1000
_numbers = itertools.count(os.getpid() * _SPACE)  # the other workers of a run have other numbers


def free_ports(count: int) -> list[int]:
    """Return neighbours that nobody has, each time others."""
    for _ in range(_SPACE):
        ports = [FIRST + next(_numbers) % (END - FIRST) for _ in range(count)]
        if ports[-1] - ports[0] == count - 1 and all(map(_is_free, ports)):
            return ports
    raise AssertionError(f"no {count} free ports from {FIRST} to {END}")


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("", port)):
        return True
    return False
