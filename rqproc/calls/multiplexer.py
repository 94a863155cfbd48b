"""What all callers of one client say together, and what comes of it. Without input or output.

Knows the protocol's commands and the pending calls. Must not know connections, threads or event
loops: ``threads`` and ``tasks`` carry it out. What is sent is composed under its driver's lock, in
the order in which it goes out; what comes is taken in by one thread at a time.

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
from typing import Any

import hiredis

from rqproc.calls.call import Call
from rqproc.calls.client_names import ClientNames
from rqproc.calls.pending import PendingCalls, Place, portions
from rqproc.calls.stored_answers import CLOSINGS
from rqproc.errors import RqprocError
from rqproc.locks import snapshot
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.commands import MOST_TOGETHER, Commands
from rqproc.transport.connection import Command, ConnectionLost, Refused

CALLER_ERRORS = (ConnectionLost, Refused, RqprocError)
"""What callers are told who wait for an answer; RqprocError: of sentinels, or of the embedded
server."""

BUFFER_ADVICE = (
    "If the server's log tells of output buffer limits, let it have more ready for callers "
    "(`CONFIG SET client-output-buffer-limit 'pubsub 32mb 8mb 60'`), or return less; else look "
    "what closes connections"
)
"""Where connections are closed while answers are on their way."""

ReplyHandler = tuple[Callable[[Any, Any], None], Any]
"""What is done with the reply to a command, and for which calls or fence."""


class Multiplexer:
    """The callers of one client.

    Attributes:
        pending: the calls that are waited for.
        expected: what is done with the replies to come, in their order; another one for each
            connection.
    """

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self.pending = PendingCalls(commands.keys)
        self.expected: deque[ReplyHandler] = deque()
        self._names = ClientNames()
        self._numbers = count()
        self._must_load = False
        self._load_error: Refused | None = None

    # --- what is said ---

    def channels(self) -> list[str]:
        """What a new connection listens to."""
        keys = self.commands.keys
        return [keys.reply(name) for name in self._names.to_listen_to(self.pending.calls)]

    def compose_one(self, call: Call, left_s: float | None = None) -> Command:
        """Return the command in which a call of one id goes out.

        ``left_s``: as for ``compose_new``.
        """
        address, data = call.addresses[0], call.data(0)
        id = f"{self._names.present}-{call.kind}{next(self._numbers):x}-{address}"
        place = (call, 0)
        self.pending.places[id.encode()] = place  # first: a name must be found
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
            f"{self._names.present}-{call.kind}{number:x}_{place}-{address}"
            for place, address in enumerate(call.addresses)
        ]
        places = [(call, place) for place in range(len(call.ids))]
        self.pending.places.update(zip((name.encode() for name in names), places, strict=True))
        call.names = names
        timeout_s = call.timeout_s if left_s is None else left_s
        return [self._route(some, timeout_s, again=False) for some in portions(places)]

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
        group = f"{self._names.present}-g{next(self._numbers):x}"
        call = places[0][0]
        self.pending.groups[group.encode()] = places
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
        # First of all: an answer that comes from now on stays at the server.
        unsure, call.unsure = call.unsure, True
        missing = call.missing()
        if len(missing) < call.left:  # one was interrupted before it was counted
            call.left = len(missing)
        places = [(call, place) for place in missing if not self.pending.is_stored(call, place)]
        if not places:  # the last answer has come since this was decided, or is being fetched
            call.unsure = unsure
            if not missing and (wake := call.wake):
                wake()
            return []
        commands = []
        for some in portions(places):
            if withdraw:
                self.expected.append((self._withdrawn, some))
                sent = [self.pending.sent(*place) for place in some]
                commands.append(self.commands.withdraw(sent, timeout_s=left_s))
            commands.append(self._route(some, left_s, again=True))
        return commands

    def _route(self, places: Sequence[Place], timeout_s: float, *, again: bool) -> Command:
        self.expected.append((self._routed, places))
        parent = places[0][0].parent
        sent = [self.pending.sent(*place) for place in places]
        return self.commands.route(sent, timeout_s=timeout_s, parent=parent, again=again)

    def housekeeping(self) -> list[Command]:
        """Return what goes before anything else: functions, fences, answers that were read."""
        commands: list[Command] = []
        if self._must_load:
            self._must_load = False
            self.expected.append((self._loaded, None))
            commands.append(self.commands.load)
        for name, for_s in self._names.take_fences():
            self.expected.append((self._fenced, (name, for_s)))
            commands.append(self.commands.fence(name, for_s))
        for one in self.pending.stored.fetch(self.pending.is_wanted):
            self.expected.append((self.pending.take_fetched, one))
            commands.append(("GET", one.key))
        if read := self.pending.stored.take_read():
            self.expected.append((_ignored, None))
            commands.append(("UNLINK", *read))
        return commands

    def goodbye(self) -> list[Command]:
        """Return what a client that is closed says at last; nobody waits for the reply."""
        read = self.pending.stored.take_read(few=True)
        return [("UNLINK", *read)] if read else []

    @property
    def has_more(self) -> bool:
        """Whether ``housekeeping`` has anything to say."""
        return bool(self._must_load or self._names.has_fences_to_set or self.pending.stored.is_due)

    @property
    def is_urgent(self) -> bool:
        """Whether it is to be said though nobody asks for anything."""
        return self.pending.stored.is_urgent

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
                    self.pending.take(reply[2])
            else:
                handle, about = expected.popleft()
                handle(reply, about)

    def _routed(self, reply: Any, places: Sequence[Place]) -> None:
        if isinstance(reply, Exception):
            self._refused(reply, places)
            return
        call = places[0][0]
        quiet = call.quiet  # it was known before this
        call.carried = call.heard = True
        if reply is not None:
            for place, told in zip(places, reply, strict=True):
                self._take_told(place, told, quiet)
        elif call.no_node_answers:
            for _, index in places:
                call.no_node_answers.pop(index, None)

    def _take_told(self, place: Place, told: bytes, quiet: bool) -> None:
        call, index = place
        if told.startswith(b"r"):
            self.pending.take(told)
        elif told.startswith(b"{"):
            answer = answer_codec.refusal(told)
            if quiet and answer.report and answer.report["type"] == "NoLiveNode":
                call.no_node_answers = {**(call.no_node_answers or {}), index: answer}
            else:
                self.pending.answer(call, index, answer)
        elif call.no_node_answers:
            call.no_node_answers.pop(index, None)

    def _scattered(self, reply: Any, places: Sequence[Place]) -> None:
        if isinstance(reply, Exception):
            self._refused(reply, places)
            return
        for call, _ in places:
            call.carried = call.heard = True
        for i in range(0, len(reply or ()), 2):
            call, index = places[reply[i]]
            self.pending.answer(call, index, answer_codec.refusal(reply[i + 1]))

    def _withdrawn(self, reply: Any, places: Sequence[Place]) -> None:
        if isinstance(reply, Exception):
            self._refused(reply, places)
            return
        for told in reply:
            if told:
                self.pending.take(told)

    def _fenced(self, reply: Any, fence: tuple[str, float]) -> None:
        self._names.fenced(*fence, failed=isinstance(reply, Exception))

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

    def broken(self, error: Exception) -> None:
        """A connection has failed: nobody knows which of the last packets have arrived.

        To be called again where it was interrupted.
        """
        self.expected = deque()
        self._blame(error)
        calls = snapshot(self.pending.calls)  # others come and go meanwhile
        self._names.change(calls)
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
            self.pending.closed += 1
            if self.pending.stored.is_fetching or self.pending.closed >= CLOSINGS:
                error.advice = BUFFER_ADVICE
        given_up = self.pending.stored.forget(closed=closed)
        if given_up and (place := self.pending.places.pop(given_up.id, None)):
            said = f"its {given_up.size} bytes do not come through. {BUFFER_ADVICE}"
            self.pending.answer(*place, answer_codec.unreadable(said))


def _ignored(reply: Any, about: Any) -> None:
    """The reply to UNLINK: nobody waits for it, and what was not removed expires by itself."""
