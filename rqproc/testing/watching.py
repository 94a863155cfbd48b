"""Handlers that tell when they run, and stop where a test holds them; what nodes warn of.

Knows resources and logs. Must not know who is told: a list in this process, or one of another.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from rqproc.context import Current, current
from rqproc.declared import Resource
from rqproc.errors import ConfigError
from rqproc.ids import Id
from rqproc.model import DEFAULT_RESOURCE
from rqproc.resource import ResourceSpec
from rqproc.runtime import Clock
from rqproc.sample import with_demo
from rqproc.stateful import Stateful
from rqproc.testing.events import Event, Kind

TEXT_CHARS = 80

Runs = Sequence[Current]


class Witness:
    """Is told of runs, from the threads and event loops of handlers.

    Args:
        now: seconds since the cluster began.
        add: called with each event.
        gate: returns what blocks until a run of an id may go on; None where it is not held.
    """

    def __init__(
        self,
        now: Clock,
        add: Callable[[Event], None],
        gate: Callable[[str, Id], Callable[[], None] | None],
    ) -> None:
        self._now = now
        self._add = add
        self._gate = gate

    def tell(self, kind: Kind, runs: Runs, text: Callable[[Id], str] = lambda _: "") -> None:
        for run in runs:
            event = Event(
                self._now(), kind, run.node, run.resource, run.id, run.token, text(run.id)
            )
            self._add(event)

    def gates(self, runs: Runs) -> list[Callable[[], None]]:
        """Return what waits at the gate of each that is held."""
        found = [self._gate(run.resource, run.id) for run in runs]
        return [gate for gate in found if gate]


def watched(app: Any, witness: Witness) -> Mapping[str, ResourceSpec]:
    """Return what a node of an app serves, with handlers that are witnessed."""
    found = {name: _watched(resource, witness) for name, resource in with_demo(app).items()}
    for resource in found.values():
        if resource.members is not None:
            resource.members = {name: found[name] for name in resource.members}
    return found


def _watched(resource: ResourceSpec, witness: Witness) -> ResourceSpec:
    witnessed = _async if resource.is_async else _plain
    return resource.served_by(witnessed(resource.handler, witness))


def _runs() -> Runs:
    """The runs that the calling handler makes: of a batch handler one of each id."""
    mine = current()
    return tuple(mine.batch.values()) or (mine,)


def _shown_by_id(value: Any) -> Callable[[Id], str]:
    """Return what shows the part of a value that is an id's: all of it, but in a batch."""
    parts = value if current().batch and isinstance(value, Mapping) else None
    return lambda id: shown(value if parts is None else parts.get(id))


def _plain(handler: Callable[..., Any], witness: Witness) -> Callable[..., Any]:
    @wraps(handler)
    def run(*args: Any, **kwargs: Any) -> Any:
        mine = _runs()
        witness.tell("started", mine)
        for gate in witness.gates(mine):
            gate()
        try:
            value = handler(*args, **kwargs)
        except BaseException as error:
            text = _short(repr(error))
            witness.tell("raised", mine, lambda _: text)
            raise
        witness.tell("returned", mine, _shown_by_id(value))
        return value

    return run


def _async(handler: Callable[..., Any], witness: Witness) -> Callable[..., Any]:
    @wraps(handler)
    async def run(*args: Any, **kwargs: Any) -> Any:
        mine = _runs()
        witness.tell("started", mine)
        for gate in witness.gates(mine):
            await asyncio.get_running_loop().run_in_executor(None, gate)
        try:
            value = await handler(*args, **kwargs)
        except GeneratorExit:  # nobody goes on with it: its node is gone
            raise
        except BaseException as error:
            text = _short(repr(error))
            witness.tell("raised", mine, lambda _: text)
            raise
        witness.tell("returned", mine, _shown_by_id(value))
        return value

    return run


@contextmanager
def listening(note: Callable[[str], None]) -> Iterator[None]:
    """Have what nodes of this process warn of noted, while the context lasts."""
    log, listener = logging.getLogger("rqproc"), _Listener(note)
    log.addHandler(listener)
    try:
        yield
    finally:
        log.removeHandler(listener)


class _Listener(logging.Handler):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record.getMessage())


def shown(value: object) -> str:
    """Return a value as events have it."""
    try:
        return _short(json.dumps(value))
    except (TypeError, ValueError):
        return _short(repr(value))


def _short(text: str) -> str:
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 3] + "..."


def asked(resource: Resource[..., Any] | Stateful[Any] | str | None, args: Any) -> tuple[str, Any]:
    """Return by which name, and with which arguments, a resource is asked for."""
    return resource.asked(args) if isinstance(resource, Resource) else (name_of(resource), args)


def name_of(resource: Resource[..., Any] | Stateful[Any] | str | None) -> str:
    """Return a resource's name. Raises: ConfigError: a function, which has none."""
    if resource is None:
        return DEFAULT_RESOURCE
    if isinstance(resource, str):
        return resource
    if not isinstance(resource, Resource | Stateful):
        raise ConfigError(
            f"not a resource: {resource!r}; give what @app.resource(...) or @app.stateful(...) "
            "returned, or its name"
        )
    return resource.name
