"""Changes of what is kept, as callers ask for them: dropped, dropped for all, given, or made anew.

Pure: it sends nothing. Knows entries, and the runs whose values may become some. Must not know how
plain requests are served.
"""

from __future__ import annotations

from rqproc.model import Request
from rqproc.node.cache import Cache
from rqproc.node.entries import Entry
from rqproc.node.outbox import Outbox
from rqproc.node.runs import Done, Failed, Taken
from rqproc.node.scheduler import Scheduler
from rqproc.policy import check_own_ttl
from rqproc.protocol import codec
from rqproc.protocol.node_commands import Outcome
from rqproc.resource import ResourceSpec
from rqproc.runtime import Clock


class Changes:
    """Carries out what callers ask one node to change, and answers them."""

    def __init__(self, cache: Cache, scheduler: Scheduler, outbox: Outbox, *, clock: Clock) -> None:
        self._cache = cache
        self._scheduler = scheduler
        self._outbox = outbox
        self._clock = clock

    def change(self, taken: Taken, resource: ResourceSpec, call: codec.DecodedCall) -> None:
        """Change what is kept of one id, or of all of its resource."""
        if call.function == codec.INVALIDATE:
            self._drop(taken)
        elif call.function == codec.INVALIDATE_ALL:
            self.drop_all(taken, taken.key.split(b"-", 2)[1], ":flushed")
        else:
            self._renew(taken, resource, call)

    def drop_all(self, taken: Taken, resource: bytes, outcome: Outcome) -> None:
        """Drop what was made before, of a resource, or of all with b"". The server tells the other
        nodes when it has the answer, and this one too: what is begun here until then is not kept,
        either.
        """
        self.flush(resource, taken.token)
        now = self._clock()
        self._outbox.value(taken, Entry(now, now, taken.token, b"null"), "miss", outcome)

    def flush(self, resource: bytes, token: int) -> None:
        """Keep nothing that was claimed up to a token, of a resource, or of all with b""."""
        self._cache.flush(resource, token)
        self._scheduler.joinable.part_all(resource, token)

    def _drop(self, taken: Taken) -> None:
        """Drop the entry, and let nobody who comes later join or keep what is being computed."""
        now = self._clock()
        had = self._cache.drop(taken.key, now)
        ran = self._scheduler.joinable.part(taken.key)
        text = b"true" if had or ran else b"false"
        self._outbox.value(taken, Entry(now, now, taken.token, text), "miss", ":dropped")

    def _renew(self, taken: Taken, resource: ResourceSpec, call: codec.DecodedCall) -> None:
        """Have a value made now, or keep the one that is given, whatever is kept."""
        name, args = resource.name, call.request.args
        given = None
        try:
            if resource.ttl_s == 0:
                raise TypeError(f"{name} keeps no values (ttl=0)")
            if call.function == codec.SET:
                value, ttl = args
                given = Done(
                    codec.encode_value(value), ttl_s=None if ttl is None else check_own_ttl(ttl)
                )
        except (TypeError, ValueError) as error:
            self._outbox.failure(taken, Failed(type(error).__name__, str(error), ""))
            return
        if stuck := self._scheduler.stuck.get(taken.key):
            self._outbox.failure(taken, stuck)
        else:
            self._scheduler.renew(taken, resource, Request(name, call.request.id), given)
