"""What a node publishes has a bound, and is read as it was, but for what had no room."""

from __future__ import annotations

from dataclasses import replace

from rqproc.protocol.stats_codec import MOST_BYTES, decode, encode
from rqproc.stats import (
    BOUNDS_S,
    OTHERS,
    Histogram,
    HotId,
    NodeStats,
    PastError,
    PastRun,
    ResourceStats,
    StuckRun,
)

FULL = Histogram(tuple(range(10**9, 10**9 + len(BOUNDS_S) + 1)), 12345678.901234)
LONG = "\U0001f4a5" * 200


def resource(name: str) -> ResourceStats:
    errors = {f"{name[-40:]}Error{number}": 10**9 for number in range(16)}
    return ResourceStats(name, {"hit": 10**12, "miss": 5}, errors, 10**9, FULL, FULL, FULL)


def run(at_s: float, id: int | str = 7) -> PastRun:
    return PastRun("price", id, at_s, 0.25, 1.5, "KeyError")


def test_what_has_room_is_read_as_it_was_by_the_readers_clock() -> None:
    told = NodeStats(
        100.0, up_s=90.0, entries=3, bytes=900, evictions=2, objects=1, held=4, lanes=8,
        lanes_busy=2, beats=7, beats_missed=1, epochs=3, handed_over=5, taken_over=6,
        resources=(ResourceStats("price", {"hit": 2}, {"KeyError": 1}, 3, FULL, whole=FULL),),
        hot=(HotId("price", "a b", 9, 1),), hot_s=45.0, runs=(run(99.0),), slowest=(run(50.0),),
        errors=(PastError("price", 7, 98.5, "KeyError", "7", "its traceback"),),
        stuck=(StuckRun("price", 8, 40.0),),
    )  # fmt: skip
    found = decode("a#3", 5000.0, encode(told))
    moved = replace(
        told, at_s=5000.0, node="a", incarnation="a#3", runs=(run(4999.0),), slowest=(run(4950.0),),
        errors=(replace(told.errors[0], at_s=4998.5),), stuck=(StuckRun("price", 8, 4940.0),),
    )  # fmt: skip
    assert found == moved


def test_however_much_there_is_what_is_published_has_a_bound_and_totals_are_right() -> None:
    resources = tuple(resource("r" * 90 + str(number)) for number in range(300))
    long_run = run(99.0, LONG)
    told = NodeStats(
        100.0, resources=resources, hot=(HotId("price", LONG, 9, 1),) * 24, runs=(long_run,) * 32,
        slowest=(long_run,) * 12, stuck=(StuckRun("price", LONG, 40.0),) * 1000,
        errors=(PastError("price", LONG, 98.5, "KeyError", LONG, LONG),) * 16,
    )  # fmt: skip
    text = encode(told)
    assert text.isascii()
    assert len(text) <= MOST_BYTES
    found = decode("a#3", 5000.0, text)
    assert found.resources[-1].name == OTHERS
    assert found.total.requests == told.total.requests
    assert found.total.run.counts == told.total.run.counts


def test_the_latest_errors_have_room_for_their_tracebacks_first() -> None:
    errors = tuple(
        PastError("price", number, 98.0, "KeyError", "no", "x" * 1400) for number in range(9)
    )
    found = decode("a#3", 5000.0, encode(NodeStats(100.0, errors=errors))).errors
    assert [error.id for error in found] == list(range(9))
    assert [bool(error.traceback) for error in found] == [True] + [False] * 8


def test_what_another_build_has_not_written_is_as_if_there_were_none() -> None:
    assert decode("a#3", 5000.0, "{}") == NodeStats(5000.0, "a", "a#3")
