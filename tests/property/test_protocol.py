"""The functions on a real server, under random schedules and in the cases that once went wrong."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from machine import Protocol

EXAMPLES = os.environ.get("RQPROC_PROPERTY_EXAMPLES")

SETTINGS = settings(
    max_examples=int(EXAMPLES or 120),
    stateful_step_count=40,
    deadline=None,
    derandomize=EXAMPLES is None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(3600)  # a failure is shrunk, a hunt is long
def test_no_schedule_breaks_the_protocol(url: str) -> None:
    machine = type("Machine", (Protocol,), {"url": url})
    run_state_machine_as_test(machine, settings=SETTINGS)
