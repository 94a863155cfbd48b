"""Pending calls made by hand, and a multiplexer whose connection is a list of commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis

from rqproc.calls.call import Call, Kind
from rqproc.calls.multiplexer import Multiplexer
from rqproc.ids import Id, address
from rqproc.model import OnLost
from rqproc.protocol.answer_codec import encode_answer, encode_group, encode_part
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys
from rqproc.transport.connection import Command

KEYS = Keys("shop")
COMMANDS = Commands(KEYS)
BEGAN = 50.0


def a_call(
    *ids: Id, resource: str = "price", timeout_s: float = 10.0, on_lost: OnLost = "wait",
    kind: Kind = "c", args: Sequence[Any] = (), parent: str = "", began: float = BEGAN,
) -> Call:  # fmt: skip
    ids = ids or (1,)
    return Call(
        kind, resource, ids, [address(resource, id) for id in ids], timeout_s, began + timeout_s,
        on_lost, parent, args,
    )  # fmt: skip


def answer(id: str, value: object = 7, *, source: str = "miss") -> bytes:
    """What is published to a caller."""
    return encode_answer(id, source, repr(value), node="n1").encode()


def group_answer(group: str, *places: int, node: str = "n1") -> bytes:
    """Answers to calls of a group, each with its place for a value."""
    parts = (
        encode_part(str(place), "hit", str(place), age_s=0.0, expires_in_s=1.0, token=1)
        for place in places
    )
    return encode_group(group, node, parts).encode()


def rest(payload: bytes) -> bytes:
    """An answer without its id."""
    return payload.partition(b" ")[2]


class Board:
    """A multiplexer, and those who wait at it.

    Attributes:
        woken: how often each call was.
    """

    def __init__(self) -> None:
        self.core = Multiplexer(COMMANDS)
        self.woken: dict[Call, int] = {}

    def comes(self, *calls: Call) -> None:
        for call in calls:
            self.core.pending.calls[call] = None
            self.woken[call] = 0
            call.wake = lambda call=call: self._wake(call)

    def _wake(self, call: Call) -> None:
        self.woken[call] += 1

    def asks(self, *calls: Call) -> list[Command]:
        """Calls come and are sent together for the first time; return the commands."""
        self.comes(*calls)
        return [*self.core.housekeeping(), *self.core.compose_new(calls)]

    def again(self, call: Call, left_s: float = 5.0, *, withdraw: bool = False) -> list[Command]:
        return [
            *self.core.housekeeping(),
            *self.core.compose_again(call, left_s, withdraw=withdraw),
        ]

    def replies(self, *replies: Any) -> None:
        """What the server says to the commands that it has not answered yet, in their order."""
        self.core.take_in(replies, self.core.expected)

    def hears(self, *payloads: bytes) -> None:
        """What is published."""
        pushes = [hiredis.PushNotification([b"message", b"c", payload]) for payload in payloads]
        self.core.take_in(pushes, self.core.expected)

    def is_empty(self) -> bool:
        """Whether nothing is left of any call."""
        core = self.core
        return not (core.pending.calls or core.pending.places or core.pending.groups)


def names(commands: Sequence[Command]) -> list[str]:
    """What each command does, in a word."""
    prefix = COMMANDS.library.function("")
    return [
        str(command[1]).removeprefix(prefix) if command[0] == "FCALL" else str(command[0])
        for command in commands
    ]


def routed(command: Command) -> list[str]:
    """The ids of the calls that a command of route carries."""
    assert names([command]) == ["route"]
    return [str(id) for id in command[9::4]]


def is_again(command: Command) -> bool:
    return command[8] == "again"


def timeout_ms(command: Command) -> int:
    return int(command[5])
