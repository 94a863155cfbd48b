"""Every error that rqproc raises, in one tree.

Each one carries what a program needs as attributes and tells a person what to do in its message.
Foreign errors are wrapped where they enter, with ``from``; only the command line turns an error
into an exit code: its class's ``exit_code``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

DEFAULT_ADVICE = "Check that it runs, and the URL (--url, RQPROC_REDIS_URL)"
START_WITH_THE_APP = "Start the nodes with the app that declares it: `rqproc node start MODULE:APP`"

NOT_DONE = (
    "it waits at its owner, or runs there: allow more with `timeout`, or look for a busy or stuck "
    "node with `rqproc node list`"
)
NOT_HEARD = (
    "nor did the server say that it has the request: it is slow, or not to be reached. Look at it "
    "with `redis-cli --latency` and `SLOWLOG GET`, or allow more with `timeout`"
)


class RqprocError(Exception):
    """The root of all errors raised by rqproc; ``exit_code`` is what a command ends with.

    Attributes:
        request: str, the id of the request that ended in it, by which the node's logs name it too;
            "" where none was sent.
    """

    exit_code: ClassVar[int] = 1
    request: str = ""


class ConfigError(RqprocError):
    """A setting, an option or a declaration is wrong; the message names it."""

    exit_code = 2


class InvalidId(RqprocError, ValueError):
    """The id cannot name anything.

    Attributes:
        id: what was given.
        reason: str, why it is none.
    """

    exit_code = 2

    def __init__(self, id: object, reason: str) -> None:
        # Only what is surely short and flat is shown: a foreign job may bring anything.
        shown = repr(id) if isinstance(id, str | int | float) else f"of type {type(id).__name__}"
        super().__init__(
            f"invalid id {shown if len(shown) <= 80 else shown[:77] + '...'}: {reason}"
        )
        self.id = id
        self.reason = reason


class PayloadTooLarge(ConfigError):
    """The arguments of a request are over the limit; nothing was sent.

    Attributes:
        size, limit: int, bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the request takes {size} bytes, the limit is {limit}: "
            "pass a reference instead of the data"
        )
        self.size = size
        self.limit = limit


class NoLiveNode(RqprocError):
    """No node of this namespace holds a lease.

    Attributes:
        namespace: str.
    """

    exit_code = 3

    def __init__(self, namespace: str) -> None:
        super().__init__(
            f"no live node in namespace {namespace!r}: start one with `rqproc node start`"
        )
        self.namespace = namespace


class RequestTimeout(RqprocError, TimeoutError):
    """No answer came within the request's timeout. A request not yet started will not be.

    Attributes:
        resource, id: what was asked for.
        timeout_s: float, seconds.
    """

    exit_code = 4

    def __init__(
        self, resource: str, id: object, timeout_s: float, *, advice: str = NOT_DONE
    ) -> None:
        super().__init__(f"no answer for {resource} {id} within {timeout_s:g} s: {advice}")
        self.resource = resource
        self.id = id
        self.timeout_s = timeout_s


class RedisUnavailable(RqprocError, ConnectionError):
    """Redis could not be reached, or refused what rqproc asked of it.

    Attributes:
        server: str, its address without credentials; "embedded" for the embedded one.
        reason: str.
    """

    exit_code = 5

    def __init__(self, server: str, reason: str, *, advice: str = DEFAULT_ADVICE) -> None:
        super().__init__(f"Redis at {server} is not available: {reason}. {advice}")
        self.server = server
        self.reason = reason


class EmbeddedUnavailable(RedisUnavailable):
    """The embedded server cannot run here, or did not start."""

    def __init__(self, reason: str) -> None:
        super().__init__("embedded", reason)
        self.args = (
            f"the embedded server cannot be used: {reason}. Give a Redis or Valkey of your own: "
            "--url redis://HOST:6379 or RQPROC_REDIS_URL",
        )


class Overloaded(RqprocError):
    """The owner's queue is full; nothing was enqueued.

    Attributes:
        node: str, the owner's name.
        queued, limit: int, requests that wait for it, and how many may.
        retry_after_s: float, seconds after which to ask again; None where nobody knows.
    """

    exit_code = 6
    retry_after_s: float | None = None
    _text: ClassVar[str] = (
        "node {node} is overloaded ({queued} requests wait for it, the limit is {limit}): "
        "try again later, add nodes, or raise --max-queue"
    )

    def __init__(self, node: str, queued: int, limit: int) -> None:
        super().__init__(self._text.format(node=node, queued=queued, limit=limit))
        self.node = node
        self.queued = queued
        self.limit = limit


class Crowded(Overloaded):
    """Too many requests of one id are under way; nothing was enqueued. Attributes: as
    ``Overloaded``, for that id.
    """

    _text = (
        "node {node} has {queued} requests of this id under way, the limit is {limit}: "
        "ask for it less often, make its handler faster, or raise --max-waiters"
    )


class RateLimited(Overloaded):
    """The ``rate`` of its resource lets no run begin before its time is over; nothing was run.

    Attributes: as ``Overloaded``; ``retry_after_s``, seconds until a run could begin.
    """

    def __init__(self, node: str, resource: str, retry_after_s: float) -> None:
        super().__init__(node, 0, 0)
        self.retry_after_s = retry_after_s
        self.args = (
            f"the rate of {resource} lets node {node} begin no run for it for {retry_after_s:.3g} "
            "s, past this request's time: ask again then, or allow more with `timeout`",
        )


class LocallyOverloaded(Overloaded):
    """No node can answer, and this process runs as many handlers itself as it may.

    Attributes:
        node: str, HOST:PID of this process.
        queued, limit: int, the handlers that it runs at once.
    """

    _text = (
        "no node can answer, and {limit} handlers run in this process ({node}) already: "
        "try again later, or start nodes with `rqproc node start`"
    )

    def __init__(self, node: str, limit: int) -> None:
        super().__init__(node, limit, limit)


OWN_TIMEOUT = "give what it calls a timeout of its own"
STUCK = f"see `rqproc node list` for stuck nodes, and {OWN_TIMEOUT}"
UNSERVABLE = "UnservableValue"
"""The ``type`` of a HandlerFailed whose handler raised nothing: its value cannot be carried."""


class RemoteError(RqprocError):
    """An error that a node, not the caller, found."""


class HandlerFailed(RemoteError):
    """The handler raised, or its value could not be carried back.

    Attributes:
        resource, id: what was asked for.
        type: str, the remote exception's class name; "UnservableValue" where it raised none.
        reason: str, the remote exception's message.
        traceback: str, the remote traceback, empty where the handler was never entered.
        remembered: bool, whether it was raised by an earlier run, and is remembered for a while.
    """

    def __init__(
        self, resource: str, id: object, type: str, reason: str, traceback: str = "", *,
        remembered: bool = False,
    ) -> None:  # fmt: skip
        raised = "" if type == UNSERVABLE else f"the handler raised {type}: "
        again = " (remembered)" if remembered else ""
        super().__init__(f"{resource} {id}: {raised}{reason}{again}")
        self.remembered = remembered
        self.resource = resource
        self.id = id
        self.type = type
        self.reason = reason
        self.traceback = traceback


class HandlerTimeout(HandlerFailed):
    """The handler took longer than its resource's ``timeout``.

    Attributes:
        timeout_s: float, seconds that it was allowed.
        stuck: bool, whether it runs on (a thread cannot be ended), so its id is not served until
        it has ended.
    """

    def __init__(
        self, resource: str, id: object, timeout_s: float, *, stuck: bool, advice: str = STUCK
    ) -> None:
        reason = f"not done after {timeout_s:g} s"
        super().__init__(resource, id, "HandlerTimeout", reason)
        goes_on = f"; it still runs, and its id waits for it: {advice}"
        end = goes_on if stuck else " and was cancelled"
        self.args = (f"{resource} {id}: the handler was {reason}{end}",)
        self.timeout_s = timeout_s
        self.stuck = stuck


class RequestCycle(RqprocError):
    """A handler asked for an id that waits for it: neither could ever be answered.

    Attributes:
        resource, id: what was asked for.
        way: who waits for whom, as a tuple of (resource, id), from the id that was asked for to the
            one whose handler asked.
    """

    def __init__(self, resource: str, id: object, way: Sequence[tuple[str, object]]) -> None:
        steps = [*way, (resource, id)] if way[-1] != (resource, id) else [*way, way[0]]
        shown = " waits for ".join(f"{name} {other}" for name, other in steps)
        super().__init__(f"{shown}: a handler must not ask for an id that waits for it")
        self.resource = resource
        self.id = id
        self.way = tuple(way)


class UnknownResource(RemoteError):
    """The node has no resource of this name.

    Attributes:
        resource: str, what was asked for.
        known: tuple of str, those that it has.
    """

    exit_code = 2

    def __init__(
        self, resource: str, known: Sequence[str], *, advice: str = START_WITH_THE_APP
    ) -> None:
        super().__init__(
            f"unknown resource {resource!r}; the node serves: {', '.join(known)}. {advice}"
        )
        self.resource = resource
        self.known = tuple(known)


class NodeLost(RemoteError):
    """Too many nodes died while they held this request, so it is not tried again.

    Attributes:
        resource, id: what was asked for.
        attempts: int, how many died.
    """

    def __init__(self, resource: str, id: object, attempts: int) -> None:
        super().__init__(
            f"{resource} {id}: {attempts} nodes died while they held this request. Its handler "
            "may kill its process (memory, a crash in C code): look at the nodes' logs"
        )
        self.resource = resource
        self.id = id
        self.attempts = attempts


class OwnerLost(NodeLost):
    """Whoever was to answer is silent; the request was withdrawn. Only with ``on_lost="error"``.

    Attributes:
        node: str, the silent node; empty where the server has lost the request.
        silent_s: float, seconds since its last heartbeat.
    """

    def __init__(self, resource: str, id: object, node: str, silent_s: float) -> None:
        silent = f"node {node} has it and is silent for {silent_s:.1f} s"
        why = silent if node else "the server has lost it"
        super().__init__(resource, id, attempts=0)
        self.args = (
            f"{resource} {id}: the request was withdrawn, since {why}. Try again: the next owner "
            "answers when the silent one's lease has run out (`rqproc node list`)",
        )
        self.node = node
        self.silent_s = silent_s


class StateSuperseded(RqprocError):
    """A state is not kept: a later run, on another node, has taken what there was of this id.

    It is raised inside methods of stateful ids, where their node was paused past its lease.
    """

    def __init__(self) -> None:
        super().__init__(
            "the state is not kept: this node has lost its lease, and another has the id by now"
        )


class NameTaken(ConfigError):
    """A node of this name is alive.

    Attributes:
        name: str.
        lease_left_s: float, seconds until its lease runs out.
    """

    def __init__(self, name: str, lease_left_s: float) -> None:
        super().__init__(
            f"a node named {name!r} is alive (lease for another {lease_left_s:.1f} s): "
            "choose another --name, or wait until its lease has run out"
        )
        self.name = name
        self.lease_left_s = lease_left_s


class PlacementMismatch(ConfigError):
    """A node that finds the owners of ids by another rule than those that live in its namespace.

    Attributes:
        mine, others: str, "modulo" or "slots": its own placement, and theirs.
    """

    def __init__(self, mine: str, others: str, namespace: str) -> None:
        super().__init__(
            f"the nodes of namespace {namespace!r} have placement {others!r}, this one {mine!r}: "
            f"start it with `--placement {others}`, or give it a --namespace of its own; to change "
            "that of a namespace stop its nodes first"
        )
        self.mine = mine
        self.others = others


class ProtocolMismatch(ConfigError):
    """Programs of rqproc that speak different protocols meet in one namespace.

    Attributes:
        mine: str, the number of the protocol that this program speaks.
        others: str, the numbers of those that live nodes of the namespace speak.
    """

    def __init__(self, mine: str, others: str, namespace: str) -> None:
        super().__init__(
            f"the nodes of namespace {namespace!r} speak protocol {others} of rqproc, this program "
            f"speaks {mine}: give both the same version of rqproc, or this one a --namespace of "
            "its own; to move a namespace to another version stop its nodes first"
        )
        self.mine = mine
        self.others = others
