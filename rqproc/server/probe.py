"""What a server on a unix socket says, asked without a client library.

Knows two commands of the Redis protocol, PING and INFO. Must not know who started the server.
"""

from __future__ import annotations

import enum
import socket
from pathlib import Path

TIMEOUT_S = 0.5


class ProbeResult(enum.Enum):
    """How a server takes a PING."""

    UP = "it serves"
    LOADING = "it reads its data"
    SILENT = "it listens and does not answer"
    NONE = "nobody listens"


def ping(path: Path, *, timeout_s: float = TIMEOUT_S) -> ProbeResult:
    """Ask whether a server is there. Any answer but that it is loading means that it serves."""
    try:
        reply = _ask(path, b"PING\r\n", timeout_s=timeout_s)
    except (TimeoutError, BlockingIOError):
        return ProbeResult.SILENT
    except OSError:
        return ProbeResult.NONE
    if not reply:
        return ProbeResult.NONE
    return ProbeResult.LOADING if reply.startswith(b"-LOADING") else ProbeResult.UP


def info(path: Path) -> dict[str, str]:
    """Return what INFO says, empty if there is no answer."""
    try:
        text = _ask(path, b"INFO\r\n").decode(errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines()[1:])
    return {name: value for name, colon, value in pairs if colon}


def _ask(path: Path, command: bytes, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """Return the whole reply: one line, and the bulk of bytes that it may announce."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(command)
        reply = b""
        while len(reply) < _length(reply):
            chunk = connection.recv(65536)
            if not chunk:
                return b""
            reply += chunk
    return reply


def _length(reply: bytes) -> int:
    """Return how long the reply is going to be, as far as one can tell."""
    head, line_end, _ = reply.partition(b"\r\n")
    if not line_end:
        return len(reply) + 1
    bulk = int(head[1:]) + 2 if head.startswith(b"$") else 0
    return len(head) + 2 + bulk
