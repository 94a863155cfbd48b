"""The functions on a real server, under random schedules and in the cases that once went wrong."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from machine import Protocol

EXAMPLES = os.environ.get("RQPROC_PROPERTY_EXAMPLES")
PARTS, FAST_PARTS = 12, 3
"""They run side by side; those that are not fast are left to the slow tests."""

SETTINGS = settings(
    max_examples=int(EXAMPLES or 10),
    stateful_step_count=40,
    deadline=None,
    derandomize=False,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(3600)  # a failure is shrunk, a hunt is long
@pytest.mark.parametrize(
    "part",
    [
        pytest.param(part, marks=[pytest.mark.slow] if part >= FAST_PARTS else [])
        for part in range(PARTS)
    ],
)
def test_no_schedule_breaks_the_protocol(url: str, part: int) -> None:
    machine = type("Machine", (Protocol,), {"url": url})
    run_state_machine_as_test(seed(part)(machine), settings=SETTINGS)
