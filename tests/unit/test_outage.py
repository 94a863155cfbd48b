"""An outage is told when it begins, when it changes and when it is over."""

from __future__ import annotations

import logging

import pytest

from rqproc.node.outage import Outage

log = logging.getLogger("rqproc.test")


def test_what_goes_on_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage(log, "heartbeat")
    for reason in ("refused", "refused", "refused", "timed out", "timed out"):
        outage.goes_on(OSError(reason))
    told = [record.getMessage() for record in caplog.records]
    assert told == ["heartbeat: refused", "heartbeat: timed out"]


def test_its_end_is_told_once_and_only_after_a_beginning(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage(log, "heartbeat", clock=lambda: 5.0)
    outage.is_over()
    assert not caplog.records
    outage.goes_on(OSError("refused"))
    outage.is_over()
    outage.is_over()
    assert [r.getMessage() for r in caplog.records[1:]] == ["heartbeat: works again after 0.0 s"]
