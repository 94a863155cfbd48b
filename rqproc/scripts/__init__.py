"""The Lua scripts, made ready for one namespace: text and SHA-1.

Knows where the texts lie and what constants stand before them. Must not know connections.

Constants are written into the text rather than passed with every call: a script's SHA-1 then names
the namespace too, and a call carries nothing but its own arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha1
from importlib.resources import files

from rqproc.keys import RQ_PREFIX, Keys
from rqproc.wire import exc_string

NAMES = (
    "join",
    "beat",
    "route",
    "scatter",
    "withdraw",
    "take",
    "reconcile",
    "finish",
    "drain",
    "leave",
    "inspect",
    "adopt",
    "survey",
    "locate",
)

SERVER_CLOCK = """local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end"""

VIRTUAL_CLOCK = """local function now_ms()
  return tonumber(redis.call('GET', NODE .. 'clock') or 0)
end"""
"""For tests: the clock is the key ``node:clock`` and stands still unless it is set."""

DEFAULT_MAX_ATTEMPTS = 3

LOST = "rqproc: too many nodes died while they held this request; it is not tried again\n"


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    text: str
    sha: str


class Scripts:
    """All scripts of one namespace, by name."""

    def __init__(
        self,
        keys: Keys,
        *,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        clock: str = SERVER_CLOCK,
    ) -> None:
        constants = _constants(keys, max_attempts)
        library = f"local call = redis.call\n\n{clock}\n\n{_text('lib')}"
        self._scripts = {
            name: _script(name, assemble(library, _text(name), constants)) for name in NAMES
        }

    def __getitem__(self, name: str) -> Script:
        return self._scripts[name]


@lru_cache(maxsize=64)
def scripts_of(keys: Keys) -> Scripts:
    """Return the scripts of a namespace, made once."""
    return Scripts(keys)


def assemble(library: str, body: str, constants: Mapping[str, str]) -> str:
    """Return the body with those of the library's functions before it that it needs.

    Each call of a script makes its functions anew, and each constant that a function captures
    costs again: so functions that are not used are left out, and constants are written in place.
    What is needed by a function alone that is marked as ``-- rarely`` called is made within that.
    """
    first, *blocks = _blocks(_without_comments(library))
    start, *rest = _blocks(_without_comments(body))
    functions = [block for block in rest if _RARELY.match(block)]
    often = start + "".join(block for block in rest if block not in functions)
    known = _needed(often + "".join(map(_head, functions)), blocks)
    text = first + "".join(_made(block, blocks, known) for block in blocks if block in known)
    text += start + "".join(_made(block, blocks, known) for block in rest)
    return re.sub(r"\b[A-Z][A-Z_]+\b", lambda m: constants.get(m[0], m[0]), text)


_RARELY = re.compile(r"local function (\w+)\(.*\) -- rarely\n")


def _blocks(text: str) -> list[str]:
    """What comes before the first function, then each with what follows it."""
    return re.split(r"^(?=local function )", text, flags=re.M)


def _head(block: str) -> str:
    """The name of a function of the body: what it needs itself is made within it."""
    end = block.find("\nend\n")
    return block[end:] if end >= 0 else ""


def _needed(text: str, blocks: Sequence[str]) -> list[str]:
    """Return the library's functions that a text needs each time that it is run."""
    needed: list[str] = []
    for block in reversed(blocks):
        name = block.removeprefix("local function ").partition("(")[0]
        if re.search(rf"\b{name}\b", text):
            needed.append(block)
            text += name if _RARELY.match(block) else block
    return needed


def _made(block: str, blocks: Sequence[str], known: Sequence[str]) -> str:
    """Return a function; a rare one with those within it that are not there otherwise."""
    head = _RARELY.match(block)
    if not head:
        return block
    inner = block[head.end() :]
    mine = [other for other in _needed(inner, blocks) if other not in known and other != block]
    within = "".join(_made(other, blocks, [*known, *mine]) for other in blocks if other in mine)
    return head[0].replace(" -- rarely", "") + within + inner


def _without_comments(text: str) -> str:
    return re.sub(r"^\s*--.*\n", "", text, flags=re.M)


def _constants(keys: Keys, max_attempts: int) -> dict[str, str]:
    """Return what stands in the scripts in capitals, as Lua literals."""
    state, rq = keys.state, RQ_PREFIX + ":"
    texts = {
        "MEMBERS": state + "members",
        "LEASES": state + "leases",
        "NODES": state + "nodes",
        "HOLDERS": state + "holders",
        "EPOCH": state + "epoch",
        "TOKEN": state + "token",
        "WAITING": state + "waiting",
        "PULSE": state + "pulse",
        "SUSPECTS": state + "suspects",
        "SERVER": state + "server",
        "SETTLING": state + "settling",
        "WAITS": state + "waits:",
        "FENCE": state + "fence:",
        "NODE": state + "node:",
        "TAKEN": state + "taken:",
        "RQ": rq,
        "JOB": rq + "job:",
        "RESULTS": rq + "results:",
        "QUEUE": keys.queue(""),
        "WORKER": rq + "worker:" + keys.node_queues,
        "INGRESS": keys.ingress,
        "NAMES": keys.node_queues,
        "LOST_TEXT": exc_string(LOST),
        "DROPPED": keys.dropped,
    }
    literals = {name: f"'{text}'" for name, text in texts.items()}
    return literals | {"MAX_ATTEMPTS": str(max_attempts)}


def _script(name: str, text: str) -> Script:
    # SHA-1 is what EVALSHA names scripts by; nothing is secured with it.
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


@cache
def _text(name: str) -> str:
    return files(__name__).joinpath(f"{name}.lua").read_text("utf-8")
