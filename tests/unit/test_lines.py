"""Idle links: which of them are worth anything after one has failed."""

from __future__ import annotations

from typing import Any

import pytest
from made_calls import COMMANDS

from rqproc.calls.retry import OUTAGE_S
from rqproc.errors import RedisUnavailable
from rqproc.ground import MACHINE
from rqproc.lines import Lines
from rqproc.transport.connection import LinkLost, Refused


class FakeLink:
    """Its packets fail in turn, or are answered in turn."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[Any] = []
        self.closed = False

    def exchange(self, commands: Any, *, timeout_s: float) -> list[Any]:
        self.sent.append(tuple(commands))
        outcome = self.outcomes.pop(0) if self.outcomes else b"PONG"
        if isinstance(outcome, Exception):
            raise outcome
        return [outcome] * len(commands)

    def close(self) -> None:
        self.closed = True


class FakeDial:
    """Gives the links that it was given."""

    server = "there"
    ground = MACHINE

    def __init__(self, *links: FakeLink) -> None:
        self.links = list(links)

    def connect(self, *, timeout_s: float) -> FakeLink:
        return self.links.pop(0)


PING = (("PING",),)


def idle(*links: FakeLink) -> Lines:
    """Lines on whose stack these links lie, the last one on top."""
    lines = Lines(FakeDial(*links))  # type: ignore[arg-type]
    for link in [lines._take(1.0) for _ in links]:
        lines._keep(link)
    return lines


@pytest.mark.parametrize(
    "error", [LinkLost("cut"), Refused("READONLY no"), Refused("UNBLOCKED no")], ids=str
)
def test_where_the_server_has_gone_or_is_no_primary_any_more_no_link_is_kept(
    error: Exception,
) -> None:
    links = [FakeLink(), FakeLink(), FakeLink(error)]
    with pytest.raises(type(error)):
        idle(*links).exchange(PING, within_s=1.0)
    assert all(link.closed for link in links)


def test_what_the_server_refuses_for_another_reason_costs_one_link() -> None:
    links = [FakeLink(), FakeLink(), FakeLink(Refused("OOM no"))]
    lines = idle(*links)
    with pytest.raises(Refused):
        lines.exchange(PING, within_s=1.0)
    assert [link.closed for link in links] == [False, False, True]
    assert lines.exchange(PING, within_s=1.0) == [b"PONG"]


# --- one function ---


def test_one_function_runs_to_its_reply() -> None:
    link = FakeLink([1, 0, []])
    assert idle(link).run(COMMANDS, COMMANDS.survey()) == [1, 0, []]
    assert link.sent == [(COMMANDS.survey(),)]


def test_a_server_without_the_functions_is_brought_them_with_the_next_packet() -> None:
    first, second = FakeLink(Refused("ERR Function not found")), FakeLink()
    lines = idle(second, first)
    assert lines.run(COMMANDS, COMMANDS.survey()) == b"PONG"
    assert second.sent == [(COMMANDS.load, COMMANDS.survey())]


def test_a_function_is_sent_again_through_a_short_outage() -> None:
    links = [FakeLink(LinkLost("cut")), FakeLink(Refused("LOADING wait")), FakeLink(7)]
    lines = Lines(FakeDial(*links))  # type: ignore[arg-type]
    assert lines.run(COMMANDS, COMMANDS.survey()) == 7
    assert [link.sent for link in links] == [[(COMMANDS.survey(),)]] * 3


def test_what_will_not_pass_is_told_at_once() -> None:
    with pytest.raises(RedisUnavailable, match=r"NOPERM no.*ACL LOG"):
        idle(FakeLink(Refused("NOPERM no"))).run(COMMANDS, COMMANDS.survey())


def test_an_outage_that_has_lasted_is_told() -> None:
    with pytest.raises(RedisUnavailable, match="no route"):
        idle(FakeLink(LinkLost("no route", spent_s=OUTAGE_S))).run(COMMANDS, COMMANDS.survey())


def test_a_forked_child_leaves_its_parents_links_alone() -> None:
    link = FakeLink()
    lines = idle(link)
    lines.forget_parent()
    lines.close()
    assert not link.closed
