"""A server without sockets, for the drivers of the callers' side: it knows route, fences and boxes.

It does with calls what the scripts do, and counts how often each is queued. Its links block as
real ones do; tests wait for what happens there by ``until``.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from board import ROUTE, WITHDRAW
from caller import CLUSTER, answered, entry

from rqproc.ground import MACHINE
from rqproc.keys import results_key
from rqproc.link import Command, LinkLost

SOON_S = 1.2
"""Within so long things happen by themselves: before whoever waits sends its calls again."""


class FakeServer:
    """All its state is guarded by ``changed``.

    Attributes:
        queued: how often each call was queued.
        reading: the threads that are in a blocking read.
        auto: whether a call is answered as soon as it is queued.
        held: whether packets without a read get no reply for now.
        fault: what happens to the next packets, one after the other.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.queued: Counter[str] = Counter()
        self.reading: list[int] = []
        self.senders: list[int] = []
        self.links: list[FakeLink] = []
        self.late: list[Sequence[Command]] = []
        self.auto = False
        self.held = False
        self.refusals: list[Exception] = []
        self._interrupt: BaseException | None = None
        self._streams: defaultdict[str, list[tuple[int, list[bytes]]]] = defaultdict(list)
        self._answered: defaultdict[str, dict[int, str]] = defaultdict(dict)
        self._jobs: dict[str, str] = {}
        self._fences: set[str] = set()
        self._entries = 0

    # --- what a test does ---

    def until(self, happened: Callable[[], object], *, within_s: float = SOON_S) -> None:
        with self.changed:
            assert self.changed.wait_for(happened, within_s), "it does not happen"

    def answer(self, *ids: str) -> None:
        """Answer these calls, all at once."""
        with self.changed:
            for id in ids:
                self._answer(id)
            self.changed.notify_all()

    def cut(self) -> None:
        """All links are lost."""
        with self.changed:
            for link in self.links:
                link.lost = True
            self.changed.notify_all()

    def interrupt(self, error: BaseException) -> None:
        """Raise an error in the thread that reads."""
        with self.changed:
            assert self.reading
            self._interrupt = error
            self.changed.notify_all()

    def release(self) -> None:
        with self.changed:
            self.held = False
            self.changed.notify_all()

    def deliver_late(self) -> None:
        """Packets of lost links arrive after all."""
        with self.changed:
            late, self.late = self.late, []
            for commands in late:
                self._carry_out(commands)
            self.changed.notify_all()

    # --- what a dial does ---

    server = "there"
    ground = MACHINE

    def connect(self, *, timeout_s: float) -> FakeLink:
        with self.changed:
            if self.refusals:
                raise self.refusals.pop(0)
            self.links.append(FakeLink(self))
            return self.links[-1]

    @property
    def open_links(self) -> list[FakeLink]:
        return [link for link in self.links if not link.closed]

    # --- what a server does ---

    def exchange(self, link: FakeLink, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        with self.changed:
            if link.lost or link.closed:
                self.late.append([c for c in commands if c[0] != "XREAD"])
                raise LinkLost("cut")
            replies = self._carry_out(commands)
            self.changed.notify_all()
            if commands[-1][0] == "XREAD":
                replies[-1] = self._read(link, commands[-1])
            elif any(command[1] == ROUTE for command in commands):
                self._reply(link)
            return replies

    def _reply(self, link: FakeLink) -> None:
        self.senders.append(threading.get_ident())
        self.changed.notify_all()
        self.changed.wait_for(lambda: link.lost or not self.held)
        if link.lost:
            raise LinkLost("cut")

    def _read(self, link: FakeLink, command: Command) -> Any:
        thread = threading.get_ident()
        self.reading.append(thread)
        self.changed.notify_all()
        try:
            self.changed.wait_for(
                lambda: link.lost or self._interrupt or self._found(command),
                int(command[2]) / 1000,
            )
        finally:
            self.reading.remove(thread)
            self.changed.notify_all()
        if self._interrupt:
            error, self._interrupt = self._interrupt, None
            raise error
        if link.lost:
            raise LinkLost("cut")
        return self._found(command) or None

    def _found(self, command: Command) -> list[Any]:
        names = command[4:]
        found = []
        for key, cursor in zip(names[: len(names) // 2], names[len(names) // 2 :], strict=True):
            after = int(bytes(str(cursor), "ascii").strip(b"b'").partition(b"-")[0])
            entries = [
                (b"%d-0" % number, flat)
                for number, flat in self._streams[str(key)]
                if number > after
            ]
            if entries:
                found.append((str(key).encode(), entries))
        return found

    def _carry_out(self, commands: Sequence[Command]) -> list[Any]:
        return [self._carry_out_one(command) for command in commands]

    def _carry_out_one(self, command: Command) -> Any:
        if command[0] == "SET":
            self._fences.add(str(command[1]))
        elif command[0] == "XTRIM":
            self._trim(str(command[1]), command[3])
        elif command[0] == "UNLINK":
            self._streams.pop(str(command[1]), None)
            self._answered.pop(str(command[1]), None)
        elif command[1] == ROUTE:
            return self._route(command)
        else:
            assert command[0] in ("XREAD", "SCRIPT") or command[1] == WITHDRAW
        return 1

    def _trim(self, key: str, cursor: Any) -> None:
        first = int(cursor.partition(b"-")[0])
        self._streams[key] = [e for e in self._streams[key] if e[0] >= first]
        self._answered[key] = {n: id for n, id in self._answered[key].items() if n >= first}

    def _route(self, command: Command) -> list[bytes]:
        box, fence = str(command[5]), str(command[9])
        ids = [str(id) for id in command[11::3]]
        checked = not fence or CLUSTER.keys.fence(fence) in self._fences
        for id in ids:
            told = self._answered[results_key(box)].values()
            if checked and (id in self._jobs or id in told):
                continue
            self._jobs[id] = results_key(box)
            self.queued[id] += 1
            if self.auto:
                self._answer(id)
        return [b""] * len(ids)

    def _answer(self, id: str) -> None:
        key = self._jobs.pop(id)
        self._entries += 1
        self._streams[key].append((self._entries, entry(answered(id))))
        self._answered[key][self._entries] = id


class FakeLink:
    """As ``link.Link``, for the one thread that uses it, and one that interrupts it."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self.lost = False
        self.closed = False

    def exchange(
        self, commands: Sequence[Command], *, timeout_s: float, prelude_bytes: int = 0
    ) -> list[Any]:
        return self._server.exchange(self, commands, timeout_s)

    def interrupt(self) -> None:
        with self._server.changed:
            self.lost = True
            self._server.changed.notify_all()

    def close(self) -> None:
        with self._server.changed:
            self.closed = True
            self._server.changed.notify_all()
