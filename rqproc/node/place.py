"""Where the requests of one app and one namespace meet in a process that is alone.

Knows who shares a solo, and when it is gone. Must not know how a solo serves, nor who asks it.

A solo's thread keeps alive what the solo holds, so that must not be the app: else no app that was
ever asked, as by a thousand tests, would go. It goes with the last of its clients, and then so does
its solo.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from threading import Lock
from typing import Any

from rqproc.app import Resource
from rqproc.ground import Ground
from rqproc.node.daemons import DaemonThreads
from rqproc.node.solo import Solo
from rqproc.seed import with_demo
from rqproc.settings import NodeSettings


class Home(Ground):
    """The machine's ground, but for threads: none keeps the program from ending."""

    def threads(self, most: int, *, name: str) -> Executor:
        return DaemonThreads(most, name=name)


class Place:
    """Where the clients of an app and a namespace meet. A forked child begins anew."""

    def __init__(
        self, namespace: str, resources: Mapping[str, Resource[..., Any]], *,
        ground: Ground | None = None, settings: NodeSettings | None = None,
    ) -> None:  # fmt: skip
        self.ground = ground or Home()
        self._make = partial(
            Solo, namespace, resources, ground=self.ground, settings=settings or NodeSettings()
        )
        self._making = Lock()
        self._solo: Solo | None = None
        _ALL.add(self)

    @property
    def solo(self) -> Solo:
        """Who serves here, from the first request on."""
        found = self._solo
        if found is None:
            with self._making:
                found = self._solo or self._make()
                if self._solo is None:
                    weakref.finalize(self, found.stop).atexit = False
                self._solo = found
        return found

    def end(self) -> None:
        """Forget everything. Whoever still asks here finds a place that is empty."""
        solo, self._solo = self._solo, None
        if solo:
            solo.stop()
            solo.join()

    def forget_parent(self) -> None:
        """In a forked child: the threads are the parent's, and so is what they answer."""
        self._making, self._solo = Lock(), None


class _Declared(Mapping[str, Resource[..., Any]]):
    """The resources of an app as they are at each moment, and the default one."""

    def __init__(self, app: object) -> None:
        self._app = weakref.ref(app)
        self._seed = with_demo(None)

    def __getitem__(self, name: str) -> Resource[..., Any]:
        declared = self._resources
        return declared[name] if name in declared else self._seed[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._seed, **self._resources})

    def __len__(self) -> int:
        return len({*self._seed, *self._resources})

    @property
    def _resources(self) -> Mapping[str, Resource[..., Any]]:
        app: Any = self._app()
        return app.resources if app else {}


class _Nobody:
    """Stands for the app of clients that have none."""

    resources: Mapping[str, Resource[..., Any]] = {}


_NOBODY = _Nobody()
_OF_APPS: weakref.WeakKeyDictionary[object, dict[str, Place]] = weakref.WeakKeyDictionary()
_ALL: weakref.WeakSet[Place] = weakref.WeakSet()
_choosing = Lock()


def _after_fork() -> None:
    global _choosing
    _choosing = Lock()
    for place in _ALL:
        place.forget_parent()


def _at_exit() -> None:
    """Coroutines that are left are cancelled; threads that are left end with the process."""
    for place in list(_ALL):
        place.end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)


def place_of(namespace: str, app: object) -> Place:
    """Return where the clients of an app meet; those of a plain mapping have one each."""
    if isinstance(app, Mapping) and app:
        return Place(namespace, {**with_demo(None), **app})
    owner = app or _NOBODY
    with _choosing:
        places = _OF_APPS.setdefault(owner, {})
        if namespace not in places:
            places[namespace] = place_apart(namespace, owner)
        return places[namespace]


def place_apart(
    namespace: str, app: object, *, ground: Ground | None = None,
    settings: NodeSettings | None = None,
) -> Place:  # fmt: skip
    """Return a place of an app where none of its clients is yet."""
    return Place(namespace, _Declared(app), ground=ground, settings=settings)
