"""Trouble that goes on is told when it begins, when it changes and when it is over."""

from __future__ import annotations

import logging

import pytest

from rqproc.node.spell import Spell

log = logging.getLogger("rqproc.test")


def test_what_goes_on_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    spell = Spell(log, "heartbeat")
    for reason in ("refused", "refused", "refused", "timed out", "timed out"):
        spell.goes_on(OSError(reason))
    told = [record.getMessage() for record in caplog.records]
    assert told == ["heartbeat: refused", "heartbeat: timed out"]


def test_its_end_is_told_once_and_only_after_a_beginning(caplog: pytest.LogCaptureFixture) -> None:
    spell = Spell(log, "heartbeat")
    spell.is_over()
    assert not caplog.records
    spell.goes_on(OSError("refused"))
    spell.is_over()
    spell.is_over()
    assert [r.getMessage() for r in caplog.records[1:]] == ["heartbeat: works again after 0.0 s"]
