"""What a monitor makes of what nodes publish: rates, rows, events, a bounded history."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.watched import START_S, Cluster, info, stats

from rqproc.errors import RedisUnavailable
from rqproc.monitor.monitor import HISTORY_S, WINDOW_S, Monitor


def kinds(monitor: Monitor) -> list[tuple[str, str]]:
    return [(event.kind, event.node) for event in monitor.seen.events]


def test_rates_are_of_the_last_seconds() -> None:
    cluster = Cluster("a", "b")
    monitor = Monitor(cluster)
    monitor.look()
    for _ in range(20):
        cluster.passes(1.0, asked=100)
        seen = monitor.look()
    assert seen.total.requests_per_s == pytest.approx(200.0)
    assert seen.total.errors_per_s == pytest.approx(20.0)
    assert seen.total.hit_rate == pytest.approx(0.8)
    assert [row.rates and row.rates.requests_per_s for row in seen.nodes] == [
        pytest.approx(100.0),
        pytest.approx(100.0),
    ]
    (resource,) = seen.resources
    assert (resource.name, resource.rates.requests_per_s) == ("price", pytest.approx(200.0))
    for _ in range(round(WINDOW_S) + 2):
        cluster.passes(1.0)
        seen = monitor.look()
    assert seen.total.requests_per_s == 0.0
    assert seen.total.hit_rate is None


def test_a_nodes_first_word_counts_from_its_beginning() -> None:
    cluster = Cluster("a")
    seen = Monitor(cluster).look()
    assert seen.total.requests_per_s == pytest.approx(1000 / 100)


def test_a_node_that_has_said_nothing_is_there_without_rates() -> None:
    cluster = Cluster("a", "b")
    cluster.told = cluster.told[:1]
    first, second = Monitor(cluster).look().nodes
    assert first.rates
    assert (second.rates, second.share) == (None, 0.5)


def test_the_counts_of_another_life_of_a_node_are_not_mixed() -> None:
    cluster = Cluster("a")
    monitor = Monitor(cluster)
    monitor.look()
    cluster.now_s += 5.0
    cluster.nodes = [info("a", term=2)]
    cluster.told = [stats("a", cluster.now_s, asked=500, term=2)]
    seen = monitor.look()
    assert seen.total.requests_per_s == pytest.approx(500 / 105)
    cluster.passes(5.0, asked=50)
    assert monitor.look().total.requests_per_s == pytest.approx(50 / 5)


def test_what_is_hot_slow_stuck_and_failed_is_told_with_its_node() -> None:
    cluster = Cluster("a")
    cluster.passes(60.0)
    seen = Monitor(cluster).look()
    (hot,), (slow,), (error,), (stuck,) = seen.hot, seen.slow, seen.errors, seen.stuck
    assert (hot.resource, hot.id, hot.node, hot.per_s) == ("price", "a-hot", "a", 20.0)
    assert (slow.id, slow.run_s, slow.ago_s, slow.error) == (42, 1.25, 3.0, "ValueError")
    assert (error.id, error.message, error.traceback) == (7, "no <such> id", "Traceback: ...")
    assert (stuck.resource, stuck.id, stuck.run_s) == ("report", "2026", 60.0)


def test_who_joined_drained_left_and_died_is_told() -> None:
    cluster = Cluster("a", "b", "c")
    monitor = Monitor(cluster)
    monitor.look()
    assert kinds(monitor) == []
    cluster.nodes.append(info("d"))
    monitor.look()
    assert kinds(monitor) == [("moved", ""), ("joined", "d")]
    cluster.nodes[0] = info("a", state="draining")
    monitor.look()
    assert kinds(monitor)[:2] == [("moved", ""), ("drains", "a")]
    cluster.loses("a")
    monitor.look()
    assert kinds(monitor)[0] == ("left", "a")
    cluster.nodes[0] = info("b", lease_left_s=0.2)
    monitor.look()
    cluster.loses("b")
    monitor.look()
    assert kinds(monitor)[:2] == [("moved", ""), ("died", "b")]


def test_a_node_of_the_same_name_that_comes_again_has_gone_and_joined() -> None:
    cluster = Cluster("a")
    monitor = Monitor(cluster)
    monitor.look()
    cluster.nodes = [info("a", term=2)]
    monitor.look()
    assert set(kinds(monitor)) == {("left", "a"), ("joined", "a")}


def test_the_history_is_of_a_quarter_of_an_hour() -> None:
    cluster = Cluster("a")
    monitor = Monitor(cluster)
    for _ in range(200):
        cluster.passes(10.0, asked=10)
        monitor.look()
    at = [point.at_s for point in monitor.history]
    assert at[-1] == cluster.now_s
    assert at[0] == cluster.now_s - HISTORY_S > START_S
    assert len(at) == HISTORY_S / 10 + 1


def test_an_outage_is_told_of_with_what_was_seen_before_and_its_end_too() -> None:
    cluster = Cluster("a")
    monitor = Monitor(cluster)
    monitor.look()
    cluster.is_out = True
    monitor.look()
    seen = monitor.look()
    assert "redis://nowhere:1 is not available" in seen.trouble
    assert [row.info.name for row in seen.nodes] == ["a"]
    cluster.is_out = False
    assert monitor.look().trouble == ""
    assert [kind for kind, _ in kinds(monitor)] == ["back", "lost"]


def test_an_outage_is_told_of_by_the_servers_clock_as_all_else_is() -> None:
    cluster = Cluster("a")
    monitor = Monitor(cluster)
    cluster.now_s -= 1000.0
    monitor.look()
    cluster.is_out = True
    (lost,) = monitor.look().events
    assert lost.at_s == pytest.approx(cluster.now_s, abs=30.0)


def test_an_outage_at_the_first_look_is_an_error() -> None:
    cluster = Cluster("a")
    cluster.is_out = True
    with pytest.raises(RedisUnavailable):
        Monitor(cluster).look()


def test_where_no_node_lives_that_is_said() -> None:
    seen = Monitor(Cluster()).look()
    assert seen.trouble == (
        "no live node in namespace 'default': start one with `rqproc node start`"
    )


def test_an_error_that_comes_again_and_again_is_one_row() -> None:
    cluster = Cluster("a")
    (told,) = cluster.told
    again = replace(told.errors[0], at_s=told.at_s - 9.0)
    other = replace(told.errors[0], at_s=told.at_s - 5.0, type="KeyError")
    cluster.told = [replace(told, errors=(*told.errors, other, again))]
    rows = Monitor(cluster).look().errors
    assert [(row.error, row.ago_s) for row in rows] == [("ValueError", 1.0), ("KeyError", 5.0)]


def test_who_reads_the_history_is_not_disturbed_by_a_look() -> None:
    """Another thread looks while a page is told of it."""
    cluster = Cluster("a")
    monitor = Monitor(cluster)
    monitor.look()
    reading = iter(monitor.history)
    monitor.look()
    assert len(list(reading)) == 1
