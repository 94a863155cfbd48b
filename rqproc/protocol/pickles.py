"""RQ's default serializer, read so that nothing of it can run: plain values, names of resources.

Knows pickles. Must not know what jobs ask for.

There are two readers. Nodes read whatever anyone has put into a job: theirs takes no more room than
a job may have. A caller reads results that it has asked for, and which may be large: its reader is
the fast one.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection
from typing import Any, NamedTuple

PROTOCOL = 4


class Unreadable(ValueError):
    """A job's data is not a request that rqproc serves; the message says why."""


class NamedResource(NamedTuple):
    """A resource that is enqueued itself, as RQ pickles it: by the path of its handler, which is
    looked up nowhere but in the list. There is nothing in it to be called or changed.
    """

    path: str


class JobUnpickler(pickle._Unpickler):
    """Reads numbers, text, lists, dicts and the like; anything that would be looked up ends it, but
    the name of a resource.

    The one written in Python: the one in C makes room for whatever memo index a pickle names.
    """

    def __init__(self, file: io.BytesIO, functions: Collection[str]) -> None:
        super().__init__(file)
        self._functions = functions

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path in self._functions:
            return NamedResource(path)
        raise Unreadable(f"rqproc does not unpickle {path[:200]}: pass plain values")

    def persistent_load(self, pid: object) -> Any:
        raise Unreadable("rqproc does not unpickle persistent ids: pass plain values")


def names_a_resource(value: object) -> bool:
    """Whether a resource itself is anywhere in plain values, which may hold themselves."""
    left, seen = [value], set()
    while left:
        found = left.pop()
        if isinstance(found, NamedResource):
            return True
        if isinstance(found, dict | list | tuple | set | frozenset) and id(found) not in seen:
            seen.add(id(found))
            left += found
            left += found.values() if isinstance(found, dict) else ()
    return False


class PlainPickle:
    """RQ's default serializer for plain values alone: what it reads can make it run nothing.

    Nodes read by the other reader, which bounds what it takes; a caller asked for what it reads
    here, and a large value must not take it long.
    """

    @staticmethod
    def dumps(value: object) -> bytes:
        """Raises: Unreadable: it is not plain."""
        data = pickle.dumps(value, protocol=PROTOCOL)
        PlainPickle.loads(data)
        return data

    @staticmethod
    def loads(data: bytes) -> Any:
        """Raises: Unreadable."""
        return _ValueUnpickler(io.BytesIO(data)).load()


class _ValueUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise Unreadable(f"rqproc does not pickle or unpickle {module}.{name}: use plain values")
