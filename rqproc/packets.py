"""What callers want, where they wait for it, and the packets in which it goes out.

Knows the scripts' calls. Must not know who waits for how long, nor connections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any, NamedTuple

from rqproc.cluster import Cluster, Job, Order
from rqproc.keys import results_key
from rqproc.link import Command
from rqproc.names import Names, is_part

MOST_GRACE_S = 1.5
"""Seconds after which a server is late that has nothing to wait for."""


class Demand(NamedTuple):
    """Something that a caller wants to be done about calls of its own.

    Attributes:
        timeout_s: what is left of it.
        again: they may have been sent before.
        quiet: they were known before: that nobody lives is no answer.
        withdraw: where they are lost, they are taken back first.
    """

    calls: Order
    timeout_s: float
    again: bool = False
    quiet: bool = False
    withdraw: bool = False


class Box:
    """A stream in which answers are awaited."""

    def __init__(self) -> None:
        self.name = token_hex(12)
        self.key = results_key(self.name)
        self.cursor: bytes | str = "0-0"
        self.seats = 0
        self.entries = 0
        self.bytes = 0


class Seat:
    """One caller's place at the switchboard.

    Attributes:
        wake: called when there is something for it, from whichever thread found out.
        packet: number of the one that carried its calls first.
        error: what the last packet failed of, until it is fetched.
    """

    __slots__ = ("box", "error", "news", "packet", "waiting", "wake", "wanted")

    def __init__(self, wanted: Any, wake: Callable[[], None]) -> None:
        self.wanted = wanted
        self.wake = wake
        self.box: Box | None = None
        self.packet = 0
        self.error: Exception | None = None
        self.news = False
        self.waiting = False

    def fetch(self) -> bool:
        """Return whether answers have come since the last time.

        Raises:
            LinkLost, Refused: a packet has failed that they may depend on.
        """
        error, self.error = self.error, None
        news, self.news = self.news, False
        if error:
            raise error
        return news


class Route(NamedTuple):
    """Calls that go out in one call of the script; ``seats``: whose they are, in turn."""

    jobs: Sequence[Job]
    seats: Sequence[Seat]


class Alike(NamedTuple):
    """What calls must have in common to go out in one call of the script."""

    timeout_s: float
    parent: str
    together: bytes
    box: str
    again: bool
    quiet: bool


class Packet(NamedTuple):
    """What goes out at once.

    Attributes:
        routes: what the replies are of; None for what needs no answer.
        grace_s: seconds within which the server answers.
        wait_s: seconds that a read in the same packet may block.
        number: how many there were up to this one.
    """

    commands: list[Command]
    routes: list[tuple[Route, bool] | None]
    grace_s: float
    wait_s: float
    number: int

    def say(self, command: Command) -> None:
        """Add what needs no answer."""
        self.commands.append(command)
        self.routes.append(None)

    def ask(self, command: Command, route: Route, alike: Alike) -> None:
        """Add calls."""
        self.commands.append(command)
        self.routes.append((route, alike.quiet))


class Sender:
    """Puts calls into packets, under the names that they have on their way."""

    def __init__(self, cluster: Cluster, names: Names) -> None:
        self._cluster = cluster
        self._names = names

    def send_one(self, packet: Packet, alike: Alike, job: Job, seat: Seat) -> None:
        """Send a call that nobody else sends one with."""
        packet.ask(self._command(alike, (job,), together=False), Route((job,), (seat,)), alike)

    def send(
        self, packet: Packet, alike: Alike, jobs: Sequence[Job], seats: Sequence[Seat]
    ) -> None:
        """Send calls that are alike: those that may, together."""
        whose = list(zip(jobs, seats, strict=True))
        parts = [pair for pair in whose if is_part(pair[0].id)]
        loose = [pair for pair in whose if not is_part(pair[0].id)]
        if alike.together and not alike.again and len(loose) > 1:
            named = self._names.put_together([job for job, _ in loose])
            parts += [(job, seat) for job, (_, seat) in zip(named, loose, strict=True)]
            loose = []
        for calls in (loose, parts):
            if calls:
                route = Route([job for job, _ in calls], [seat for _, seat in calls])
                packet.ask(self._command(alike, route.jobs, together=calls is parts), route, alike)

    def _command(self, alike: Alike, jobs: Sequence[Job], *, together: bool) -> Command:
        fence = "" if alike.again else alike.box
        if together:
            return self._cluster.scatter(
                jobs, data=alike.together, timeout_s=alike.timeout_s, reply=alike.box, fence=fence,
                quiet=alike.quiet,
            )  # fmt: skip
        return self._cluster.route_calls(
            jobs, timeout_s=alike.timeout_s, reply=alike.box, parent=alike.parent, fence=fence,
            quiet=alike.quiet,
        )  # fmt: skip
