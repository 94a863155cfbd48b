"""What a process of a real cluster under test does: it is a node.

Knows nodes, and where to tell what happens in them. Must not know who has started it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rqproc import errors
from rqproc.app import App
from rqproc.calls.functions import connector
from rqproc.errors import RqprocError
from rqproc.ids import Id
from rqproc.node.node import Node
from rqproc.protocol.keys import Keys
from rqproc.protocol.messages import Joined
from rqproc.settings import NodeSettings
from rqproc.testing.events import Event
from rqproc.testing.processes.gates import FileGates
from rqproc.testing.processes.journal import ClusterJournal
from rqproc.testing.watching import Witness, listening, watched

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
    journal: ClusterJournal
    gates: FileGates

    def __call__(self, name: str, url: str) -> None:

        def note(text: str) -> None:
            self.journal.event(Event(self.journal.now_s, "note", name, text=text))

        with listening(note), self.app.at(url, namespace=self.namespace):
            finished = self._serve(name, url)
        raise SystemExit(0 if finished else UNFINISHED)

    def _serve(self, name: str, url: str) -> bool:
        journal = self.journal
        witness = Witness(lambda: journal.now_s, journal.event, self._gate)
        node = Node(
            connector(url),
            Keys(self.namespace),
            watched(self.app, witness),
            settings=self.settings,
            name=name,
        )
        signal.signal(signal.SIGTERM, lambda number, frame: node.stop())

        def ready(name: str, joined: Joined) -> None:
            journal.tell("ready", os.getpid())

        try:
            return node.run(ready=ready)
        except RqprocError as error:
            if not node.has_served:
                facts = (type(error).__name__, str(error), vars(error))
                journal.tell("failed", os.getpid(), *facts)
            raise

    def _gate(self, resource: str, id: Id) -> Callable[[], None] | None:
        return self.gates.before(resource, id, tell=lambda gate: self.journal.tell("held", gate))


def rebuilt(name: str, text: str, facts: Mapping[str, Any]) -> RqprocError:
    """Return an error that another process has told of."""
    kind: type[RqprocError] = getattr(errors, name, RqprocError)
    error = kind.__new__(kind)
    error.args = (text,)
    vars(error).update(facts)
    return error
