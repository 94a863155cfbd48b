"""Idle links: which of them are worth anything after one has failed."""

from __future__ import annotations

from typing import Any

import pytest

from rqproc.conversation import Conversation, Send
from rqproc.ground import MACHINE
from rqproc.lines import Lines
from rqproc.link import LinkLost, Refused


class FakeLink:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed = False

    def exchange(self, commands: Any, **options: Any) -> list[Any]:
        if self.error:
            raise self.error
        return [b"PONG"]

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


def ping() -> Conversation[Any]:
    return (yield Send((("PING",),), within_s=1.0))


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
        idle(*links).hold(ping())
    assert all(link.closed for link in links)


def test_what_the_server_refuses_for_another_reason_costs_one_link() -> None:
    links = [FakeLink(), FakeLink(), FakeLink(Refused("OOM no"))]
    lines = idle(*links)
    with pytest.raises(Refused):
        lines.hold(ping())
    assert [link.closed for link in links] == [False, False, True]
    assert lines.hold(ping()) == [b"PONG"]
