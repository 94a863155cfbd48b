"""A test kit: a cluster of your app for one test, in this process, whose clock the test turns.

Everything that can be got wrong about a cluster can be tried here: concurrent callers, expiry,
nodes that die, stand still or are cut off, a server that goes away, a reply that is lost.
``LocalCluster`` runs the real client, the real nodes and the real functions, on fakeredis and a
virtual clock; ``RealCluster`` runs the same tests on the embedded server with real processes.
``plugin`` gives both to pytest as the fixture ``rqproc_cluster``.

Reading order: ``kit`` (what a test does), ``events`` (what it is told) -> ``memory.cluster`` or
``processes.cluster``, each the first of its package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rqproc.testing.events import Event as Event
    from rqproc.testing.events import History as History
    from rqproc.testing.events import Run as Run
    from rqproc.testing.kit import Held as Held
    from rqproc.testing.kit import Kit as Kit
    from rqproc.testing.memory.cluster import LocalCluster as LocalCluster
    from rqproc.testing.pending import Pending as Pending
    from rqproc.testing.processes.cluster import RealCluster as RealCluster

_HOMES = {
    "Event": "rqproc.testing.events",
    "Held": "rqproc.testing.kit",
    "History": "rqproc.testing.events",
    "Kit": "rqproc.testing.kit",
    "LocalCluster": "rqproc.testing.memory.cluster",
    "Pending": "rqproc.testing.pending",
    "RealCluster": "rqproc.testing.processes.cluster",
    "Run": "rqproc.testing.events",
}

__all__ = ["Event", "Held", "History", "Kit", "LocalCluster", "Pending", "RealCluster", "Run"]


def __getattr__(name: str) -> Any:
    """Import at the first use: pytest loads the plugin, and so this, wherever rqproc is installed,
    also where what the kit needs is not.
    """
    if name in _HOMES:
        try:
            return getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if error.name == "fakeredis":
                error.add_note("The test kit needs more: pip install 'rqproc[testing]'")
            raise
    raise AttributeError(f"module 'rqproc.testing' has no attribute {name!r}")
