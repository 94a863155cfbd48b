"""Where it happens: a server, a proxy before it, nodes behind their doors, and a client that sees.

Knows how the parts are put together. Must not know what is done to them.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rqproc.client import Client
from rqproc.errors import RqprocError
from rqproc.stage import NodeProcess
from rqproc.torture import wishes
from rqproc.torture.app import BOOK
from rqproc.torture.herd import Beast, Herd
from rqproc.torture.ledger import Ledger
from rqproc.torture.load import ask_many
from rqproc.torture.proxy import Proxy
from rqproc.torture.server import Server

NAMESPACE = "torture"
CALLERS = ("callers", "async")
RECOVER_WITHIN_S = 20.0
PROBE_S = 2.0


@dataclass(frozen=True)
class Arena:
    """The parts. ``client`` is one of the callers."""

    server: Server
    proxy: Proxy
    herd: Herd
    client: Client
    ledger: Ledger
    lease_s: float
    callers: Sequence[str] = CALLERS

    @property
    def book(self) -> Path:
        return _book(self.server)

    def url(self, door: str) -> str:
        """Return a door's URL."""
        return _patient(self.proxy.door(door).url)

    def owned_by(self, name: str) -> tuple[str, ...]:
        """Return the keys that a node owns, none if nobody can say."""
        found = []
        with suppress(RqprocError):
            for resource, ids in _asked():
                found += [
                    f"{resource}:{at.id}"
                    for at in self.client.locate(ids, resource)
                    if at.owner == name
                ]
        return tuple(found)

    def tell_of(self, dead: Beast) -> None:
        """Report a death, as its supervisor would; where that fails the lease has to run out."""
        with suppress(RqprocError):
            self.client.report_death(dead.name, pid=dead.pid, host=socket.gethostname())

    def drain_from_afar(self, beast: Beast) -> bool:
        """Do as ``rqproc node drain`` does; return whether the node is told."""
        beast.will_drain()
        with suppress(RqprocError):
            return self.client.drain(beast.name)
        return False

    def recover(self) -> float | None:
        """Wait until every node is a member and every id is answered; return when, or None.

        Nodes that have ended are replaced. For each id an answer is awaited that was asked for now.
        """
        end = time.monotonic() + RECOVER_WITHIN_S
        while time.monotonic() < end:
            self.herd.tend()
            with suppress(RqprocError):
                if self._all_members() and self._all_answered():
                    return time.monotonic()
            time.sleep(0.01)
        return None

    def _all_members(self) -> bool:
        pids = {node.pid for node in self.client.membership().nodes if node.state == "member"}
        return {beast.pid for beast in self.herd.alive} <= pids

    def _all_answered(self) -> bool:
        return all(self._answers(resource, ids) for resource, ids in _asked())

    def _answers(self, resource: str, ids: Sequence[int]) -> bool:
        found = ask_many(self.client, self.ledger, resource, ids, timeout_s=PROBE_S)
        return not any(isinstance(outcome, BaseException) for outcome in found)


@contextmanager
def arena(*, size: int, seed: int, lease_s: float, heartbeat_s: float, app: str) -> Iterator[Arena]:
    """Put an arena together, without a node yet; nothing of it is left afterwards."""
    with ExitStack() as stack:
        server = stack.enter_context(Server())
        proxy = stack.enter_context(Proxy(server.path, seed=seed))
        callers = _patient(proxy.door(CALLERS[0]).url)
        client = stack.enter_context(Client(callers, namespace=NAMESPACE))
        options = ["--lease", str(lease_s), "--heartbeat", str(heartbeat_s)]
        options += ["--concurrency", "16", "--log-level", "warning", "--strict"]
        environ = {BOOK: str(_book(server))}

        def launch(name: str) -> NodeProcess:
            url = proxy.door(name).url
            return NodeProcess(name, url, NAMESPACE, [*options, app], environ=environ)

        herd = stack.enter_context(Herd(launch, size))
        stack.callback(_end_all, _book(server))
        yield Arena(server, proxy, herd, client, Ledger(), lease_s)


def processes_of(book: Path) -> list[int]:
    """Return the processes that were told of a book and live; Linux alone can say."""
    mark, found = f"{BOOK}={book}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone, or not ours to read
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return [pid for pid in found if pid != os.getpid()]


def _end_all(book: Path) -> None:
    for pid in processes_of(book):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _patient(url: str) -> str:
    """RQ's own classes wait no longer than a second."""
    return f"{url}?socket_timeout=1"


def _book(server: Server) -> Path:
    return server.folder / "book"


def _asked() -> list[tuple[str, Sequence[int]]]:
    return [("kept", wishes.KEPT), *((name, wishes.SERIAL_IDS) for name in wishes.SERIAL)]
