"""Where it happens: a server, a proxy before it, nodes behind their doors, and a client that sees.

Knows how the parts are put together. Must not know what is done to them.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rqproc.client import Client
from rqproc.errors import HandlerTimeout, RqprocError
from rqproc.stage import NodeProcess
from rqproc.torture import wishes
from rqproc.torture.app import app as own_app
from rqproc.torture.book import Told, read
from rqproc.torture.herd import Beast, Herd
from rqproc.torture.ledger import Ledger
from rqproc.torture.load import ask_many
from rqproc.torture.pages import BOOK, writing_into
from rqproc.torture.proxy import Proxy
from rqproc.torture.server import Server

NAMESPACE = "torture"
CALLERS = ("callers", "async")
RECOVER_WITHIN_S = 20.0
PROBE_S = 2.0
QUIET_WITHIN_S = 10.0


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
        """Return the quick keys that a node owns, none if nobody can say."""
        found = []
        with suppress(RqprocError):
            for resource, ids in wishes.QUICK.items():
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

    def await_runs(self) -> None:
        """Wait, for a while, until no node runs a handler: be it for callers that have given up."""
        end = time.monotonic() + QUIET_WITHIN_S
        while self._any_runs() and time.monotonic() < end:
            time.sleep(0.05)

    def _any_runs(self) -> bool:
        pids = {beast.pid for beast in self.herd.alive}
        return any(run.ended is None and run.pid in pids for run in self.told().runs)

    def told(self) -> Told:
        """Return what handlers have written into the book."""
        with self.book.open() as lines:
            return read(lines)

    def _all_members(self) -> bool:
        pids = {node.pid for node in self.client.membership().nodes if node.state == "member"}
        return {beast.pid for beast in self.herd.alive} <= pids

    def _all_answered(self) -> bool:
        """Resources are asked side by side: handlers that ask others take their time."""
        with ThreadPoolExecutor(len(wishes.PROBED)) as threads:
            return all(threads.map(self._answers, *zip(*wishes.PROBED.items(), strict=True)))

    def _answers(self, resource: str, ids: Sequence[int]) -> bool:
        found = ask_many(self.client, self.ledger, resource, ids, timeout_s=PROBE_S)
        return not any(
            isinstance(outcome, BaseException) and not isinstance(outcome, HandlerTimeout)
            for outcome in found
        )


@contextmanager
def arena(*, size: int, seed: int, lease_s: float, heartbeat_s: float, app: str) -> Iterator[Arena]:
    """Put an arena together, without a node yet; nothing of it is left afterwards."""
    with ExitStack() as stack:
        server = stack.enter_context(Server())
        proxy = stack.enter_context(Proxy(server.path, seed=seed))
        callers = _patient(proxy.door(CALLERS[0]).url)
        stack.enter_context(writing_into(_book(server)))
        client = stack.enter_context(Client(callers, namespace=NAMESPACE, app=own_app))
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
