"""What callers are given of values that are kept, renewed, put and dropped, under random schedules:
the kit's cluster in memory, held against what was made when.

A value is its id, and when its run began and ended. What is answered
  * is of no run that began before what dropped the id was asked (an invalidation, a flush, a
    refresh, a value put);
  * is as old as its ttl at most, unless it is told as an old one, and then by ``stale_ttl`` more;
  * was made once: a value that is kept is not made again, whoever asks, for one id or for many.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rqproc import App, current
from rqproc.errors import RqprocError
from rqproc.model import Reply
from rqproc.testing import LocalCluster

TTL_S, STALE_S = 10.0, 5.0
LATE_S = 0.001

IDS = st.sampled_from(range(6))
KEPT = st.sampled_from(["kept", "renewed", "batched"])

app = App()


@app.resource(ttl=TTL_S)
def kept(id: int) -> list[Any]:
    began = current().now()
    current().sleep(0.5)
    return [id, began, current().now()]


@app.resource(ttl=TTL_S, ttl_jitter=0.3, stale_ttl=STALE_S, refresh_ahead=0.5)
def renewed(id: int) -> list[Any]:
    return kept.handler(id)


@app.resource(ttl=TTL_S, batch=3)
def batched(ids: list[int]) -> dict[int, list[Any]]:
    began = current().now()
    current().sleep(0.5)
    return {id: [id, began, current().now()] for id in ids}


class Values(RuleBasedStateMachine):
    """Attributes: floors: by resource and id, when a run must have begun at the earliest."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = LocalCluster(app, nodes=2, lease_s=60.0, heartbeat_s=20.0)
        self.cluster.__enter__()
        self.floors: dict[tuple[str, int], float] = {}

    def teardown(self) -> None:
        self.cluster.assert_serial()
        self.cluster.assert_nothing_lost()
        self.cluster.__exit__(None, None, None)

    @initialize()
    def begin(self) -> None:
        """Find the moment at which the cluster's clock begins."""
        self.began = self.cluster.request("kept", 99)[2] - self.cluster.now_s

    @property
    def now(self) -> float:
        return self.began + self.cluster.now_s

    def check(self, resource: str, id: int, reply: Reply | RqprocError, asked: float) -> None:
        assert isinstance(reply, Reply), reply
        told, began, ended = reply.value
        assert told == id
        assert began >= self.floors.get((resource, id), 0.0), "from before it was dropped"
        limit_s = TTL_S + (STALE_S if reply.source == "stale" else 0.0)
        assert asked - ended <= limit_s + LATE_S, reply

    def drop(self, resource: str, *ids: int, asked: float) -> None:
        for id in ids:
            self.floors[resource, id] = max(asked, self.floors.get((resource, id), 0.0))

    @rule(resource=KEPT, id=IDS)
    def one_is_asked(self, resource: str, id: int) -> None:
        asked = self.now
        self.check(resource, id, self.cluster.reply(resource, id), asked)

    @rule(resource=KEPT, ids=st.lists(IDS, min_size=1, max_size=5))
    def many_are_asked(self, resource: str, ids: list[int]) -> None:
        asked = self.now
        for id, reply in self.cluster.reply_many(resource, ids).items():
            self.check(resource, int(id), reply, asked)

    @rule(
        resource=KEPT, pairs=st.lists(st.lists(IDS, min_size=1, max_size=4), min_size=2, max_size=3)
    )
    def arrays_that_overlap_are_asked_at_once(self, resource: str, pairs: list[list[int]]) -> None:
        """Of each id that was dropped one value is made, for all of them."""
        ids = sorted({id for some in pairs for id in some})
        asked = self.now
        self.cluster.invalidate_many(resource, ids)
        self.drop(resource, *ids, asked=asked)
        before = {id: self.cluster.computations(resource, id) for id in ids}
        asked = self.now
        started = [self.cluster.start(resource, id) for some in pairs for id in some]
        for call, id in zip(started, [id for some in pairs for id in some], strict=True):
            self.check(resource, id, call.reply(), asked)
        for id in ids:
            assert self.cluster.computations(resource, id) == before[id] + 1

    @rule(resource=KEPT, id=IDS)
    def one_is_dropped(self, resource: str, id: int) -> None:
        asked = self.now
        self.cluster.invalidate(resource, id)
        self.drop(resource, id, asked=asked)

    @rule(resource=KEPT, id=IDS)
    def one_is_dropped_while_it_is_made(self, resource: str, id: int) -> None:
        call = self.cluster.start(resource, id)
        self.cluster.advance(0.2)
        self.one_is_dropped(resource, id)
        call.result()
        self.one_is_asked(resource, id)

    @rule(resource=KEPT, everything=st.booleans())
    def all_are_dropped(self, resource: str, everything: bool) -> None:
        asked = self.now
        self.cluster.invalidate_all(None if everything else resource)
        for name in ("kept", "renewed", "batched") if everything else (resource,):
            self.drop(name, *range(6), asked=asked)

    @rule(resource=KEPT, id=IDS)
    def one_is_made_anew(self, resource: str, id: int) -> None:
        asked = self.now
        assert self.cluster.refresh(resource, id)[1] >= asked
        self.drop(resource, id, asked=asked)

    @rule(resource=KEPT, id=IDS)
    def one_is_put(self, resource: str, id: int) -> None:
        asked = self.now
        assert self.cluster.set(resource, id, [id, asked, asked])
        self.drop(resource, id, asked=asked)
        assert self.cluster.request(resource, id) == [id, asked, asked]

    @rule(resource=KEPT, id=IDS, seconds=st.sampled_from([6.0, 9.9, 10.1, 14.0, 16.0]))
    def one_is_asked_for_again(self, resource: str, id: int, seconds: float) -> None:
        self.one_is_asked(resource, id)
        self.cluster.advance(seconds)
        self.one_is_asked(resource, id)

    @rule(seconds=st.sampled_from([0.3, 1.0, 4.0, 6.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.cluster.advance(seconds)

    @precondition(lambda self: len(self.cluster.members()) < 4)
    @rule()
    def a_node_joins(self) -> None:
        self.cluster.join()

    @precondition(lambda self: len(self.cluster.members()) > 1)
    @rule(pick=st.integers(0, 3))
    def a_node_leaves(self, pick: int) -> None:
        members = self.cluster.members()
        self.cluster.leave(members[pick % len(members)])


SETTINGS = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(600)  # a failure is shrunk
def test_no_schedule_has_a_caller_given_what_is_too_old_or_was_dropped() -> None:
    run_state_machine_as_test(Values, settings=SETTINGS)
