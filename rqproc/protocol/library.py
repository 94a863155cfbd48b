"""The protocol's functions, as one library that a server keeps: its text, and how it is made known.

Knows where the Lua files lie. Must not know connections.

Redis Functions (Redis 7.0, Valkey 7.2) load a library once; calls name a function. The library's
name has the protocol's number, so that libraries of two protocols may stand beside each other on a
server.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

PROTOCOL = 2
"""Callers and nodes understand each other if they have the same. What stands in Redis under another
number is left alone."""

SOURCES = (
    "keys", "time", "clock", "slots", "members", "jobs", "placement", "suspects", "recovery",
    "membership", "nested", "pushing", "routing", "answering", "running", "states", "handoff",
    "callers", "sessions", "reading", "ingress",
)  # fmt: skip
"""In this order: what a file uses stands in it or before it."""


@dataclass(frozen=True, slots=True)
class Library:
    """One build of the functions.

    Attributes:
        text: what FUNCTION LOAD takes.
        digest: of the text; nodes that join have it compared with the server's.
    """

    text: str
    digest: str
    protocol: int = PROTOCOL

    def function(self, name: str) -> str:
        """Return the name under which a server knows a function."""
        return f"rqproc_{self.protocol}_{name}"

    @property
    def load(self) -> tuple[str, ...]:
        """The command that makes it known, in the place of another build."""
        return ("FUNCTION", "LOAD", "REPLACE", self.text)


def build(*, protocol: int = PROTOCOL, **replaced: str) -> Library:
    """Put a library together.

    Args:
        protocol: another number, for tests of how two meet.
        replaced: texts in the place of sources, by name.
    """
    texts = [replaced.get(name) or _source(name) for name in SOURCES]
    body = "\n".join(texts).replace("local PROTOCOL = 2", f"local PROTOCOL = {protocol}")
    digest = sha256(body.encode()).hexdigest()[:16]
    head = f"#!lua name=rqproc_{protocol}\nlocal DIGEST = '{digest}'\n"
    return Library(head + body, digest, protocol)


@cache
def library() -> Library:
    """Return the library of this package."""
    return build()


@cache
def _source(name: str) -> str:
    return files(__package__).joinpath("functions", f"{name}.lua").read_text("utf-8")
