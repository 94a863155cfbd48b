"""What follows from the events of a cluster under test."""

from __future__ import annotations

from rqproc.testing.events import Event, History, Kind


def event(kind: Kind, at_s: float = 0.0, node: str = "a", token: int = 1, id: int = 42) -> Event:
    named = kind in ("started", "returned", "raised")
    return Event(at_s, kind, node, "price" if named else "", id if named else None, token)


def history(*events: Event) -> History:
    return History(events)


TWO = (
    event("started", 1.0),
    event("started", 2.0, "b", 2),
    event("returned", 3.0, "b", 2),
    event("returned", 4.0),
)


def test_a_run_goes_from_its_start_to_its_end() -> None:
    (run,) = history(event("started", 1.0), event("raised", 2.5)).runs()
    assert (run.node, run.id, run.started_s, run.ended_s, run.dead) == ("a", 42, 1.0, 2.5, False)


def test_a_run_without_an_end_goes_on() -> None:
    (run,) = history(event("started", 1.0)).runs()
    assert run.ended_s is None
    assert str(run) == "price 42 on a from 1.000 s to now"


def test_a_run_ends_with_its_node() -> None:
    first, second = history(*TWO[:2], event("killed", 3.0), event("returned", 4.0)).runs()
    assert (first.ended_s, first.dead) == (3.0, True)
    assert (second.ended_s, second.dead) == (None, False)


def test_another_token_is_another_run() -> None:
    first, second = history(event("started"), event("started", token=2), event("returned")).runs()
    assert (first.ended_s, second.ended_s) == (0.0, None)


def test_runs_of_one_id_that_go_on_at_once_overlap() -> None:
    ((run, later),) = history(*TWO).overlaps()
    assert (run.node, later.node) == ("a", "b")


def test_runs_of_two_ids_do_not_overlap() -> None:
    assert not history(event("started"), event("started", token=2, id=43)).overlaps()


def test_runs_one_after_another_do_not_overlap_be_it_at_one_moment() -> None:
    after = (event("started"), event("returned"), event("started", node="b", token=2))
    assert not history(*after).overlaps()


def test_runs_that_meet_at_one_moment_overlap() -> None:
    met = (
        event("started"),
        event("started", node="b", token=2),
        event("returned"),
        event("returned", node="b", token=2),
    )
    assert len(history(*met).overlaps()) == 1


def test_a_run_of_a_node_that_was_killed_overlaps_with_none_that_comes_later() -> None:
    killed = history(event("started"), event("killed"), event("started", node="b", token=2))
    assert not killed.overlaps(strict=True)


def test_a_run_that_its_node_was_paused_in_is_left_out_unless_strict() -> None:
    paused = history(TWO[0], event("paused", 1.5), *TWO[1:])
    assert not paused.overlaps()
    assert len(paused.overlaps(strict=True)) == 1


def test_a_server_that_was_away_is_a_lapse_of_all() -> None:
    assert all(run.lapsed for run in history(TWO[0], event("server down", node=""), *TWO).runs())


def test_a_lapse_that_is_over_excuses_no_later_run() -> None:
    for lapse, over in (
        (event("paused"), event("resumed")),
        (event("cut off"), event("healed")),
        (event("cut off"), event("healed", node="")),
        (event("server down", node=""), event("server up", node="")),
        (event("paused"), event("killed")),
    ):
        assert len(history(lapse, over, *TWO).overlaps()) == 1, lapse


def test_a_lapse_of_one_node_excuses_no_other() -> None:
    assert len(history(event("paused", node="c"), *TWO).overlaps()) == 1
    still_paused = history(event("paused"), event("resumed", node="b"), *TWO)
    assert not still_paused.overlaps()


def test_computations_are_starts_of_one_id() -> None:
    told = history(*TWO, event("started", token=3, id=43))
    assert told.computations("price", 42) == 2
    assert told.computations("price", 43) == 1
    assert told.computations("other", 42) == 0


def test_a_line_tells_when_where_and_what() -> None:
    line = str(Event(31.5, "returned", "node-2", "price", 42, 7, '{"id": 42}'))
    assert line.split() == ["31.500", "s", "node-2", "price", "42", "returned",
                            "token", "7", '{"id":', "42}"]  # fmt: skip
    assert str(Event(0.0, "server down")) == str(Event(0.0, "server down")).rstrip()


def test_the_last_events_say_how_many_came_before() -> None:
    told = history(*(event("paused", at) for at in range(5)))
    assert told.last(2).splitlines()[0] == "... 3 events before"
    assert len(told.last(2).splitlines()) == 3
    assert "before" not in told.last(5)


def test_a_part_of_a_history_is_one() -> None:
    told = history(*TWO)
    assert isinstance(told[1:], History)
    assert told[0] == TWO[0]
    assert list(told.of("price", 42)) == list(TWO)
