"""Where requests meet that one process answers by itself: those of an app and a namespace at
``local://``, those of all clients whose cluster cannot answer.

Knows who shares a worker, and when it is gone. Must not know how a worker serves, nor who asks it.

A worker's thread keeps alive what the worker holds, so that must not be the app: else no app that
was ever asked, as by a thousand tests, would go. It goes with the last of its clients, and then so
does its worker.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any

from rqproc.local.worker import LocalWorker
from rqproc.node.daemon_threads import DaemonThreads
from rqproc.resource import ResourceSpec
from rqproc.runtime import Runtime, renew_after_fork
from rqproc.sample import with_demo
from rqproc.settings import NodeSettings


class DaemonRuntime(Runtime):
    """The machine's runtime, but for threads: none keeps the program from ending."""

    def threads(self, most: int, *, name: str) -> Executor:
        return DaemonThreads(most, name=name)


class LocalPlace:
    """Where clients meet that share a worker. A forked child begins anew.

    Args:
        make: makes the worker, when the first request comes.
    """

    def __init__(self, make: Callable[[], LocalWorker], *, runtime: Runtime) -> None:
        self.runtime = runtime
        self._make = make
        self.forget_parent()
        if isinstance(runtime, DaemonRuntime):  # the threads of others end with them
            _ALL.add(self)
        renew_after_fork(self)

    @property
    def worker(self) -> LocalWorker:
        """Who serves here, from the first request on."""
        if self._made_with is not threading.Lock:  # gevent or eventlet has patched it since
            self.forget_parent()
        found = self._workers.get("it")
        if found is None:
            made = self._make()
            weakref.finalize(self, made.stop).atexit = False
            found = self._workers.setdefault("it", made)
        if not found.is_started:  # several may do that at once, and be interrupted in it
            found.start()
        return found

    def end(self) -> None:
        """Forget everything. Whoever still asks here finds a place that is empty."""
        worker = self._workers.pop("it", None)
        if worker:
            worker.stop()
            worker.join()

    def forget_parent(self) -> None:
        """In a forked child: the threads are the parent's, and so is what they answer."""
        self._made_with = threading.Lock
        self._workers: dict[str, LocalWorker] = {}  # one at the most


class _Declared(Mapping[str, ResourceSpec]):
    """The resources of an app as they are at each moment, and the default one."""

    def __init__(self, app: object) -> None:
        self._app = weakref.ref(app)
        self._seed = with_demo(None)

    def __getitem__(self, name: str) -> ResourceSpec:
        declared = self._resources
        return declared[name] if name in declared else self._seed[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._seed, **self._resources})

    def __len__(self) -> int:
        return len({*self._seed, *self._resources})

    @property
    def _resources(self) -> Mapping[str, ResourceSpec]:
        app: Any = self._app()
        return app.resources if app else {}


class _Nobody:
    """Stands for the app of clients that have none."""

    resources: Mapping[str, ResourceSpec] = {}


_NOBODY = _Nobody()
_OF_APPS: weakref.WeakKeyDictionary[object, dict[str, LocalPlace]] = weakref.WeakKeyDictionary()
_ALL: weakref.WeakSet[LocalPlace] = weakref.WeakSet()


def _at_exit() -> None:
    """Coroutines that are left are cancelled; threads that are left end with the process."""
    for place in list(_ALL):
        place.end()


atexit.register(_at_exit)


def place_of(namespace: str, app: object) -> LocalPlace:
    """Return where the clients of an app meet; those of a plain mapping have one each."""
    if isinstance(app, Mapping) and app:
        return _place(namespace, {**with_demo(None), **app})
    owner = app or _NOBODY
    places = _OF_APPS.setdefault(owner, {})
    return places.get(namespace) or places.setdefault(namespace, place_apart(namespace, owner))


def place_apart(
    namespace: str, app: object, *, runtime: Runtime | None = None,
    settings: NodeSettings | None = None,
) -> LocalPlace:  # fmt: skip
    """Return a place of an app where none of its clients is yet."""
    return _place(namespace, _Declared(app), runtime=runtime, settings=settings)


def _place(
    namespace: str, resources: Mapping[str, ResourceSpec], *, runtime: Runtime | None = None,
    settings: NodeSettings | None = None,
) -> LocalPlace:  # fmt: skip
    found = runtime or DaemonRuntime()
    make = partial(
        LocalWorker, namespace, resources, runtime=found, settings=settings or NodeSettings()
    )
    return LocalPlace(make, runtime=found)
