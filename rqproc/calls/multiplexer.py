"""What all callers of one client say together, and who gets which answer. Without input or output.

Knows the protocol's calls and pending calls. Must not know connections, threads or event loops:
``threads`` and ``tasks`` carry it out. What is sent is composed under its driver's lock, in the
order in which it goes out; what comes is taken in by one thread at a time.

Any of it may be interrupted at any instruction, by an exception from a signal's handler. What was
being composed, or taken in, is in an unknown state then, and its connection is given up, as one
that was cut: see ``broken``, which may be interrupted itself, and is then begun once more.

A client has a name, which stands in the id of each call, and listens on a channel of that name.
Answers are published there; the replies to commands say only what was refused.

After a lost connection nobody knows which packets the server has had, and one may still be on its
way. What was published meanwhile is lost. So, where calls were under way:
  1. The client takes a new name for what is asked from then on.
  2. The old name is fenced: what comes late under it, and says that it is new, is dropped.
  3. Then alone are calls asked again, under the ids that they have. What is under way stays so;
     what has been answered by a run is answered again, for such answers are kept; hits are looked
     up anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from secrets import token_hex
from typing import Any

import hiredis

from rqproc.calls.call import Call
from rqproc.calls.kept import CLOSINGS, Kept, Lying
from rqproc.errors import RqprocError
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.commands import MOST_TOGETHER, Commands
from rqproc.protocol.messages import Sent
from rqproc.transport.connection import Command, ConnectionLost, Refused

TOLD = (ConnectionLost, Refused, RqprocError)
"""What callers are told who wait for an answer; RqprocError: of sentinels, or of the embedded
server."""

FENCE_S = 120.0
"""Seconds that a fence outlives the longest timeout of those who wait behind it."""

BUFFER_ADVICE = (
    "If the server's log tells of output buffer limits, let it have more ready for callers "
    "(`CONFIG SET client-output-buffer-limit 'pubsub 32mb 8mb 60'`), or return less; else look "
    "what closes connections"
)
"""Where connections are closed while answers are on their way."""

Place = tuple[Call, int]
"""One of a call's ids, by its place."""

ReplyHandler = tuple[Callable[[Any, Any], None], Any]
"""What is done with the reply to a command, and for which calls or fence."""


def fresh_name() -> str:
    """Return a name that no other client has."""
    return f"r{token_hex(9)}"


class Multiplexer:
    """The callers of one client.

    Attributes:
        calls: all that are waited for, the oldest first, with what their driver knows them by.
        expected: what is done with the replies to come, in their order; another one for each
            connection.
    """

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self.calls: dict[Call, Any] = {}
        self.expected: deque[ReplyHandler] = deque()
        self._name = fresh_name()
        self._numbers = count()
        self._pending: dict[bytes, Place] = {}
        self._groups: dict[bytes, Sequence[Place]] = {}
        self._kept = Kept()
        self._closings = 0  # of connections in a row that have brought no answer
        self._calls_by_old_name: dict[str, list[Call]] = {}
        self._fences_to_set: dict[str, float] = {}
        self._fences_sent: dict[str, float] = {}
        self._must_load = False
        self._load_error: Refused | None = None

    # --- what is said ---

    def channels(self) -> list[str]:
        """What a new connection listens to."""
        keys = self.commands.keys
        self._calls_by_old_name = {
            name: left
            for name, calls in self._calls_by_old_name.items()
            if (left := [call for call in calls if call in self.calls])
        }
        return [keys.reply(name) for name in (self._name, *self._calls_by_old_name)]

    def compose_one(self, call: Call, left_s: float | None = None) -> Command:
        """Return the command in which a call of one id goes out.

        ``left_s``: as for ``compose_new``.
        """
        address, data = call.addresses[0], call.data(0)
        id = f"{self._name}-{call.kind}{next(self._numbers):x}-{address}"
        place = (call, 0)
        self._pending[id.encode()] = place  # first: a call that has a name must be found by it
        call.names = (id,)
        self.expected.append((self._routed, (place,)))
        timeout_s = call.timeout_s if left_s is None else left_s
        return self.commands.route_one(id, address, data, timeout_s=timeout_s, parent=call.parent)

    def compose_new(self, calls: Sequence[Call], left_s: float | None = None) -> list[Command]:
        """Return the commands in which calls go out that were not sent before.

        Those of one resource, without arguments, go together.

        Args:
            left_s: seconds that their callers have left, where that is not all that they allowed:
                what has not been begun by then never is.
        """
        commands: list[Command] = []
        alike: dict[tuple[str, float], list[Call]] = {}
        for call in calls:
            if call.kind != "c" or call.parent:
                commands += self._route_each(call, left_s)
            elif len(call.ids) > 1:
                commands += self._scatter_ids(call, left_s)
            else:
                alike.setdefault((call.resource, call.timeout_s), []).append(call)
        for some in alike.values():
            for i in range(0, len(some), MOST_TOGETHER):
                commands.append(self._scatter_calls(some[i : i + MOST_TOGETHER], left_s))
        return commands

    def _route_each(self, call: Call, left_s: float | None) -> list[Command]:
        """Each id on its own: whom a run waits for is told id by id."""
        if len(call.ids) == 1:
            return [self.compose_one(call, left_s)]
        number = next(self._numbers)
        names = [
            f"{self._name}-{call.kind}{number:x}_{place}-{address}"
            for place, address in enumerate(call.addresses)
        ]
        places = [(call, place) for place in range(len(call.ids))]
        self._pending.update(zip((name.encode() for name in names), places, strict=True))
        call.names = names
        timeout_s = call.timeout_s if left_s is None else left_s
        return [self._route(places, timeout_s, again=False)]

    def _scatter_ids(self, call: Call, left_s: float | None) -> list[Command]:
        commands, groups = [], []
        for base in range(0, len(call.ids), MOST_TOGETHER):
            addresses = call.addresses[base : base + MOST_TOGETHER]
            places = [(call, base + place) for place in range(len(addresses))]
            group, command = self._scatter(places, addresses, left_s)
            groups.append(group)
            commands.append(command)
        call.groups = groups  # all at once: a call has been sent, or it has not
        return commands

    def _scatter_calls(self, calls: Sequence[Call], left_s: float | None) -> Command:
        if len(calls) == 1:
            return self.compose_one(calls[0], left_s)
        addresses = [call.addresses[0] for call in calls]
        group, command = self._scatter([(call, 0) for call in calls], addresses, left_s)
        for call in calls:
            call.groups = [group]
        return command

    def _scatter(
        self, places: Sequence[Place], addresses: Sequence[str], left_s: float | None
    ) -> tuple[str, Command]:
        """Return the id of a new group, and the command in which it goes out."""
        group = f"{self._name}-g{next(self._numbers):x}"
        call = places[0][0]
        self._groups[group.encode()] = places
        self.expected.append((self._scattered, places))
        data = codec.encode_many(call.resource)
        timeout_s = call.timeout_s if left_s is None else left_s
        return group, self.commands.scatter(group, data, addresses, timeout_s=timeout_s)

    def compose_again(self, call: Call, left_s: float, *, withdraw: bool) -> list[Command]:
        """Return what asks again for a call's ids without an answer.

        ``withdraw``: those that are lost are taken back first.
        """
        if not call.names and not call.groups:
            return self.compose_new((call,), left_s)
        unsure, call.unsure = (
            call.unsure,
            True,
        )  # first: an answer that comes now stays at the server
        missing = call.missing()
        if len(missing) < call.left:  # one was interrupted before it was counted
            call.left = len(missing)
        places = [(call, place) for place in missing if not self._is_kept(call, place)]
        if not places:  # the last answer has come since this was decided, or is being fetched
            call.unsure = unsure
            if not missing and (wake := call.wake):
                wake()
            return []
        commands = []
        if withdraw:
            self.expected.append((self._withdrawn, places))
            sent = [self.sent(*place) for place in places]
            commands.append(self.commands.withdraw(sent, timeout_s=left_s))
        return [*commands, self._route(places, left_s, again=True)]

    def _route(self, places: Sequence[Place], timeout_s: float, *, again: bool) -> Command:
        self.expected.append((self._routed, places))
        parent = places[0][0].parent
        sent = [self.sent(*place) for place in places]
        return self.commands.route(sent, timeout_s=timeout_s, parent=parent, again=again)

    def sent(self, call: Call, place: int) -> Sent:
        """Return one of a call's ids as the cluster knows it."""
        address, data = call.addresses[place], call.data(place)
        if call.names:
            return Sent(call.names[place], address, data)
        group, index = call.groups[place // MOST_TOGETHER], place % MOST_TOGETHER
        if len(call.ids) == 1:
            index = self._groups[group.encode()].index((call, 0))
        return Sent(f"{group.replace('-g', '-c')}_{index}-{address}", address, data, group)

    def housekeeping(self) -> list[Command]:
        """Return what goes before anything else: functions, fences, answers that were read."""
        commands: list[Command] = []
        if self._must_load:
            self._must_load = False
            self.expected.append((self._loaded, None))
            commands.append(self.commands.load)
        for name, for_s in tuple(self._fences_to_set.items()):
            self._fences_sent[name] = for_s
            self._fences_to_set.pop(name, None)
            self.expected.append((self._fenced, (name, for_s)))
            commands.append(self.commands.fence(name, for_s))
        for lying in self._kept.fetch(self._is_wanted):
            self.expected.append((self._fetched, lying))
            commands.append(("GET", lying.key))
        if read := self._kept.removed():
            self.expected.append((_ignored, None))
            commands.append(("UNLINK", *read))
        return commands

    def goodbye(self) -> list[Command]:
        """Return what a client that is closed says at last; nobody waits for the reply."""
        read = self._kept.removed(few=True)
        return [("UNLINK", *read)] if read else []

    @property
    def has_more(self) -> bool:
        """Whether ``housekeeping`` has anything to say."""
        return bool(self._must_load or self._fences_to_set or self._kept.is_due)

    @property
    def is_urgent(self) -> bool:
        """Whether it is to be said though nobody asks for anything."""
        return self._kept.is_urgent

    # --- what is heard ---

    def take_in(self, found: Iterable[Any], expected: deque[ReplyHandler]) -> None:
        """Take in what a connection has brought, and wake whoever has all answers.

        Args:
            expected: what is done with the replies to come on that connection.

        Raises:
            Refused: the server is not the primary any more: the connection is of no use.
        """
        for reply in found:
            if type(reply) is hiredis.PushNotification:
                if reply[0] == b"message":
                    self.message(reply[2])
            else:
                handle, about = expected.popleft()
                handle(reply, about)

    def message(self, payload: bytes) -> None:
        """Give an answer to whoever waits for it."""
        self._closings = 0
        id, _, rest = payload.partition(b" ")
        if rest.startswith(b"kept "):
            if self._is_wanted(id):
                _, size, key = rest.split(b" ", 2)
                self._kept.tell(Lying(id, key, int(size)))
            return
        place = self._pending.get(id)  # it stays: who takes the answer in may be interrupted
        if place is None:
            self._part_or_group(id, rest)
        else:
            self._give(place, id, rest)

    def _give(self, place: Place, id: bytes, rest: bytes) -> None:
        call, index = place
        if not call.take(index, rest):
            return
        if rest[:4] != b"hit " and not call.unsure:
            self._kept.has_read(self.commands.keys.answer("").encode() + id, len(rest))
        if not call.left and (wake := call.wake):
            wake()

    def _part_or_group(self, id: bytes, rest: bytes) -> None:
        places = self._groups.get(id)
        if places is not None:
            self._give_group(places, rest)
            return
        _, _, tail = id.partition(b"_")  # a call of a group that had to be run
        places = self._groups.get(_group_of(id))
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
            one, index = places[part.place]
            one.take(index, part)
            if not one.left and (wake := one.wake):
                wake()

    def _is_wanted(self, id: bytes) -> bool:
        """Whether anyone waits for the answer to a call, or to those of a group."""
        return id in self._pending or id in self._groups or _group_of(id) in self._groups

    def _is_kept(self, call: Call, place: int) -> bool:
        """Whether an answer lies at the server, and is fetched from there."""
        if not self._kept:
            return False
        return self.commands.keys.answer(self.sent(call, place).id).encode() in self._kept

    def _fetched(self, reply: Any, lying: Lying) -> None:
        self._kept.fetched(lying)
        if not isinstance(reply, bytes):
            return  # it is asked for again
        self.message(reply)
        if reply.partition(b" ")[2].startswith(
            (b"hit ", b"many ")
        ):  # it was put there for this alone
            self._kept.has_read(lying.key, lying.size)

    def _routed(self, reply: Any, places: Sequence[Place]) -> None:
        if isinstance(reply, Exception):
            self._refused(reply, places)
            return
        call = places[0][0]
        quiet = call.quiet  # it was known before this
        call.carried = call.heard = True
        if reply is not None:
            for place, told in zip(places, reply, strict=True):
                self._told(place, told, quiet)
        elif call.nobody:
            for _, index in places:
                call.nobody.pop(index, None)

    def _told(self, place: Place, told: bytes, quiet: bool) -> None:
        call, index = place
        if told.startswith(b"r"):
            self.message(told)
        elif told.startswith(b"{"):
            answer = answer_codec.refusal(told)
            if quiet and answer.report and answer.report["type"] == "NoLiveNode":
                call.nobody = {**(call.nobody or {}), index: answer}
            else:
                self._answer(call, index, answer)
        elif call.nobody:
            call.nobody.pop(index, None)

    def _scattered(self, reply: Any, places: Sequence[Place]) -> None:
        if isinstance(reply, Exception):
            self._refused(reply, places)
            return
        for call, _ in places:
            call.carried = call.heard = True
        for i in range(0, len(reply or ()), 2):
            call, index = places[reply[i]]
            self._answer(call, index, answer_codec.refusal(reply[i + 1]))

    def _withdrawn(self, reply: Any, places: Sequence[Place]) -> None:
        if isinstance(reply, Exception):
            self._refused(reply, places)
            return
        for told in reply:
            if told:
                self.message(told)

    @staticmethod
    def _answer(call: Call, index: int, answer: answer_codec.Answer) -> None:
        call.take(index, answer)
        if not call.left and (wake := call.wake):
            wake()

    def _fenced(self, reply: Any, fence: tuple[str, float]) -> None:
        name, for_s = fence
        self._fences_sent.pop(name, None)
        if isinstance(reply, Exception):
            self._fences_to_set[name] = for_s

    def _loaded(self, reply: Any, _: None) -> None:
        """A user that may not load leaves it to the nodes; what else is wrong its callers hear."""
        found = Refused(str(reply)) if isinstance(reply, Exception) else None
        self._load_error = found if found and found.code != "NOPERM" else None

    def _refused(self, error: Exception, places: Iterable[Place]) -> None:
        """Raises: Refused: of a server that is of no use."""
        refused = Refused(str(error))
        if refused.code == "NOFUNCTION":
            self._must_load = True
            refused = self._load_error or refused
        if refused.moved:
            raise refused
        for call in dict.fromkeys(call for call, _ in places):
            call.error = refused
            if wake := call.wake:
                wake()

    # --- who waits ---

    def leave(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        self.calls.pop(call, None)
        for name in call.names:
            self._pending.pop(name.encode(), None)
        for group in call.groups:
            places = self._groups.get(group.encode(), ())
            if len(call.ids) > 1 or not any(one in self.calls for one, _ in places):
                self._groups.pop(group.encode(), None)

    @property
    def size(self) -> int:
        """How much is kept for those who wait."""
        return len(self.calls) + len(self._pending) + len(self._groups)

    def tidy(self) -> None:
        """Forget what is left of calls that nobody waits for: one who left was interrupted."""
        for id, (call, _) in tuple(self._pending.items()):
            if call not in self.calls:
                self._pending.pop(id, None)
        for id, places in tuple(self._groups.items()):
            if not any(call in self.calls for call, _ in places):
                self._groups.pop(id, None)

    def broken(self, error: Exception) -> None:
        """A connection has failed: nobody knows which of the last packets have arrived.

        To be called again where it was interrupted.
        """
        self.expected = deque()
        self._blame(error)
        self._fences_to_set |= self._fences_sent  # they may not have arrived
        self._fences_sent = {}
        calls = tuple(self.calls)  # others come and go meanwhile
        sent = [call for call in calls if self._was_sent(call)]
        if sent:
            longest_s = max(call.timeout_s for call in sent)
            self._calls_by_old_name[self._name] = sent
            self._fences_to_set[self._name] = longest_s + FENCE_S
            self._name = fresh_name()
        for call in calls:
            call.unsure = call.unsure or bool(call.names or call.groups)
            call.error = error
            if wake := call.wake:
                wake()

    def _blame(self, error: Exception) -> None:
        """Say what a connection may have been closed for; give up an answer that it is closed for
        whenever that is fetched.
        """
        closed = False
        if isinstance(error, ConnectionLost) and not error.spent_s:
            closed = True
            self._closings += 1
            if self._kept.is_fetching or self._closings >= CLOSINGS:
                error.advice = BUFFER_ADVICE
        lying = self._kept.forget(closed=closed)
        if lying and (place := self._pending.pop(lying.id, None)):
            said = f"its {lying.size} bytes do not come through. {BUFFER_ADVICE}"
            self._answer(*place, answer_codec.unreadable(said))

    def _was_sent(self, call: Call) -> bool:
        """Whether a call went out under the present name."""
        known = call.names or call.groups
        return bool(known) and known[0].startswith(self._name)


def _group_of(id: bytes) -> bytes:
    """Return the id of the group that a call was sent with, if it was."""
    return id.partition(b"_")[0].replace(b"-c", b"-g")


def _ignored(reply: Any, about: Any) -> None:
    """The reply to UNLINK: nobody waits for it, and what was not removed expires by itself."""
