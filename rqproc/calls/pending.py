"""The calls that a client waits for, and which answer is whose. Without input or output.

Knows calls, their ids at the server, and the form of answers. Must not know commands, nor when
anything is sent.

As everything of a client: it may be interrupted at any instruction, see ``multiplexer``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rqproc.calls.call import Call, Raw
from rqproc.calls.stored_answers import StoredAnswer, StoredAnswers
from rqproc.locks import snapshot
from rqproc.protocol import answer_codec
from rqproc.protocol.commands import MOST_TOGETHER
from rqproc.protocol.keys import Keys
from rqproc.protocol.messages import Sent

Place = tuple[Call, int]
"""One of a call's ids, by its place."""


def portions(places: Sequence[Place]) -> Iterator[Sequence[Place]]:
    """Cut places so that no command about them keeps others from the server for long."""
    return (places[i : i + MOST_TOGETHER] for i in range(0, len(places), MOST_TOGETHER))


class PendingCalls:
    """The calls of one client.

    Attributes:
        calls: all that are waited for, the oldest first, with what their driver knows them by.
        places: by the id that one of a call's ids has at the server.
        groups: by the id of the group that they were sent with.
        stored: the answers that are fetched from the server.
        closed: how many connections in a row were closed before they had brought an answer.
    """

    def __init__(self, keys: Keys) -> None:
        self.calls: dict[Call, Any] = {}
        self.places: dict[bytes, Place] = {}
        self.groups: dict[bytes, Sequence[Place]] = {}
        self.stored = StoredAnswers()
        self.closed = 0
        self._answer_key = keys.answer("").encode()

    def sent(self, call: Call, place: int) -> Sent:
        """Return one of a call's ids as the cluster knows it."""
        address, data = call.addresses[place], call.data(place)
        if call.names:
            return Sent(call.names[place], address, data)
        group, index = call.groups[place // MOST_TOGETHER], place % MOST_TOGETHER
        if len(call.ids) == 1:
            index = self.groups[group.encode()].index((call, 0))
        return Sent(f"{group.replace('-g', '-c')}_{index}-{address}", address, data, group)

    def leave(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        self.calls.pop(call, None)
        for name in call.names:
            self.places.pop(name.encode(), None)
        for group in call.groups:
            places = self.groups.get(group.encode(), ())
            if len(call.ids) > 1 or not any(one in self.calls for one, _ in places):
                self.groups.pop(group.encode(), None)

    @property
    def size(self) -> int:
        """How much is kept for those who wait."""
        return len(self.calls) + len(self.places) + len(self.groups)

    def tidy(self) -> None:
        """Forget what is left of calls that nobody waits for: one who left was interrupted."""
        for id, (call, _) in snapshot(self.places.items()):
            if call not in self.calls:
                self.places.pop(id, None)
        for id, places in snapshot(self.groups.items()):
            if not any(call in self.calls for call, _ in places):
                self.groups.pop(id, None)

    def take(self, payload: bytes) -> None:
        """Give an answer to whoever waits for it."""
        self.closed = 0
        id, _, rest = payload.partition(b" ")
        if rest.startswith(b"kept "):
            if self.is_wanted(id):
                _, size, key = rest.split(b" ", 2)
                self.stored.add(StoredAnswer(id, key, int(size)))
            return
        place = self.places.get(id)  # it stays: who takes the answer in may be interrupted
        if place is None:
            self._part_or_group(id, rest)
        else:
            self._give(place, id, rest)

    def _give(self, place: Place, id: bytes, rest: bytes) -> None:
        call, index = place
        if not call.take(index, rest):
            return
        if rest[:4] != b"hit " and not call.unsure:
            self.stored.has_read(self._answer_key + id, len(rest))
        if not call.left and (wake := call.wake):
            wake()

    def _part_or_group(self, id: bytes, rest: bytes) -> None:
        places = self.groups.get(id)
        if places is not None:
            self._give_group(places, rest)
            return
        _, _, tail = id.partition(b"_")  # a call of a group that had to be run
        places = self.groups.get(_group_of(id))
        if places is not None:
            self._give(places[int(tail.partition(b"-")[0])], id, rest)

    def _give_group(self, places: Sequence[Place], rest: bytes) -> None:
        call = places[0][0]
        if len(call.ids) > 1:
            call.take_group(places[0][1], rest)
            if not call.left and (wake := call.wake):
                wake()
            return
        for part in answer_codec.split_group(rest):
            self.answer(*places[part.place], part)

    def is_wanted(self, id: bytes) -> bool:
        """Whether anyone waits for the answer to a call, or to those of a group."""
        return id in self.places or id in self.groups or _group_of(id) in self.groups

    def is_stored(self, call: Call, place: int) -> bool:
        """Whether an answer lies at the server, and is fetched from there."""
        if not self.stored:
            return False
        return self._answer_key + self.sent(call, place).id.encode() in self.stored

    def take_fetched(self, reply: Any, one: StoredAnswer) -> None:
        self.stored.fetched(one)
        if not isinstance(reply, bytes):
            return  # it is asked for again
        self.take(reply)
        if reply.partition(b" ")[2].startswith((b"hit ", b"many ")):  # it lay there for this alone
            self.stored.has_read(one.key, one.size)

    @staticmethod
    def answer(call: Call, index: int, answer: Raw) -> None:
        call.take(index, answer)
        if not call.left and (wake := call.wake):
            wake()


def _group_of(id: bytes) -> bytes:
    """Return the id of the group that a call was sent with, if it was."""
    return id.partition(b"_")[0].replace(b"-c", b"-g")
