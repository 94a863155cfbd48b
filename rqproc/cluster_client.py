"""What a blocking client does beside asking for values: it enqueues jobs, tells of the cluster, and
has nodes drained.

Knows calls and what carries them. Must not know the handlers' code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from rqproc.calls.call import Call, check_result_ttl
from rqproc.calls.jobs import JobOptions, check_options, jobs_of
from rqproc.connect import BaseClient
from rqproc.errors import RequestTimeout, RqprocError
from rqproc.explained import AtNode, Explanation
from rqproc.ids import Id, canonical
from rqproc.model import DEFAULT_RESOURCE, Location, Membership
from rqproc.protocol import codec
from rqproc.protocol.commands import MOST_TOGETHER
from rqproc.stats import ClusterStats

if TYPE_CHECKING:
    from rq.job import Job as RqJob


class ClusterClient(BaseClient, ABC):
    """The base of ``Client``. Args, Raises: as for that."""

    @abstractmethod
    def _ask(self, call: Call) -> Call:
        """Have a call answered. Raises: RedisUnavailable."""

    def enqueue(
        self,
        id: Id,
        resource: str = DEFAULT_RESOURCE,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        result_ttl: int | None = None,
        **options: Unpack[JobOptions],
    ) -> RqJob:
        """Enqueue a request and return its ``rq.job.Job`` without waiting.

        The job waits where no node is alive yet. Its result is kept ``result_ttl`` whole seconds, 0
        for none, -1 for ever (RQ's default: 500), in RQ's default serializer. Of ``local://`` it
        has ``id``, ``get_status()``, ``latest_result()``, ``return_value()`` and ``exc_info``.

        ``options`` are RQ's own, as ``rq.Queue.enqueue`` takes them: job_id, meta, description,
        depends_on, ttl, failure_ttl, at_front, retry, repeat, rate_limit, unique. With any of them
        RQ's own code enqueues the job.

        Raises:
            Overloaded, RedisUnavailable, InvalidId, ConfigError;
            rq.exceptions.DuplicateJobError: with ``unique``.
        """
        if options:
            check_options(options)
            (asked,) = jobs_of([canonical(id)], resource, args, kwargs)
            ttl_s = check_result_ttl(result_ttl)
            return self._backend.enqueue_by_rq(asked, options, result_ttl_s=ttl_s)
        (job,) = self._enqueue([canonical(id)], resource, args, kwargs, result_ttl)
        if isinstance(job, RqprocError):
            raise job
        return job

    def enqueue_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        result_ttl: int | None = None,
        return_exceptions: bool = False,
    ) -> list[RqJob | RqprocError]:
        """Enqueue a request of each id, 256 in a round trip; return their jobs in this order.

        One that is refused does not keep the others from being enqueued. With
        ``return_exceptions`` its error stands in the place of its job; without, the first error is
        raised when all have been sent.

        Raises:
            as ``enqueue``.
        """
        asked = [canonical(id) for id in ids]
        found: list[RqJob | RqprocError] = []
        for first in range(0, len(asked), MOST_TOGETHER):
            some = asked[first : first + MOST_TOGETHER]
            found += self._enqueue(some, resource, (), None, result_ttl)
        if not return_exceptions:
            for job in found:
                if isinstance(job, RqprocError):
                    raise job
        return found

    def _enqueue(
        self, ids: Sequence[Id], resource: str, args: Sequence[Any],
        kwargs: Mapping[str, Any] | None, result_ttl: int | None,
    ) -> list[RqJob | RqprocError]:  # fmt: skip
        ttl_s = check_result_ttl(result_ttl)
        jobs = jobs_of(ids, resource, args, kwargs)
        return self._backend.enqueue(jobs, resource=resource, ids=ids, result_ttl_s=ttl_s)

    # --- the cluster ---

    def members(self) -> tuple[str, ...]:
        """Return the names of the live members, sorted: what the modulo counts over.

        Raises:
            RedisUnavailable.
        """
        return self.membership().members

    def membership(self) -> Membership:
        """Return every live node with its state, lease and counts.

        Raises:
            RedisUnavailable.
        """
        return self._backend.membership()

    def stats(self) -> ClusterStats:
        """Return what every live node counts and remembers, as it said with its last heartbeat:
        answers by source, errors, latencies, hot ids, past runs.

        By a server's ACL it is an operator's to ask.

        Raises:
            RedisUnavailable.
        """
        return self._backend.stats()

    def owner(self, id: Id) -> str | None:
        """Return the name of the member that owns an id, None where no node is alive.

        Raises:
            InvalidId, RedisUnavailable.
        """
        return self.locate([id])[0].owner

    def locate(self, ids: Iterable[Id], resource: str = DEFAULT_RESOURCE) -> list[Location]:
        """Return for each id, in the order asked, its owner, its holder and what they follow from.

        Raises:
            InvalidId, RedisUnavailable.
        """
        return self._backend.locate(resource, [canonical(id) for id in ids])

    def explain(
        self, id: Id, resource: str = DEFAULT_RESOURCE, *, timeout: float = 3.0
    ) -> Explanation:
        """Return why an id is where it is, and how it has done: owner, holder, what is kept, what
        runs and waits, and the last runs with their durations and errors.

        The holder is asked, or where there is none the owner. Nothing is computed or changed. A
        node that does not answer in time is told of, with what the server knows.

        Args:
            timeout: float, seconds to wait for that node.

        Raises:
            InvalidId, ConfigError, RedisUnavailable.
        """
        call = self._requests.one(id, resource, (), None, timeout, "wait", codec.EXPLAIN)
        nodes = self._backend.membership().nodes
        (location,) = self._backend.locate(resource, call.ids)
        began = self._backend.runtime.monotonic()
        told, silence = None, "no node lives"
        if location.owner or location.holder:
            told, silence = self._told(call, location)
        took_s = self._backend.runtime.monotonic() - began
        return Explanation(resource, call.ids[0], location, nodes, told, silence, took_s)

    def _told(self, call: Call, location: Location) -> tuple[AtNode | None, str]:
        asked = location.holder or location.owner
        try:
            return AtNode.of(self._ask(call).value(self.namespace)), ""
        except RequestTimeout:
            return None, f"{asked} has not answered within {call.timeout_s:g} s"
        except (RqprocError, TypeError) as error:
            # Refused, by a server's ACL too; or it is of a version without this.
            return None, f"{asked} does not tell: {error}"

    def drain(self, node: str) -> bool:
        """Ask a node to finish what it holds and end; return whether such a node is alive.

        Raises:
            RedisUnavailable; ConfigError: ``local://`` has no nodes.
        """
        return self._backend.drain(node)

    def report_death(self, node: str, *, pid: int, host: str) -> bool:
        """Tell the cluster that a node's process has ended, so that it need not wait a lease.

        Args:
            pid, host: the process's, as the node gave them when it joined.

        Returns:
            whether such a node was alive.

        Raises:
            RedisUnavailable.
        """
        return self._backend.report_death(node, pid=pid, host=host)
