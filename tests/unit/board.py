"""A switchboard without connections: packets are composed and answered by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caller import CLUSTER, answered, batch, entry

from rqproc import calls, wire
from rqproc.keys import results_key
from rqproc.link import Command
from rqproc.packets import Demand, Packet, Seat
from rqproc.switchboard import Switchboard
from rqproc.wanted import Wanted

ROUTE = CLUSTER.route(calls.batch([], kind="job").order)[1]
WITHDRAW = CLUSTER.withdraw(calls.batch([], kind="job").order, timeout_s=1.0)[1]

GRACE_S, WAIT_S = 1.5, 2.0


class Guest:
    """One caller at the board."""

    def __init__(self, board: Switchboard, *ids: int, timeout_s: float = 10.0) -> None:
        self._board = board
        self.wanted = Wanted(batch(*ids or (1,), timeout_s=timeout_s).order)
        self.ids = [job.id for job in self.wanted.order.jobs]
        self.woken = 0
        self.seat: Seat = board.sit(self.wanted, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def asks(self) -> Guest:
        """Have its calls sent for the first time."""
        return self._post(Demand(self.wanted.order, self.wanted.order.timeout_s))

    def nudges(self, *, left_s: float = 8.0, quiet: bool = False, withdraw: bool = False) -> Guest:
        """Have what has no answer sent again."""
        missing = self.wanted.missing()
        return self._post(Demand(missing, left_s, again=True, quiet=quiet, withdraw=withdraw))

    def _post(self, demand: Demand) -> Guest:
        self._board.post(self.seat, (demand,), wait_s=WAIT_S, grace_s=GRACE_S)
        return self

    def leaves(self) -> None:
        self._board.leave(self.seat)


def sent(board: Switchboard) -> list[Command]:
    """What goes out now, and arrives."""
    packet = board.compose()
    arrive(board, packet)
    return packet.commands


def arrive(board: Switchboard, packet: Packet, *, report: bytes = b"") -> None:
    """The server answers a packet; ``report``: what it says of each call."""
    replies = [[report] * len(kind[0].jobs) if kind else 1 for kind in packet.routes]
    board.heard(packet, replies)


def tell(board: Switchboard, *answers: wire.Answer, box: str = "", first: int = 1) -> None:
    """A look finds these answers in a box, else in the present one."""
    key = results_key(box) if box else present_key(board)
    found: Any = [(f"{first + n}-0".encode(), entry(a)) for n, a in enumerate(answers)]
    board.take_in([(key.encode(), found)])


def present_key(board: Switchboard) -> str:
    """The key of the box for whoever asks now: the last of those that are read."""
    return str(streams(board)[-1][0])


def streams(board: Switchboard) -> list[tuple[str, Any]]:
    """The streams that are read, and from where on."""
    read = board.read(1.0)
    names = read[read.index("STREAMS") + 1 :]
    half = len(names) // 2
    return [(str(key), cursor) for key, cursor in zip(names[:half], names[half:], strict=True)]


def routes(commands: Sequence[Command]) -> list[Command]:
    return [command for command in commands if command[1] == ROUTE]


def routed(command: Command) -> list[str]:
    """The ids of the calls that a command of route carries."""
    assert command[1] == ROUTE
    return [str(id) for id in command[11::3]]


def box_of(command: Command) -> str:
    return str(command[5])


def is_checked(command: Command) -> bool:
    """Whether route looks for each call."""
    return command[9] == ""


def is_quiet(command: Command) -> bool:
    return command[10] == 1


def verbs(commands: Sequence[Command]) -> list[str]:
    """What each command does, in a word."""
    known = {ROUTE: "route", WITHDRAW: "withdraw"}
    return [known.get(command[1], str(command[0])) for command in commands]


def fill(board: Switchboard, count: int) -> None:
    """Have so many calls asked for and answered."""
    for number in range(count):
        guest = Guest(board).asks()
        sent(board)
        tell(board, answered(guest.ids[0]), first=number + 1)
        guest.leaves()
