"""A node's life: join, start the threads in one order, serve, stop them in another, leave.

Knows which parts there are. Must not know what they do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from functools import partial

from rqproc.calls.functions import FunctionCalls
from rqproc.errors import ConfigError
from rqproc.locks import snapshot
from rqproc.log_events import tell
from rqproc.node import current_job
from rqproc.node.cache import Cache
from rqproc.node.dispatcher import Dispatcher
from rqproc.node.handoff import Handoff
from rqproc.node.ingress import Ingress
from rqproc.node.lanes import Lanes
from rqproc.node.lease import Heartbeat, Term
from rqproc.node.membership import NodeMembership
from rqproc.node.objects import Objects
from rqproc.node.own_entries import OwnEntries
from rqproc.node.reader import functions
from rqproc.node.recycling import Recycling
from rqproc.node.rq_commands import obey
from rqproc.node.runs import HandlerRun
from rqproc.node.states import ServerStates
from rqproc.node.watchdog import NoWatch, Watch, Watchdog
from rqproc.node.worker import Worker
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys
from rqproc.protocol.messages import Joined, Tally
from rqproc.resource import ResourceSpec, code_of
from rqproc.runtime import patched_by
from rqproc.settings import NodeSettings
from rqproc.stats import NodeStats, ResourceStats
from rqproc.transport.connector import Connector

log = logging.getLogger("rqproc.node")

STATE_THREADS = 4


class Node:
    """One node in this process.

    Args:
        name: stable and unique among the live; without it the first of ``HOST-1``, ``HOST-2``, ...
            that is free.
        parent: process id of a supervisor, without which this node drains; None for none.
        spent: told once which limit of the settings is reached, such as ``max_requests``; without
            it this node drains by itself.

    Attributes:
        own_entries: through which its own program may look, from when it is ready; closed when it
            stops.
        recycled: whether it has drained by itself, at a limit of its settings.

    Raises:
        ConfigError: a malformed name, or ``max_rss_mib`` is less than this process takes now.
    """

    def __init__(
        self,
        connector: Connector,
        keys: Keys,
        resources: Mapping[str, ResourceSpec],
        *,
        settings: NodeSettings | None = None,
        name: str | None = None,
        parent: int | None = None,
        spent: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings or NodeSettings()
        self._connector = connector
        self._runtime = connector.runtime
        self._keys = keys
        self._commands = Commands(keys)
        self._functions = FunctionCalls(connector, self._commands)
        self._resources = resources
        self._parent = parent
        self._worker: Worker | None = None
        self._heartbeat: Heartbeat | None = None
        self.own_entries: OwnEntries | None = None
        self._stopping = self._runtime.event()
        self._membership = NodeMembership(
            connector, self._functions, self._commands, self.settings, name=name, parent=parent,
            code=code_of(resources), stopping=self._stopping,
        )  # fmt: skip
        self._spent = spent or self._drain_by_itself
        self.recycled = False
        self._recycling = self._make_recycling() if self.settings.is_recycled else None
        self._watch: Watch = Watchdog() if self.settings.strict else NoWatch()

    @property
    def has_served(self) -> bool:
        """Whether it has joined, so that handlers may run."""
        return self._worker is not None

    @property
    def server(self) -> str:
        return self._connector.server

    def run(self, *, ready: Callable[[str, Joined], None]) -> bool:
        """Serve until stopped; return whether everything held was finished.

        Args:
            ready: called with the name and the membership once this node serves.

        Raises:
            NameTaken: a node of this name is alive.
            RedisUnavailable: not reachable at the start.
        """
        name, joined, term = self._membership.first_join()
        dispatcher = self._make_dispatcher(name)
        worker = self._make_worker(name, dispatcher, term)
        own_entries = self.own_entries = OwnEntries(name, dispatcher.cache, lambda: worker.term)
        self._worker = worker
        ingress = Ingress(
            self._connector,
            self._commands,
            functions(self._resources),
            incarnation=lambda: worker.term.incarnation,
            channel=self._keys.commands(name),
            hear=partial(obey, node=name, stop_job=worker.stop_job, shut_down=self.stop),
            maintain=self._maintain,
            failed=worker.fail,
        )
        heartbeat = self._heartbeat = self._make_heartbeat(worker, ingress)
        threads = self._runtime.threads
        with (
            closing(self._functions),
            threads(1, name="rqproc-dependents") as self._after,
            threads(STATE_THREADS, name="rqproc-states") as self._for_loops,
        ):
            heartbeat.start()
            ingress.start()
            if self._stopping.is_set():  # asked to before there was a worker
                self.stop()
            ready(name, joined)
            finished = False
            try:
                finished = worker.run()
            finally:
                own_entries.close()
                ingress.stop()
                heartbeat.stop()
                if finished:  # else a handler may still run: its ids wait for the lease's end
                    self._membership.leave(name, worker.term)
        return finished

    def stop(self) -> None:
        """Drain: finish what is held, take nothing new, then end. For signal handlers too."""
        self._stopping.set()
        if self.own_entries:
            self.own_entries.close()
        if self._worker:
            self._worker.stop(within_s=self.settings.drain_s)

    def tally(self) -> Tally:
        """Return this node's counts, what was its own program has found too; zero at first."""
        if not self._worker or not self.own_entries:
            return Tally()
        told, found = self._worker.tally(), sum(snapshot(self.own_entries.hits.values()))
        return replace(told, hits=told.hits + found, succeeded=told.succeeded + found)

    def stats(self) -> NodeStats:
        """Return what this node counts and remembers, by its own clock; nothing at first."""
        if not (self._worker and self.own_entries and self._heartbeat):
            return NodeStats(self._runtime.suspend_proof())
        told, beats = self._worker.stats(), self._heartbeat
        found = {resource.name: resource for resource in told.resources}
        for name, hits in snapshot(self.own_entries.hits.items()):
            own = ResourceStats(name, {"hit": hits})
            found[name] = found[name] + own if name in found else own
        return replace(
            told, incarnation=self._worker.term.incarnation, resources=tuple(found.values()),
            beats=beats.answered, beats_missed=beats.missed,
        )  # fmt: skip

    def unready(self) -> str:
        """Return why this node does not serve as a member just now; "" where it does."""
        if not self._worker:
            return "not joined yet"
        term = self._worker.term
        if self._stopping.is_set() or term.draining:
            return "draining: it takes nothing new"
        if term.over:
            return "the lease is lost: it is about to join anew"
        if not term.trusted:
            return "the lease may not be relied on: no heartbeat was answered in time"
        return ""

    @property
    def lease_left_s(self) -> float:
        """Seconds for which its lease may be relied on; 0 where it may not."""
        return max(0.0, self._worker.term.trusted_s) if self._worker else 0.0

    # --- parts ---

    def _make_dispatcher(self, name: str) -> Dispatcher:
        settings, clock = self.settings, self._runtime.suspend_proof
        cache = Cache(name, settings.max_entries, settings.max_bytes, holds_moved=settings.handoff)
        return Dispatcher(
            name,
            self._resources,
            cache=cache,
            lanes=Lanes[HandlerRun](settings.concurrency),
            clock=clock,
            max_waiters=settings.max_waiters,
            chance=self._runtime.chance,
            objects=self._make_objects(cache),
            handoff=Handoff(name, cache, self._resources, clock) if settings.handoff else None,
        )

    def _make_objects(self, cache: Cache) -> Objects:
        def worker() -> Worker:
            assert self._worker  # runs are its own
            return self._worker

        states = ServerStates(
            self._functions, self._commands, current=lambda: worker().term.incarnation,
            runtime=self._runtime, threads=lambda: self._for_loops,
        )  # fmt: skip
        return Objects(
            states, owns=cache.owns, clock=self._runtime.suspend_proof,
            most=self.settings.max_entries, wake=lambda: worker().wake(),
        )  # fmt: skip

    def _make_worker(self, name: str, dispatcher: Dispatcher, term: Term) -> Worker:
        return Worker(
            self._connector,
            self._commands,
            dispatcher,
            term=term,
            settings=self.settings,
            node=name,
            join=lambda: self._membership.join(name)[1],
            ended=self._enqueue_dependents,
            watch=self._watch,
            find_job=partial(current_job.find, connection=lambda: self._functions.redis),
        )

    def _make_heartbeat(self, worker: Worker, ingress: Ingress) -> Heartbeat:
        def moved() -> None:
            worker.reconnect()
            ingress.reconnect()

        return Heartbeat(
            self._connector,
            self._commands,
            self.settings,
            term=lambda: worker.term,
            tally=self.tally,
            stats=self.stats,
            most_taken=worker.most_taken,
            wake=worker.wake,
            failed=worker.fail,
            moved=moved,
            lost=lambda bare: worker.reconnect(bare=bare),
            watch=self._watch,
            recycle=self._recycle,
            has_parent=self._has_parent,
        )

    def _make_recycling(self) -> Recycling:
        # Supervised nodes end one after the other anyway.
        early = self._runtime.chance() if self._parent is None else 0.0
        return Recycling(self.settings, clock=self._runtime.suspend_proof, early=early)

    def _recycle(self) -> None:
        """End, or ask the supervisor to be ended, where a limit of the settings is reached."""
        if self._recycling and (reason := self._recycling.reason(self.tally())):
            self._spent(reason)

    def _drain_by_itself(self, reason: str) -> None:
        tell(log, "node_drains", "draining, %s", reason, reason=reason)
        self.recycled = True
        self.stop()

    def _has_parent(self) -> bool:
        """Whether its supervisor lives, if it has one."""
        return self._parent is None or os.getppid() == self._parent

    def _enqueue_dependents(self, job_ids: Sequence[str]) -> None:
        from rqproc.node import dependents

        enqueued = self._after.submit(dependents.enqueue, job_ids, self._functions.redis)
        enqueued.add_done_callback(_log_failure)

    def _maintain(self) -> None:
        def maintain() -> None:
            from rqproc.node import dependents  # here, since it takes a while

            dependents.maintain(self._keys.ingress, self._functions.redis)

        self._after.submit(maintain).add_done_callback(_log_failure)


def check_threads() -> None:
    """Raises: ConfigError: there are none here, so a handler would keep the heart from beating."""
    if name := patched_by():
        raise ConfigError(
            f"a node needs threads, and {name} has put greenlets in their place: declare the "
            "resources in a module that does not patch, and start that with `rqproc node start`"
        )


def _log_failure(future: Future[None]) -> None:
    if error := future.exception():
        text = "what RQ does after jobs has failed: %s"
        tell(log, "after_jobs_failed", text, error, exc_info=error, error=error)
