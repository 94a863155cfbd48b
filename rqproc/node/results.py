"""What becomes of a run's outcome: what is kept of it, and what those who waited are told.

Pure: it sends nothing. Knows entries, policies and answers; must not know lanes, nor what runs.
"""

from __future__ import annotations

import logging

from rqproc.log_events import tell
from rqproc.node.cache import Cache
from rqproc.node.entries import Entry
from rqproc.node.outbox import Outbox
from rqproc.node.runs import Done, Failed, HandlerRun, Outcome, Overdue, Taken
from rqproc.protocol import answer_codec
from rqproc.runtime import Chance, Clock

log = logging.getLogger("rqproc.node")


class Results:
    """Keeps values and errors by their resource's policy, and answers."""

    def __init__(
        self, node: str, cache: Cache, outbox: Outbox, *, clock: Clock, chance: Chance
    ) -> None:
        self._node = node
        self._cache = cache
        self._outbox = outbox
        self._clock = clock
        self._chance = chance

    def tell(self, run: HandlerRun, outcome: Outcome, overdue: Overdue | None) -> None:
        """Answer everyone who waited for a run; ``overdue``: what they were told before its end."""
        if run.hold:
            self.release(run.hold, None if run.is_refresh else overdue)
        if isinstance(outcome, Done):
            self._answer_all(run, outcome)
        else:
            self._fail_all(run, outcome)

    def release(self, hold: Taken, overdue: Overdue | None) -> None:
        """The answer goes along: the one that was sent before may have been lost on its way."""
        hold.holds = False
        if overdue is None or hold.id.startswith(b"~"):
            self._outbox.nothing(hold, ":ended")
        else:
            self._outbox.failure(hold, overdue, ":ended")

    def _answer_all(self, run: HandlerRun, done: Done) -> None:
        now, policy = self._clock(), run.resource.policy
        made_at = min(done.at, now)
        ttl_s = policy.ttl_of(done.text, done.ttl_s, self._chance) if run.keeps else 0.0
        life = policy.life(made_at, ttl_s)
        entry = Entry(made_at, life.fresh_until, run.token, done.text.encode())
        kept = False
        if ttl_s:
            late_until = life.kept_until if policy.keeps_late else None
            first = entry._replace(expires_at=life.first_until)
            kept = self._cache.keep(
                run.key, first, now, late_until=late_until, bounds=policy.bounds
            )
        elif run.keeps:
            self._cache.drop(run.key, now)
        for place, taken in enumerate(run.waiting):
            if run.given and taken.renews:  # it has the value: what it wants to know is this
                said = Entry(now, now, run.token, b"true" if kept else b"false")
                self._outbox.value(taken, said, "miss", ":dropped")
            else:
                self._outbox.value(taken, entry, "joined" if place or run.hold else "miss")

    def _fail_all(self, run: HandlerRun, failure: Failed | Overdue) -> None:
        """Tell everyone of a failure; or the old value, where one answers then."""
        now, policy = self._clock(), run.resource.policy
        old = self._cache.late(run.key, now) if run.keeps and policy.on_error_s else None
        if old and now < old.expires_at - policy.late_s + policy.on_error_s:
            tell(
                log, "old_value_answers", "%s: an old value answers, since its run failed",
                run.address, **run.about,
            )  # fmt: skip
            for taken in run.waiting:
                if taken.renews:
                    self._outbox.failure(taken, failure)
                else:
                    self._outbox.value(taken, old._replace(expires_at=now), "stale")
            return
        if run.keeps and isinstance(failure, Failed) and failure.remembered:
            report = answer_codec.remembered(failure.report).encode()
            expires_at = now + (policy.negative_ttl_s or 0.0)
            remembered = Entry(now, expires_at, run.token, report)
            self._cache.keep_error(run.key, remembered, now, policy.bounds)
        for taken in run.waiting:
            self._outbox.failure(taken, failure)
