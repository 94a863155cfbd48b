"""This process in the place of a cluster that cannot answer: ``on_lost="local"``.

Knows who shares a worker, and by which limits it serves. Must not know why the cluster could not
answer, nor how a handler is run.

All clients of a process share one worker, made with the first request that needs it. It knows each
resource by its unique name, as long as that lives: so it keeps no app, and one run of an id serves
whoever asks for that very resource, from whichever client, thread or event loop.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from weakref import WeakValueDictionary

from rqproc.local.backend import LocalBackend
from rqproc.local.spaces import DaemonRuntime, LocalPlace
from rqproc.local.worker import LocalWorker
from rqproc.protocol.keys import Keys
from rqproc.resource import ResourceSpec
from rqproc.runtime import Runtime
from rqproc.settings import NodeSettings

MAX_RUNS = 16
"""Handlers that run at once in a process whose cluster cannot answer."""

_LIMITS = NodeSettings(concurrency=MAX_RUNS, max_queue=sys.maxsize, max_waiters=sys.maxsize)
"""Who may not wait for a lane is refused; who shares a run, or waits behind one, never is."""

NO_CLUSTER = ""
"""In the place of a namespace: of these runs no cluster knows that they wait for it."""


class _Asked(Mapping[str, ResourceSpec]):
    """The resources that have been asked for, as long as each lives.

    It lists none: others ask, from other threads, while one would go through them.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, ResourceSpec] = WeakValueDictionary()

    def add(self, resource: ResourceSpec) -> None:
        self._known[resource.unique_name] = resource

    def __getitem__(self, name: str) -> ResourceSpec:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


_ASKED = _Asked()


def fallback_place(runtime: Runtime) -> LocalPlace:
    """Return a place where nobody asks yet."""
    return LocalPlace(partial(_worker, runtime), runtime=runtime)


def _worker(runtime: Runtime) -> LocalWorker:
    name = f"{socket.gethostname()}:{os.getpid()}"
    return LocalWorker(
        NO_CLUSTER, _ASKED, runtime=runtime, settings=_LIMITS, name=name, is_fallback=True
    )


_PROCESS = fallback_place(DaemonRuntime())


def fallback(keys: Keys, resource: ResourceSpec, place: LocalPlace = _PROCESS) -> LocalBackend:
    """Return what runs the handler of a resource in this process.

    The caller keeps the resource as long as it waits.
    """
    _ASKED.add(resource)
    return LocalBackend(keys, place)
