"""What both clients make of a caller's arguments, and of what came: calls, and outcomes.

Knows ids, defaults, what is kept nearer than the cluster, and what to do without it. Must not know
connections, threads or event loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from rqproc.calls.call import Call, Kind, check_timeout, plain
from rqproc.calls.fallback import Fallback, FallbackCall
from rqproc.calls.lookup import Nearby, find_all
from rqproc.context import ASKING, Asking
from rqproc.errors import ConfigError, RedisUnavailable, RqprocError
from rqproc.ids import Id, address, canonical, check_resource
from rqproc.model import DEFAULT_RESOURCE, OnLost, Partial, Reply
from rqproc.policy import check_own_ttl
from rqproc.protocol import codec
from rqproc.runtime import MACHINE, Runtime

if TYPE_CHECKING:
    from rqproc.calls.near_cache import NearCache
    from rqproc.calls.near_entries import Expected


class RequestOptions(TypedDict, total=False):
    """What a request, of one id or of many, may choose; see ``Client``."""

    timeout: float | None
    on_lost: OnLost | None


KINDS: Mapping[str, Kind] = {
    codec.REQUEST: "c", codec.INVALIDATE: "i", codec.REFRESH: "a", codec.SET: "a",
    codec.INVALIDATE_ALL: "i", codec.INVALIDATE_NAMESPACE: "i",
    codec.EXPLAIN: "e",
}  # fmt: skip
"""Of calls, by what they ask for; a request with arguments is an "a"."""

NESTED = ("c", "a")
"""Calls that wait for a run: if a run asks, they may close a circle."""


class Requests:
    """Makes calls, by the defaults of one client.

    Args:
        timeout: seconds, where a request does not say.
        near: replies that the client keeps itself; None for none.
        nearby: what is asked before the cluster is.
        runtime: by whose clock callers wait.
    """

    def __init__(
        self, namespace: str, fallback: Fallback, *, timeout: float, near: NearCache | None,
        nearby: Nearby | None, runtime: Runtime = MACHINE,
    ) -> None:  # fmt: skip
        self.namespace = namespace
        self.near = near
        self.nearby = nearby
        self.timeout_s = check_timeout(timeout)
        self._fallback = fallback
        self._monotonic = runtime.monotonic

    def find(self, id: Id, resource: str) -> Reply | None:
        """Return the reply to a request without arguments where nobody need be asked for it.

        Raises:
            InvalidId.
        """
        found = self.near.kept.reply(id, resource) if self.near else None
        if found is None and self.nearby:
            found = self.nearby.find(resource, id)
        return found

    def one(
        self, id: object, resource: str, args: Sequence[Any], kwargs: Mapping[str, Any] | None,
        timeout: float | None, on_lost: OnLost | None, function: str = codec.REQUEST,
    ) -> Call:  # fmt: skip
        """Ask for one id. Raises: InvalidId, ConfigError, PayloadTooLarge."""
        kind = KINDS[function]
        if type(resource) is not str:
            resource = check_resource(resource)
        if args or kwargs:
            check_resource(resource)
            found = canonical(id)
            place, kind = address(resource, found), "a"
        else:
            try:
                found, place, _ = plain(resource, id)
            except TypeError:  # it cannot be looked up: it is no id either
                found, place, _ = plain(check_resource(resource), canonical(id))
        timeout_s = self.timeout_s if timeout is None else check_timeout(timeout)
        policy = self._fallback.choose(resource, on_lost)
        run = ASKING.get()
        is_nested = run is not None and kind in NESTED and run.namespace == self.namespace
        call = Call(
            kind, resource, (found,), (place,), timeout_s, self._monotonic() + timeout_s, policy,
            run.address if is_nested and run else "", args, kwargs, function,
        )  # fmt: skip
        if kind != "c":
            call.data(0)  # what cannot be sent is refused here, to this caller alone
        return call

    def many(
        self, ids: Iterable[object], resource: str, timeout: float | None, on_lost: OnLost | None,
        function: str = codec.REQUEST,
    ) -> Many:  # fmt: skip
        """Ask for ids, each of them once.

        Raises:
            InvalidId, ConfigError.
        """
        kind = KINDS[function]
        resource = check_resource(resource)
        timeout_s = self.timeout_s if timeout is None else check_timeout(timeout)
        policy = self._fallback.choose(resource, on_lost)
        given = list(ids)
        spelled = list(map(canonical, given))
        asked = list(dict.fromkeys(spelled))
        found = self._find_all(asked, resource) if kind == "c" else {}
        wanted = [id for id in asked if id not in found] if found else asked
        run = ASKING.get()
        is_nested = run is not None and kind in NESTED and run.namespace == self.namespace
        parent = run.address if is_nested and run else ""
        addresses = [plain(resource, id)[1] for id in wanted]
        deadline = self._monotonic() + timeout_s
        call = Call(
            kind, resource, wanted, addresses, timeout_s, deadline, policy, parent,
            function=function,
        )  # fmt: skip
        names = None if all(map(is_, given, spelled)) else list(zip(given, spelled, strict=True))
        return Many(call, asked, found, self.namespace, names)

    def _find_all(self, ids: Sequence[Id], resource: str) -> dict[Id, Reply]:
        found = self.near.replies(ids, resource) if self.near else {}
        if self.nearby:
            found |= find_all(self.nearby, resource, ids)
        return found

    def fill(
        self, id: object, resource: str, value: object, ttl: float | None, timeout: float | None
    ) -> Call:
        """Put a value in the place of an id's. Raises: InvalidId, ConfigError, PayloadTooLarge."""
        try:
            codec.encode_value(value, "the value")
            own_ttl_s = None if ttl is None else check_own_ttl(ttl)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{resource}: {error}") from error
        args = (value, own_ttl_s)
        return self.one(id, resource, args, None, timeout, "wait", codec.SET)

    def flush(self, resource: str | None, timeout: float | None) -> Call:
        """Invalidate all ids of a resource, or with None of all. Raises: ConfigError."""
        if resource is None:
            what, resource = codec.INVALIDATE_NAMESPACE, DEFAULT_RESOURCE
        else:
            what = codec.INVALIDATE_ALL
        # Any id would do: it says which node is asked.
        return self.one("*", resource, (), None, timeout, "wait", what)

    @contextmanager
    def flushing(self, call: Call) -> Iterator[None]:
        """``dropping``, for a call that ``flush`` has made."""
        resource = call.resource if call.function == codec.INVALIDATE_ALL else None
        if self.near:
            self.near.kept.drop_all(resource)
        try:
            yield
        finally:
            if self.near:
                self.near.kept.drop_all(resource)
            made = call.outcome(0, self.namespace)
            if self.nearby and isinstance(made, Reply):
                self.nearby.drop_all(resource, before=made.token)

    @contextmanager
    def dropping(self, call: Call) -> Iterator[None]:
        """Around a change of entries: what is older, and nearer than the cluster, goes too."""
        with self.near.dropping(call.resource, call.ids) if self.near else nullcontext():
            try:
                yield
            finally:
                if self.nearby:
                    has_new = call.function != codec.INVALIDATE
                    for id, made in call.outcomes(self.namespace).items():
                        before = made.token if has_new and isinstance(made, Reply) else None
                        self.nearby.drop(call.resource, id, before=before)

    def begin(self, call: Call) -> CallScope:
        """Before a call is sent."""
        return CallScope(self, call, self.near.expect(call) if self.near else None)

    def fallback_call(self, call: Call) -> FallbackCall | None:
        return self._fallback.fallback_call(call, self.namespace)


class Many(NamedTuple):
    """Many ids that are asked together.

    Attributes:
        call: for those that must be asked for.
        ids: all of them, in the order asked.
        found: the replies of those that need not be.
        names: each id as it was given, and as it is; None where none differs.
    """

    call: Call
    ids: Sequence[Id]
    found: Mapping[Id, Reply]
    namespace: str
    names: Sequence[tuple[Any, Id]] | None

    def failed(self, error: RedisUnavailable) -> None:
        """Redis was lost meanwhile: what has come counts, and the others have this error.

        Raises:
            RedisUnavailable: nothing has come.
        """
        if not self.found and self.call.left == len(self.call.ids):
            raise error
        self.call.outage = error

    def outcomes(self) -> dict[Id, Reply | RqprocError]:
        """Return the reply or error of each id, as it was given, when the call is over."""
        made = self.call.outcomes(self.namespace)
        if self.found:
            made = {id: self.found.get(id) or made[id] for id in self.ids}
        return made if self.names is None else {name: made[id] for name, id in self.names}

    def values(self, *, return_exceptions: bool) -> dict[Id, Any]:
        """Return the value of each id, as it was given; the first error is raised, or each stands
        as the value of its id.
        """
        if not self.found and self.names is None and (plain := self.call.values()) is not None:
            return plain
        return values(self.outcomes(), return_exceptions=return_exceptions)

    def partial(self) -> Partial:
        """Return the values, and the errors of the other ids."""
        found = self.values(return_exceptions=True)
        errors = {id: value for id, value in found.items() if isinstance(value, RqprocError)}
        if errors:
            found = {id: value for id, value in found.items() if id not in errors}
        return Partial(found, errors)


class CallScope:
    """A call that is under way, and what is done before and after: in ``with``."""

    __slots__ = ("_call", "_expected", "_requests", "_run")

    def __init__(self, requests: Requests, call: Call, expected: Expected | None) -> None:
        self._requests = requests
        self._call = call
        self._expected = expected
        self._run: Asking | None = ASKING.get()

    def __enter__(self) -> CallScope:
        """The handler's run that asks lets others run meanwhile."""
        if self._run:
            self._run.changed(True)
        return self

    def __exit__(self, kind: object, error: object, at: object) -> None:
        if self._run:
            self._run.changed(False)
        if error is None and self._expected:
            self._expected.keep(self._call.outcomes(self._requests.namespace))

    def failed(self, error: RedisUnavailable) -> None:
        """Raises: the error, unless this process is to do without the cluster."""
        if self._call.on_lost != "local":
            raise error
        self._call.outage = error

    def fallback_call(self) -> FallbackCall | None:
        """Return what this process is to do itself, once the cluster has been asked."""
        return self._requests.fallback_call(self._call) if self._call.on_lost == "local" else None


def values(outcomes: Mapping[Id, Reply | RqprocError], *, return_exceptions: bool) -> dict[Id, Any]:
    """Return each id's value; the first error is raised, or each stands as the value of its id."""
    found: dict[Id, Any] = {}
    for id, outcome in outcomes.items():
        if isinstance(outcome, RqprocError):
            if not return_exceptions:
                raise outcome
            found[id] = outcome
        else:
            found[id] = outcome.value
    return found
