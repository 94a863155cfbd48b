"""What a process of a real cluster under test does: it is a node.

Knows nodes, and where to tell what happens in them. Must not know who has started it.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rqproc import errors
from rqproc.app import App
from rqproc.calls.functions import connector
from rqproc.context import Current
from rqproc.errors import RqprocError
from rqproc.node.node import Node
from rqproc.protocol.keys import Keys
from rqproc.protocol.messages import Joined
from rqproc.settings import NodeSettings
from rqproc.testing.events import Event, Kind
from rqproc.testing.processes.gates import Gates
from rqproc.testing.processes.journal import Journal
from rqproc.testing.watching import watched

UNFINISHED = 1
"""The exit code of a node that was stopped with something unfinished."""


@dataclass(frozen=True)
class ForkedNode:
    """One node of an app. Called, it serves until SIGTERM, and ends its process.

    It tells the journal ``ready``, or ``failed`` with an error's name, text and attributes.
    """

    app: App
    namespace: str
    settings: NodeSettings
    journal: Journal
    gates: Gates

    def __call__(self, name: str, url: str) -> None:
        logging.getLogger("rqproc").addHandler(_Listener(self.journal, name))
        with self.app.at(url, namespace=self.namespace):
            finished = self._serve(name, url)
        raise SystemExit(0 if finished else UNFINISHED)

    def _serve(self, name: str, url: str) -> bool:
        witness = _Witness(self.journal, self.gates)
        node = Node(
            connector(url),
            Keys(self.namespace),
            watched(self.app, witness),
            settings=self.settings,
            name=name,
        )
        signal.signal(signal.SIGTERM, lambda number, frame: node.stop())

        def ready(name: str, joined: Joined) -> None:
            self.journal.write("ready", os.getpid())

        try:
            return node.run(ready=ready)
        except RqprocError as error:
            if not node.has_served:
                facts = (type(error).__name__, str(error), vars(error))
                self.journal.write("failed", os.getpid(), *facts)
            raise


class _Witness:
    def __init__(self, journal: Journal, gates: Gates) -> None:
        self._journal = journal
        self._gates = gates

    def tell(self, kind: Kind, run: Current, text: str = "") -> None:
        where = (run.node, run.resource, run.id, run.token)
        self._journal.event(Event(self._journal.now_s, kind, *where, text))

    def gate(self, run: Current) -> Callable[[], None] | None:
        return self._gates.before(
            run.resource, run.id, tell=lambda gate: self._journal.write("held", gate)
        )


class _Listener(logging.Handler):
    """What a node warns of belongs to the event log."""

    def __init__(self, journal: Journal, node: str) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal
        self._node = node

    def emit(self, record: logging.LogRecord) -> None:
        event = Event(self._journal.now_s, "note", self._node, text=record.getMessage())
        self._journal.event(event)


def rebuilt(name: str, text: str, facts: Mapping[str, Any]) -> RqprocError:
    """Return an error that another process has told of."""
    kind: type[RqprocError] = getattr(errors, name, RqprocError)
    error = kind.__new__(kind)
    error.args = (text,)
    vars(error).update(facts)
    return error
