"""A cluster in one process whose time stands still until the test lets it pass.

Knows nodes, their threads and the network between them and the server. Clients, nodes and functions
are the real ones; the server is fakeredis, clock and threads are the simulation's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rqproc.app import App
from rqproc.connect import Asker, Askers, AsyncAsker, ServerBackend
from rqproc.errors import ConfigError
from rqproc.ids import Id
from rqproc.local.fallback import fallback, fallback_place
from rqproc.local.spaces import LocalPlace
from rqproc.node.node import Node
from rqproc.protocol.keys import Keys
from rqproc.protocol.messages import Joined
from rqproc.resource import ResourceSpec
from rqproc.testing.caller import Which
from rqproc.testing.events import Event, History
from rqproc.testing.kit import Held, Kit
from rqproc.testing.memory.async_asker import SimAsyncAsker, awaited
from rqproc.testing.memory.connections import SimConnector, SimNetwork
from rqproc.testing.memory.gates import SimGate, SimGates
from rqproc.testing.memory.participants import Group
from rqproc.testing.memory.primitives import SimEvent
from rqproc.testing.memory.runtime import SimRuntime
from rqproc.testing.memory.simulation import Simulation
from rqproc.testing.pending import Pending
from rqproc.testing.watching import Witness, listening, watched

NAMESPACE = "test"
MOST_S = 86400.0
LEFT_WITHIN_S = 120.0


class LocalCluster(Kit):
    """A cluster of an app in this process: no server, no sleep, milliseconds per test.

    Time stands still but for ``advance``, and for what a call of the test waits for: a ``request``
    whose answer takes ten seconds of the cluster's time returns at once, ten seconds later.
    The same test takes the same course in every run.

    Args:
        app, nodes, settings: see ``Kit``.
        seed: of what is left to chance: pauses before something is tried again.

    Example:
        >>> with LocalCluster(app, nodes=3) as cluster:
        ...     cluster.request(price, 42)
        ...     cluster.advance(30)
    """

    def __init__(self, app: App, nodes: int = 3, *, seed: int = 0, **settings: Any) -> None:
        super().__init__(app, nodes, **settings)
        if self.settings.strict:
            raise ConfigError("a strict node ends its process, and here that is the test's own")
        self._simulation = Simulation()
        self._runtime = SimRuntime(self._simulation, seed=seed)
        self._network = SimNetwork(self._simulation, self._runtime.now)
        self._connector = SimConnector(self._network, self._runtime)
        self._keys = Keys(NAMESPACE)
        self._history = History()
        self._gates = SimGates(self._simulation)
        self._witness = Witness(lambda: self.now_s, self._add_of_run, self._gates.before)
        self._nodes: dict[str, _SimNode] = {}

    held_within_s = 60.0

    # --- what happened ---

    @property
    def now_s(self) -> float:
        return self._simulation.now

    @property
    def history(self) -> History:
        return self._history

    def advance(self, seconds: float) -> None:
        if not isinstance(seconds, int | float) or not 0 <= seconds <= MOST_S:
            raise ValueError(
                f"invalid advance({seconds!r}): seconds, 0 to {MOST_S:g}: nodes beat all the while"
            )
        self._simulation.sleep(seconds)
        self._simulation.settle()
        self._check()

    @contextmanager
    def hold(self, resource: Which, id: Id) -> Iterator[Held]:
        with super().hold(resource, id) as held:
            yield held
        self._settle()

    # --- how it is run ---

    def _begin(self, stack: ExitStack) -> None:
        stack.callback(self._simulation.close)
        backend = _SimBackend(self._connector, self._keys, self._simulation, self._runtime)
        stack.enter_context(self.app.at(backend, namespace=NAMESPACE))
        self.client = self.app.client
        stack.enter_context(listening(self._note_warning))

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        if exc[1] is None:
            self._check()

    def _join(self, name: str) -> None:
        node = Node(
            self._connector,
            self._keys,
            watched(self.app, self._witness),
            settings=self.settings,
            name=name,
        )
        sim_node = _SimNode(
            node, Group(name), SimEvent(self._simulation), SimEvent(self._simulation)
        )
        self._simulation.start(sim_node.run, name=name, group=sim_node.group)
        sim_node.ready.wait()
        if sim_node.error:
            raise sim_node.error
        self._nodes[name] = sim_node

    def _leave(self, name: str) -> None:
        sim_node = self._nodes[name]
        sim_node.node.stop()
        assert sim_node.ended.wait(LEFT_WITHIN_S), f"{name} does not leave\n{self.history.last()}"
        del self._nodes[name]

    def _kill(self, name: str) -> None:
        group = self._nodes.pop(name).group
        self._simulation.kill(group)
        self._network.drop(group)

    def _pause(self, name: str) -> None:
        self._nodes[name].group.paused = True

    def _resume(self, name: str) -> None:
        self._simulation.resume(self._nodes[name].group)
        self._settle()

    def _partition(self, name: str) -> None:
        self._network.cut(self._group(name))

    def _heal(self, name: str | None) -> None:
        for each in [*self._nodes, "client"] if name is None else [name]:
            self._network.heal(self._group(each))
        self._settle()

    def _redis_down(self) -> None:
        self._network.stop()
        self._settle()

    def _redis_up(self) -> None:
        self._network.start()

    def _lose_reply(self, name: str) -> None:
        self._network.lose_reply(self._group(name))

    def _shut(self, resource: str, id: Id) -> SimGate:
        return self._gates.shut(resource, id)

    def _add(self, event: Event) -> None:
        self._history.add(event)

    def _spawn(self, work: Callable[[], None]) -> None:
        self._simulation.start(work, name="rqproc-caller", group=self._simulation.guests)

    def _settle(self) -> None:
        self._simulation.settle()
        self._check()

    def _complete(self, pending: Pending) -> None:
        left_s = max(0.0, pending.due_s - self.now_s)
        self._comes(lambda: pending.done, left_s + LEFT_WITHIN_S)

    async def _awaited(self, pending: Pending) -> None:
        await awaited(self._simulation, lambda: pending.done)
        self._check()

    def _comes(self, happened: Callable[[], bool], within_s: float) -> bool:
        until = self.now_s + within_s
        self._settle()
        while not happened():
            if self.now_s >= until:
                return False
            self._simulation.let_time_pass()
            self._check()
        return True

    # --- inside ---

    def _group(self, name: str) -> Group:
        return self._simulation.guests if name == "client" else self._nodes[name].group

    def _check(self) -> None:
        """Raises: AssertionError: a node has died of an error that nobody caught."""
        if self._simulation.crashes:
            name, error = self._simulation.crashes.pop(0)
            raise AssertionError(f"{name} has died: {error!r}\n{self.history.last()}") from error

    def _add_of_run(self, event: Event) -> None:
        if not self._simulation.is_over_here:
            self._add(event)

    def _note_warning(self, text: str) -> None:
        if self._simulation.knows_me:  # not what another cluster has to say
            self._note("note", node=self._simulation.group.name, text=text)


class _SimNode:
    """A node on threads of its own."""

    def __init__(self, node: Node, group: Group, ready: SimEvent, ended: SimEvent) -> None:
        self.node = node
        self.group = group
        self.ready = ready
        self.ended = ended
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.node.run(ready=self._is_ready)
        except Exception as error:
            if self.ready.is_set():
                raise
            self.error = error
        finally:
            self.ready.set()
            self.ended.set()

    def _is_ready(self, name: str, joined: Joined) -> None:
        self.ready.set()


class _SimBackend(ServerBackend):
    """The cluster as its clients see it; those of event loops ask as others do."""

    def __init__(
        self, connector: SimConnector, keys: Keys, simulation: Simulation, runtime: SimRuntime
    ) -> None:
        super().__init__(connector, keys)
        self._simulation = simulation
        self._still = runtime
        self._places: dict[Group, LocalPlace] = {}

    def async_asker(self) -> AsyncAsker:
        return SimAsyncAsker(self.asker(), self._simulation, self._still)

    def fallback(self, resource: ResourceSpec) -> Askers:
        """A node that asks is a process of its own: its handlers end with it."""
        group = self._simulation.group
        if group not in self._places:
            self._places[group] = fallback_place(self._still)
        asker = fallback(self._keys, resource, self._places[group]).asker()
        return _SimAskers(asker, SimAsyncAsker(asker, self._simulation, self._still))


class _SimAskers:
    def __init__(self, asker: Asker, async_asker: AsyncAsker) -> None:
        self._asker = asker
        self._async_asker = async_asker

    def asker(self) -> Asker:
        return self._asker

    def async_asker(self) -> AsyncAsker:
        return self._async_asker
