"""What a test does with a cluster, whichever way that is run.

Knows which nodes there are, and what may be done to them. Must not know whether time and processes
are real: see ``memory`` and ``processes``; nor how calls are made: see ``caller``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from types import TracebackType
from typing import Any, ClassVar, Literal, NoReturn, Protocol, Self, cast

from rqproc.app import App
from rqproc.client import Client
from rqproc.errors import ConfigError
from rqproc.ids import Id, canonical
from rqproc.sample import with_demo
from rqproc.settings import NodeSettings
from rqproc.testing.caller import Caller, Which
from rqproc.testing.watching import name_of

NOT_YET = "the cluster does not run yet: enter it, as in `with LocalCluster(app) as cluster`"


class Gate(Protocol):
    """Where runs of one id are held, whichever way their cluster is run."""

    def held(self) -> int:
        """Return how many runs have come to it."""

    def open(self) -> None:
        """Let all go on; a second time it does nothing."""


class Held:
    """Runs of one id that stop before their handler's first line, until they are released."""

    def __init__(self, kit: Kit, gate: Gate, what: str) -> None:
        self._kit = kit
        self._gate = gate
        self._what = what

    def wait(self, count: int = 1) -> None:
        """Wait until so many runs are held. Raises: AssertionError: it does not come to that."""
        within_s = self._kit.held_within_s
        came = self._kit._comes(lambda: self._gate.held() >= count, within_s)
        assert came, (
            f"{self._gate.held()} of {count} runs of {self._what} held within {within_s:g} s: "
            "those of one id come one after another, and with a ttl calls join the first"
        )

    def release(self) -> None:
        """Let them go on; later ones of this id are not held."""
        self._gate.open()


class Kit(Caller):
    """A cluster of an app, for one test. A context: entered it runs, left it is gone.

    While it runs all requests of the app (``price.request``, ``app.client``, nested ones in
    handlers) ask this cluster.

    Args:
        app: whose resources the nodes serve.
        nodes: how many there are at first: ``node-1``, ``node-2``, ...
        settings: of the nodes, as ``rqproc.settings.NodeSettings`` takes them.

    Attributes:
        client: a ``rqproc.Client`` of this cluster.
        settings: of its nodes.
        held_within_s: seconds, by its clock, that ``Held.wait`` waits.

    Raises:
        ConfigError: settings out of bounds, a negative number of nodes.
    """

    held_within_s: ClassVar[float]

    def __init__(self, app: App, nodes: int = 3, **settings: Any) -> None:
        if not isinstance(app, App):
            raise ConfigError(f"a cluster under test is an App's, not {app!r}")
        super().__init__()
        if not isinstance(nodes, int) or nodes < 0:
            raise ConfigError(f"invalid nodes={nodes!r}: a whole number, 0 or more")
        self.app = app
        self.settings = _settings(settings)
        self._first_nodes = nodes
        self.client = cast(Client, _NotYet())
        self._names = 0
        self._living: dict[str, Literal["running", "paused"]] = {}
        self._server_runs = True
        self._begun = False
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._begin(stack)
            self._begun = True
            for _ in range(self._first_nodes):
                self.join()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"The last events of the cluster:\n{self.history.last()}")
        self._stack.__exit__(kind, error, trace)

    # --- the cluster ---

    def owner(self, id: Id) -> str | None:
        """Return the name of the member that owns an id, None where there is none."""
        return self.client.owner(id)

    def members(self) -> tuple[str, ...]:
        """Return the names of the live members, sorted."""
        return self.client.members()

    @property
    def epoch(self) -> int:
        """How often the member list has changed."""
        return self.client.membership().epoch

    @abstractmethod
    def advance(self, seconds: float) -> None:
        """Let time pass: entries expire, leases run out, nodes beat, callers give up."""

    def join(self, name: str | None = None) -> str:
        """Start a node, and wait until it serves; return its name.

        Args:
            name: the next of ``node-1``, ``node-2``, ... if not given. That of a node that was
                killed is free when its lease has run out: this waits for it.

        Raises:
            NameTaken, RedisUnavailable.
        """
        if name is None:
            self._names += 1
            name = f"node-{self._names}"
        if name == "client":
            raise ConfigError("no node can be named 'client': that is the test's own side")
        if not self._begun:
            raise ConfigError(NOT_YET)
        self._join(name)
        self._living[name] = "running"
        self._note("joined", node=name)
        return name

    def leave(self, name: str) -> None:
        """Have a node drain: it finishes what it holds, hands over the rest, and ends."""
        self._check_is(name, "running", "a node that stands still cannot leave: resume() or kill()")
        self._leave(name)
        del self._living[name]
        self._note("left", node=name)

    def kill(self, name: str) -> None:
        """``kill -9``: the cluster learns of it when the lease runs out."""
        self._check_lives(name)
        del self._living[name]
        self._note("killed", node=name)
        self._kill(name)

    def pause(self, name: str) -> None:
        """Stop a node's process where it is, as SIGSTOP does or a machine that swaps."""
        self._check_is(name, "running", "it is paused already")
        self._living[name] = "paused"
        self._note("paused", node=name)
        self._pause(name)

    def resume(self, name: str) -> None:
        """Let it go on: it does not know that it stood still."""
        self._check_is(name, "paused", "it is not paused")
        self._living[name] = "running"
        self._note("resumed", node=name)
        self._resume(name)

    def partition(self, name: str) -> None:
        """Cut a node off from Redis: it sends and hears nothing, and no connection breaks.

        ``client`` is the test's own side.
        """
        self._check_lives(name, "client")
        self._note("cut off", node=name)
        self._partition(name)

    def heal(self, name: str | None = None) -> None:
        """Let a node reach Redis again; without a name all of them."""
        if name is not None:
            self._check_lives(name, "client")
        self._note("healed", node=name or "")
        self._heal(name)

    def redis_down(self) -> None:
        """Stop the server; its data will be there again."""
        if not self._server_runs:
            raise ConfigError("the server is down already: redis_up() starts it")
        self._server_runs = False
        self._note("server down")
        self._redis_down()

    def redis_up(self) -> None:
        """Start the server again, as another process with the data of before."""
        if self._server_runs:
            raise ConfigError("the server runs: redis_down() stops it")
        self._redis_up()
        self._server_runs = True
        self._note("server up")

    def lose_reply(self, name: str = "client") -> None:
        """The next function that a node, or the client, calls is carried out, and its reply is
        lost with the connection.
        """
        self._check_lives(name, "client")
        self._note("reply lost", node=name, text="of the next function")
        self._lose_reply(name)

    @contextmanager
    def hold(self, resource: Which, id: Id) -> Iterator[Held]:
        """Hold all runs of an id before their handler's first line, while the context lasts.

        Example:
            >>> with cluster.hold(price, 42) as held:
            ...     calls = [cluster.start(price, 42) for _ in range(100)]
            ...     held.wait()
        """
        name = self._declared(resource)
        gate = self._shut(name, canonical(id))
        try:
            yield Held(self, gate, f"{name} {id}")
        finally:
            gate.open()

    # --- what happened ---

    def computations(self, resource: Which, id: Id) -> int:
        """Return how often the handler was started for an id, on all nodes together."""
        return self.history.computations(self._declared(resource), canonical(id))

    def assert_serial(self, *, strict: bool = False) -> None:
        """Nowhere have two runs of one id overlapped.

        Args:
            strict: count runs too that a node was paused or cut off in, which may outlive its
                lease; with ``rqproc node start --strict`` they do not.

        Raises:
            AssertionError: they have.
        """
        history = self.history
        for run, later in history.overlaps(strict=strict):
            raise AssertionError(
                f"two runs of one id at once: {run}; {later}\n{history.of(run.resource, run.id)}"
            )

    # --- for those who run it ---

    @abstractmethod
    def _begin(self, stack: ExitStack) -> None:
        """Set up the server and ``client``; what is to be undone goes on the stack."""

    @abstractmethod
    def _join(self, name: str) -> None: ...
    @abstractmethod
    def _leave(self, name: str) -> None: ...
    @abstractmethod
    def _kill(self, name: str) -> None: ...
    @abstractmethod
    def _pause(self, name: str) -> None: ...
    @abstractmethod
    def _resume(self, name: str) -> None: ...
    @abstractmethod
    def _partition(self, name: str) -> None: ...
    @abstractmethod
    def _heal(self, name: str | None) -> None: ...
    @abstractmethod
    def _redis_down(self) -> None: ...
    @abstractmethod
    def _redis_up(self) -> None: ...
    @abstractmethod
    def _lose_reply(self, name: str) -> None: ...
    @abstractmethod
    def _shut(self, resource: str, id: Id) -> Gate: ...

    # --- inside ---

    def _declared(self, resource: Which) -> str:
        """Return a resource's name; one that the app does not have would never come to anything."""
        name, there = name_of(resource), with_demo(self.app)
        if name not in there:
            raise ConfigError(f"the app has no resource {name!r}; it has {', '.join(there)}")
        return name

    def _check_lives(self, name: str, *others: str) -> None:
        if name not in self._living and name not in others:
            there = ", ".join(self._living) or "none"
            raise ConfigError(f"no node {name!r} here; there are {there}")

    def _check_is(self, name: str, state: Literal["running", "paused"], advice: str) -> None:
        self._check_lives(name)
        if self._living[name] != state:
            raise ConfigError(f"node {name!r} is {self._living[name]}: {advice}")


def _settings(wanted: dict[str, Any]) -> NodeSettings:
    known = [field.name for field in fields(NodeSettings)]
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(
            f"invalid settings of a cluster under test: {', '.join(unknown)}; there are "
            f"{', '.join(known)}"
        )
    return NodeSettings(**wanted)


class _NotYet:
    """In the place of the client of a cluster that was not entered."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ConfigError(NOT_YET)
