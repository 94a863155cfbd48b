"""How a run's handler is called, and what its value comes to.

Knows handlers, what runs are entered through, and values. Must not know threads, event loops or
lanes.

A batch handler is called for several runs, each of one id, with the list of their ids. They began
together and end together; all else is each one's own::

    {7: 1250, 8: Cached(990, ttl=5), 9: KeyError("9")}  ──▶  7: Done, 8: Done, 9: Failed

    what it returns or raises        what comes of it
    -------------------------        ----------------
    it raises                        each run has failed with that; it is not remembered, since it
                                     is not known of which id it tells
    no dict                          each run has failed
    an id is missing                 None, where its resource has a ``negative_ttl``; else that run
                                     has failed
    an id that was not asked for     left out, and warned of once: no lane of this node has it
    an exception as a value          that run has failed with it, as if it had been raised for it
    a value that is not JSON         that run has failed
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
)
from typing import Any

from rqproc.context import CURRENT
from rqproc.errors import InvalidId
from rqproc.ids import Id, canonical
from rqproc.log_events import tell
from rqproc.node.runs import Done, Failed, HandlerRun, Outcome
from rqproc.policy import LONGEST_BACKOFF_S, Cached, Policy, check_own_ttl
from rqproc.protocol import answer_codec, codec
from rqproc.resource import Around, ResourceSpec
from rqproc.runtime import Chance
from rqproc.transport.backoff import Backoff

log = logging.getLogger("rqproc.node")

NOT_ASKED_FOR = "%s returned values of ids that it was not asked for, as %r: they are left out"
MISSING = (
    "the batch handler returned no value of it: return None, or an exception, for what does not "
    "exist, or give the resource a negative_ttl"
)
NO_DICT = "a batch handler returns a dict of the values by id, not"


def call(run: HandlerRun) -> Any:
    """Call the handler of a run, or of several that one call makes; return what it returns, None
    where an error was swallowed around it.
    """
    if not run.resource.around:
        return _handler(run)
    with ExitStack() as stack:
        for enter in run.resource.around:
            scope = _made(enter)
            if isinstance(scope, AbstractContextManager):
                stack.enter_context(scope)
        return _handler(run)


async def call_async(run: HandlerRun) -> Any:
    """``call`` for a coroutine function."""
    if not run.resource.around:
        return await _handler(run)
    async with AsyncExitStack() as stack:
        for enter in run.resource.around:
            scope = _made(enter)
            if isinstance(scope, AbstractAsyncContextManager):
                await stack.enter_async_context(scope)
            else:
                stack.enter_context(scope)
        return await _handler(run)


def _made(enter: Around) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]:
    """Raises: TypeError: it makes something else, which would be passed over without a word."""
    scope = enter(CURRENT.get())
    if isinstance(scope, AbstractContextManager | AbstractAsyncContextManager):
        return scope
    raise TypeError(f"{enter!r}, of App.around, made no context manager but {scope!r}")


def _handler(run: HandlerRun) -> Any:
    if run.resource.policy.batch:
        return run.resource.handler([one.request.id for one in run.made_together])
    return run.resource.handler(run.request.id, *run.request.args, **run.request.kwargs)


def pauses(policy: Policy, chance: Chance) -> Backoff:
    """Return the pauses between tries."""
    return Backoff(shortest_s=policy.backoff_s, longest_s=LONGEST_BACKOFF_S, chance=chance)


class ReturnedValues:
    """What runs come to by what their handlers return. From any thread."""

    def __init__(self) -> None:
        self._warned: set[ResourceSpec] = set()

    def outcomes(self, run: HandlerRun, value: Any, at: float) -> Sequence[Outcome]:
        """Return what each of the runs that one call made comes to.

        Args:
            value: what the handler returned.
            at: when, on the dispatcher's clock.

        Raises:
            codec.UnservableValue, ValueError: it is none, of all of them.
        """
        if not run.resource.policy.batch:
            return [_done(value, at)]
        if not isinstance(value, Mapping):
            raise codec.UnservableValue(f"{NO_DICT} {type(value).__name__}")
        by_id = _by_id(value)
        runs = run.made_together
        self._warn_of_others(run.resource, by_id.keys() - {one.request.id for one in runs})
        return [_outcome_of_one(one, by_id, at) for one in runs]

    def _warn_of_others(self, resource: ResourceSpec, others: set[Any]) -> None:
        if others and resource not in self._warned:
            self._warned.add(resource)
            text, other = NOT_ASKED_FOR, next(iter(others))
            tell(
                log, "ids_not_asked_for", text, resource.name, other, resource=resource.name
            )  # fmt: skip


def _by_id(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """Spell the keys as ids are: "7" is 7."""
    found = {}
    for key, one in value.items():
        try:
            found[canonical(key)] = one
        except InvalidId:
            found[key] = one
    return found


def _outcome_of_one(run: HandlerRun, by_id: Mapping[Id, Any], at: float) -> Outcome:
    value, policy = by_id.get(run.request.id, _MISSING), run.resource.policy
    try:
        if value is _MISSING:
            if policy.negative_ttl_s is None:
                raise codec.UnservableValue(MISSING)
            value = None
        if isinstance(value, BaseException):
            return Failed(*answer_codec.describe(value), remembered=policy.remembers(value))
        return _done(value, at)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this id's alone
        return Failed(*answer_codec.describe(error))


_MISSING = object()


def _done(value: Any, at: float) -> Done:
    """Raises: codec.UnservableValue, ValueError."""
    if not isinstance(value, Cached):
        return Done(codec.encode_value(value), at)
    return Done(codec.encode_value(value.value), at, check_own_ttl(value.ttl))
