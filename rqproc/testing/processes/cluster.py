"""A cluster of real processes on a server of its own, for one test; its clock is the real one.

Knows which processes there are, and who tells what. What each of them does is in ``spawner`` and
``node_process`` (nodes), ``network``.

1. The spawner and the network are forked, before anything is started that they should not inherit.
2. The server starts, the test's own client gets its port to it, and the app's requests go there.
3. Nodes are forked by the spawner, each with a port of its own. What happens in them is written to
   the ``journal``, of which no fault takes anything away; where a test holds runs, they wait at
   ``gates``.
4. When the test's process leaves, or has gone, the channels of 1 end: so do nodes and server, and
   no file stays.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

from rqproc.app import App
from rqproc.errors import ConfigError, RqprocError
from rqproc.ids import Id
from rqproc.lab.servers import PrivateServer
from rqproc.protocol.library import library
from rqproc.testing.caller import GRACE_S
from rqproc.testing.events import Event, History
from rqproc.testing.kit import Kit
from rqproc.testing.pending import Pending
from rqproc.testing.processes.callers import Callers
from rqproc.testing.processes.event_log import Child, EventLog
from rqproc.testing.processes.forks import last_lines
from rqproc.testing.processes.gates import FileGate, FileGates
from rqproc.testing.processes.journal import ClusterJournal
from rqproc.testing.processes.network import Network
from rqproc.testing.processes.node_process import UNFINISHED, ForkedNode
from rqproc.testing.processes.spawner import Spawner

NAMESPACE = "test"
CLIENT = "client"

PAUSE_S = 0.002
SETTLED_WITHIN_S = 10.0
"""What a call is given to reach the server, and its node to take it, however busy the machine."""
IN_VAIN_S = 0.3
"""The same where the server is away."""
READY_WITHIN_S = 20.0
ENDED_WITHIN_S = 10.0
CALLERS_WITHIN_S = 0.2
"""What calls still under way may take to notice that their cluster has gone."""


class RealCluster(Kit):
    """A cluster of an app as it is in production: an embedded server, nodes as real processes.

    It takes what the kit's other cluster takes, and does the same; but time is real here, so that
    ``advance`` sleeps, and two runs of a test may take different courses. Nodes are forked from the
    test's process: handlers may be closures, but what they change in memory, no one else sees.

    Args:
        app, nodes, settings: see ``Kit``.
        seed: for a course that can be repeated, which there is none of here.

    Raises:
        EmbeddedUnavailable: on entering: there is no server for this machine.
    """

    def __init__(self, app: App, nodes: int = 3, *, seed: int = 0, **settings: Any) -> None:
        super().__init__(app, nodes, **settings)
        self._event_log = EventLog()
        self._nodes: dict[str, Child] = {}
        self._callers = Callers()
        self._last_call: tuple[Thread, int] | None = None
        self._client_cut = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        deaths = self._deaths()
        super().__exit__(kind, error, trace)
        if error is None and deaths:
            raise AssertionError(deaths)

    held_within_s = 20.0

    # --- what happened ---

    @property
    def now_s(self) -> float:
        return self._event_log.now_s

    @property
    def history(self) -> History:
        return self._event_log.history()

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds} s")
        time.sleep(seconds)
        self._check()

    # --- how it is run ---

    def _begin(self, stack: ExitStack) -> None:
        folder = Path(tempfile.mkdtemp(prefix="rqproc-"))
        server = self._server = PrivateServer(folder)
        stack.callback(server.remove)
        runtime = server.places.runtime
        runtime.mkdir(mode=0o700, exist_ok=True)
        journal = self._event_log.journal = ClusterJournal(folder / "journal")
        stack.callback(journal.close)
        stack.callback(self._event_log.read)
        self._gates = FileGates(folder / "gates", self._event_log.held_at)
        library()  # made once, so that no node has to
        forked = ForkedNode(self.app, NAMESPACE, self.settings, journal, self._gates)
        stack.callback(self._callers.join, CALLERS_WITHIN_S)
        stack.callback(server.clear_up)
        self._spawner = stack.enter_context(
            Spawner(forked, clear_up=server.clear_up, logs=folder, journal=journal)
        )
        self._network = stack.enter_context(
            Network(runtime, server.places.socket, log=folder / "network")
        )
        server.start()
        stack.enter_context(self.app.at(self._network.port(CLIENT), namespace=NAMESPACE))
        self.client = self.app.client
        stack.callback(self._let_go)

    def _join(self, name: str) -> None:
        port = self._network.port(name)
        self._network.open(name)  # a predecessor may have died cut off
        child = self._event_log.born(name, lambda: self._spawner.start(name, port))
        within_s = READY_WITHIN_S + 2 * self.settings.lease_s
        if not self._comes(lambda: child.serves or child.error or child.code is not None, within_s):
            self._end(child, signal.SIGKILL)
        if child.error:
            raise child.error
        if not child.serves:
            raise AssertionError(f"{name} did not start: {self._said(name)}")
        self._nodes[name] = child

    def _leave(self, name: str) -> None:
        child = self._node(name)
        self._end(child, signal.SIGTERM, within_s=self.settings.drain_s + ENDED_WITHIN_S)
        if child.code not in (0, UNFINISHED):
            raise AssertionError(f"{name} has died ({child.code}): {self._said(name)}")

    def _kill(self, name: str) -> None:
        self._end(self._node(name), signal.SIGKILL)

    def _pause(self, name: str) -> None:
        child = self._node(name)
        self._spawner.signal(child.pid, signal.SIGSTOP)
        child.paused = True

    def _resume(self, name: str) -> None:
        child = self._node(name)
        self._spawner.signal(child.pid, signal.SIGCONT)
        child.paused = False

    def _partition(self, name: str) -> None:
        self._cut(name, cut=True)

    def _heal(self, name: str | None) -> None:
        for each in [*self._nodes, CLIENT] if name is None else [name]:
            self._cut(each, cut=False)

    def _redis_down(self) -> None:
        self._server.stop()

    def _redis_up(self) -> None:
        self._server.start()

    def _lose_reply(self, name: str) -> None:
        self._network.lose_reply(self._port(name))

    def _shut(self, resource: str, id: Id) -> FileGate:
        return self._gates.shut(resource, id)

    def _add(self, event: Event) -> None:
        self._event_log.add(event)

    def _spawn(self, work: Callable[[], None]) -> None:
        before = self._network.functions(CLIENT)
        self._last_call = (self._callers.start(work), before)

    def _settle(self) -> None:
        """Wait until the last call has ended, or was routed and has been taken by its node.

        Where the server is away, or the client cut off, neither comes: then it is under way.
        """
        if self._last_call is None:
            return
        thread, before = self._last_call

        def routed() -> bool:
            return not thread.is_alive() or self._network.functions(CLIENT) > before

        if not self._server_runs or self._client_cut:
            self._comes(routed, IN_VAIN_S)
        elif self._comes(routed, SETTLED_WITHIN_S):
            self._comes(lambda: not thread.is_alive() or self._all_taken(), SETTLED_WITHIN_S)

    def _complete(self, pending: Pending) -> None:
        left_s = max(0.0, pending.due_s - self.now_s)
        self._callers.wait(lambda: pending.done, left_s + 2 * GRACE_S)

    async def _awaited(self, pending: Pending) -> None:
        await self._callers.awaited(lambda: pending.done)

    # --- inside ---

    def _node(self, name: str) -> Child:
        self._check()
        if name not in self._nodes:
            raise ConfigError(
                f"no node {name!r} here; there are {', '.join(self._nodes) or 'none'}"
            )
        return self._nodes[name]

    def _port(self, name: str) -> str:
        return CLIENT if name == CLIENT else self._node(name).name

    def _cut(self, name: str, *, cut: bool) -> None:
        port = self._port(name)
        if cut:
            self._network.shut(port)
        else:
            self._network.open(port)
        if name == CLIENT:
            self._client_cut = cut
        elif name in self._nodes:
            self._nodes[name].cut = cut

    def _end(
        self, child: Child, number: signal.Signals, *, within_s: float = ENDED_WITHIN_S
    ) -> None:
        """Have a process end by a signal; from now on its end is none that surprises."""
        self._nodes.pop(child.name, None)
        child.serves = False
        self._spawner.signal(child.pid, number)
        if not self._comes(lambda: child.code is not None, within_s):
            raise AssertionError(f"{child.name} does not end: {self._said(child.name)}")

    def _let_go(self) -> None:
        """Expect the end of all nodes."""
        while self._nodes:
            self._nodes.popitem()[1].serves = False

    def _all_taken(self) -> bool:
        """Whether no request waits for a node that can take it."""
        reachable = {
            name
            for name, node in self._nodes.items()
            if not (node.cut or node.paused) and node.code is None
        }
        try:
            found = self.client.membership().nodes
        except RqprocError:
            return True
        return not any(
            node.queued
            for node in found
            if node.name in reachable
            and node.state == "member"  # one that drains takes nothing
            and node.held < self.settings.max_queue
        )

    def _comes(self, happened: Callable[[], object], within_s: float) -> bool:
        until = time.monotonic() + within_s
        while True:
            self._event_log.read()
            if happened():
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(PAUSE_S)

    def _said(self, name: str) -> str:
        return last_lines(self._spawner.log_of(name))

    def _deaths(self) -> str:
        """Forget the nodes that have ended by themselves; return what is known of those who may
        not.
        """
        self._event_log.read()
        dead = [node for node in self._nodes.values() if node.code is not None]
        for node in dead:
            del self._nodes[node.name]
        if self.settings.strict:  # such a node ends where it may not rely on its lease
            return ""
        return "\n".join(f"{node.name} has died: {self._said(node.name)}" for node in dead)

    def _check(self) -> None:
        """Raises: AssertionError: a node has ended by itself."""
        if deaths := self._deaths():
            raise AssertionError(f"{deaths}\n{self.history.last()}")
