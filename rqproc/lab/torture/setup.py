"""Where it happens: a server, a proxy before it, nodes behind their ports, and a client that sees.

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
from rqproc.lab.proxy import Proxy
from rqproc.lab.servers import ServerProcess
from rqproc.lab.torture import choices
from rqproc.lab.torture.app import app as own_app
from rqproc.lab.torture.ledger import Ledger
from rqproc.lab.torture.load import ask_many
from rqproc.lab.torture.nodes import TorturedNode, TortureNodes
from rqproc.lab.torture.run_log import RUN_LOG, RunLog, writing_into
from rqproc.lab.usage import with_environment
from rqproc.placement import Placement

NAMESPACE = "torture"
CALLERS = ("callers", "async")
RECOVER_WITHIN_S = 20.0
PROBE_S = 2.0
QUIET_WITHIN_S = 10.0


@dataclass(frozen=True)
class Setup:
    """The parts. ``client`` is one of the callers."""

    server: ServerProcess
    proxy: Proxy
    nodes: TortureNodes
    client: Client
    ledger: Ledger
    run_log: RunLog
    lease_s: float
    callers: Sequence[str] = CALLERS

    def url(self, port: str) -> str:
        """Return a port's URL."""
        return _patient(self.proxy.url(port))

    def owned_by(self, name: str) -> tuple[str, ...]:
        """Return the quick keys that a node owns, none if nobody can say."""
        found = []
        with suppress(RqprocError):
            for resource, ids in choices.QUICK.items():
                found += [
                    f"{resource}:{at.id}"
                    for at in self.client.locate(ids, resource)
                    if at.owner == name
                ]
        return tuple(found)

    def tell_of(self, dead: TorturedNode) -> None:
        """Report a death, as its supervisor would; where that fails the lease has to run out."""
        with suppress(RqprocError):
            self.client.report_death(dead.name, pid=dead.pid, host=socket.gethostname())

    def drain_from_afar(self, node: TorturedNode) -> bool:
        """Do as ``rqproc node drain`` does; return whether the node is told."""
        node.will_drain()
        with suppress(RqprocError):
            return self.client.drain(node.name)
        return False

    def recover(self) -> float | None:
        """Wait until every node is a member and every id is answered; return when, or None.

        TortureNodes that have ended are replaced. For each id an answer is awaited that was asked
        for now.
        """
        end = time.monotonic() + RECOVER_WITHIN_S
        while time.monotonic() < end:
            self.nodes.tend()
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
        pids = {node.pid for node in self.nodes.alive}
        return any(run.ended is None and run.pid in pids for run in self.run_log.told().runs)

    def left_processes(self) -> list[int]:
        """Return the processes that were told of its run log and live; Linux alone can say."""
        return _told_of(_run_log(self.server))

    def _all_members(self) -> bool:
        pids = {node.pid for node in self.client.membership().nodes if node.state == "member"}
        return {node.pid for node in self.nodes.alive} <= pids

    def _all_answered(self) -> bool:
        """Resources are asked side by side: handlers that ask others take their time."""
        with ThreadPoolExecutor(len(choices.PROBED)) as threads:
            return all(threads.map(self._answers, *zip(*choices.PROBED.items(), strict=True)))

    def _answers(self, resource: str, ids: Sequence[int]) -> bool:
        found = ask_many(self.client, self.ledger, resource, ids, timeout_s=PROBE_S)
        return not any(
            isinstance(outcome, BaseException) and not isinstance(outcome, HandlerTimeout)
            for outcome in found
        )


@contextmanager
def setup(
    *, size: int, seed: int, lease_s: float, heartbeat_s: float, app: str, placement: Placement
) -> Iterator[Setup]:
    """Put a setup together, without a node yet; nothing of it is left afterwards."""
    with ExitStack() as stack:
        # A result is a stream of one entry, which takes 4 KB by default.
        server = stack.enter_context(ServerProcess("--stream-node-max-bytes", "256", keeps=True))
        proxy = stack.enter_context(Proxy(server.path, seed=seed))
        callers = _patient(proxy.url(CALLERS[0]))
        path = _run_log(server)
        run_log = stack.enter_context(writing_into(path))
        client = stack.enter_context(Client(callers, namespace=NAMESPACE, app=own_app))
        options = ["--lease", str(lease_s), "--heartbeat", str(heartbeat_s)]
        options += ["--concurrency", "16", "--log-level", "warning", "--strict"]
        options += ["--placement", placement, "--handoff"]
        environ = {RUN_LOG: str(path)}

        def launch(name: str) -> TorturedNode:
            return TorturedNode(name, proxy.url(name), NAMESPACE, [*options, app], environ=environ)

        nodes = stack.enter_context(TortureNodes(launch, size))
        stack.callback(_end_all, path)
        yield Setup(server, proxy, nodes, client, Ledger(), run_log, lease_s)


def _told_of(run_log: Path) -> list[int]:
    return with_environment(f"{RUN_LOG}={run_log}")


def _end_all(run_log: Path) -> None:
    for pid in _told_of(run_log):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _patient(url: str) -> str:
    """RQ's own classes wait no longer than a second."""
    return f"{url}?socket_timeout=1"


def _run_log(server: ServerProcess) -> Path:
    return server.folder / "run_log"
