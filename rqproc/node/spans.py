"""Spans of runs that traced requests wait for.

Knows who waits for a run, and what came of it. Must not know how spans are made or carried.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from rqproc import tracing
from rqproc.ids import parse_address
from rqproc.log_events import tell
from rqproc.node.runs import Done, Failed, HandlerRun, Outcome, Taken
from rqproc.runtime import Clock

log = logging.getLogger("rqproc.node")


@dataclass(slots=True)
class _Open:
    """A span that has not ended, and which of those who wait it is linked to."""

    span: tracing.RunSpan
    linked: set[Taken] = field(default_factory=set)


class RunSpans:
    """The spans of one node's runs. From any thread.

    An SDK that fails is told of, and is nothing to whoever waits for the run.

    Args:
        clock: the dispatcher's.
    """

    def __init__(self, node: str, namespace: str, clock: Clock) -> None:
        self._node = node
        self._namespace = namespace
        self._clock = clock
        self._open: dict[HandlerRun, _Open] = {}

    def begin(self, run: HandlerRun) -> None:
        """Start a span for each of the runs that one call makes, where any is wanted, and make the
        first of them the current one of the calling context.
        """
        started = [
            one for one in run.made_together if (who := _traced(one)) and self._start(one, who)
        ]
        if started:
            self._open[started[0]].span.attach()

    def _start(self, run: HandlerRun, waiting: list[Taken]) -> bool:
        first = waiting[0]
        attributes = self._attributes(run)
        carriers = [taken.trace for taken in waiting if taken.trace]
        try:
            span = tracing.start_run(
                run.resource.name, carriers, attributes, waited_s=self._clock() - first.since
            )
        except Exception as error:  # noqa: BLE001 - whatever an SDK raises
            self._failed(error)
            return False
        if span is None:
            return False
        self._open[run] = _Open(span, set(waiting))
        return True

    def _attributes(self, run: HandlerRun) -> tracing.Attributes:
        attributes = tracing.about(
            self._namespace, run.resource.name, id=str(parse_address(run.address)[2]),
            node=self._node, token=run.token,
        )  # fmt: skip
        request = str(run.about["request"])
        return attributes | {"messaging.operation.type": "process", "messaging.message.id": request}

    def end(self, run: HandlerRun, outcome: Outcome) -> None:
        """End a run's span, if it has one: once."""
        found = self._open.pop(run, None)
        if found is None:
            return
        since = [taken for taken in _traced(run) if taken not in found.linked]
        joined = [taken.trace for taken in since if taken.trace]
        try:
            found.span.end(joined=joined, error=_error(outcome))
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        tell(log, "tracing_failed", "%s: no span of a run: %r", self._node, error, error=error)


def _traced(run: HandlerRun) -> list[Taken]:
    """Return those who wait for it and brought a context: the one that began it first."""
    waiting = (*((run.hold,) if run.hold else ()), *run.waiting)
    return [taken for taken in waiting if taken.trace]


def _error(outcome: Outcome) -> tuple[str, str, str] | None:
    if isinstance(outcome, Done):
        return None
    if isinstance(outcome, Failed):
        return outcome.type, outcome.reason, outcome.traceback
    return outcome.kind, outcome.text.strip(), ""
