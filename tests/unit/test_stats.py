"""What can be told of what nodes count."""

from __future__ import annotations

import pytest

from rqproc.stats import (
    BOUNDS_S,
    ClusterStats,
    Histogram,
    NodeStats,
    ResourceStats,
    bucket,
)


def histogram(*durations_s: float) -> Histogram:
    counts = [0] * (len(BOUNDS_S) + 1)
    for duration_s in durations_s:
        counts[bucket(duration_s)] += 1
    return Histogram(tuple(counts), sum(durations_s))


def node(up_s: float = 0.0, incarnation: str = "a#1", **counts: ResourceStats | int) -> NodeStats:
    resources = tuple(one for one in counts.values() if isinstance(one, ResourceStats))
    numbers = {name: one for name, one in counts.items() if isinstance(one, int)}
    return NodeStats(
        up_s, incarnation[0], incarnation, up_s=up_s, resources=resources, **numbers  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("duration_s", "bound_s"), [(0.0, 0.0005), (0.0005, 0.0005), (0.00051, 0.001), (60.0, 60.0)]
)
def test_a_bucket_has_what_is_not_above_its_bound(duration_s: float, bound_s: float) -> None:
    assert BOUNDS_S[bucket(duration_s)] == bound_s


def test_what_is_above_all_bounds_is_in_the_last_bucket() -> None:
    assert bucket(60.1) == len(BOUNDS_S)
    assert histogram(1000.0).quantile_s(0.5) == BOUNDS_S[-1]


def test_a_quantile_is_within_the_bucket_that_has_it() -> None:
    found = histogram(*[0.003] * 98, 0.7, 0.8)
    assert found.count == 100
    median, late = found.quantile_s(0.5), found.quantile_s(0.99)
    assert median is not None
    assert late is not None
    assert 0.0025 < median <= 0.005
    assert 0.5 < late <= 1.0
    assert found.mean_s == pytest.approx((98 * 0.003 + 1.5) / 100)


def test_of_nothing_there_is_neither_mean_nor_quantile() -> None:
    assert Histogram().quantile_s(0.5) is None
    assert Histogram().mean_s is None
    assert ResourceStats("r").hit_rate is None


def test_a_hit_rate_is_of_requests_for_values_alone() -> None:
    found = ResourceStats(
        "r", {"hit": 5, "stale": 1, "miss": 1, "joined": 1, "changed": 9}, {"KeyError": 2}
    )
    assert found.requests == 19
    assert found.hit_rate == 0.6


def test_what_was_done_since_is_the_difference() -> None:
    before = node(10.0, price=ResourceStats("price", {"hit": 2}, {}, 1, run=histogram(0.1)))
    after = node(
        15.0, price=ResourceStats("price", {"hit": 9, "miss": 1}, {}, 2, run=histogram(0.1, 0.2)),
        charge=ResourceStats("charge", {"miss": 3}), evictions=4, held=6,
    )  # fmt: skip
    found = after.since(before)
    assert (found.up_s, found.evictions, found.held) == (5.0, 4, 6)
    price, charge = found.resources
    assert price.answers == {"hit": 7, "miss": 1}
    assert price.runs == 1
    assert price.run.counts == histogram(0.2).counts
    assert charge.answers == {"miss": 3}


def test_of_another_life_all_is_new() -> None:
    after = node(2.0, "a#9", price=ResourceStats("price", {"hit": 1}))
    assert after.since(node(10.0, price=ResourceStats("price", {"hit": 7}))) is after
    assert after.since(None) is after


def test_a_cluster_sums_its_resources_up_by_name() -> None:
    a = node(price=ResourceStats("price", {"hit": 2}, {"KeyError": 1}, 1, run=histogram(1.0)))
    b = node(incarnation="b#2", price=ResourceStats("price", {"hit": 3}, run=histogram(2.0)))
    cluster = ClusterStats(0.0, (a, b))
    (price,) = cluster.resources
    assert (price.answers, price.errors, price.run.sum_s) == ({"hit": 5}, {"KeyError": 1}, 3.0)
    assert cluster.of("b") is b
    assert cluster.of("c") is None
