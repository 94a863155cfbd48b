"""What is heard of runs, and when they are given up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from dispatching import Bench

from rqproc.node.executor import Executor
from rqproc.node.runs import Done
from rqproc.node.watchdog import NoWatch


@pytest.fixture
def at() -> Bench:
    return Bench()


def test_a_run_that_ended_in_time_is_not_given_up_for_having_been_heard_late(at: Bench) -> None:
    """1. It ends after 0.1 s of its second. 2. The node waits two seconds for the server. 3. Only
    then does it look at what it has heard, and at the time.
    """
    term: Any = SimpleNamespace(trusted=True, trusted_s=10.0)
    runner: Any = None
    executor = Executor(at.dispatcher.scheduler, runner, NoWatch(), term=lambda: term)
    at.ask(1, "brisk")
    run = at.run()
    executor.hear([(run, Done(at=at.now + 0.1, text="7"))])
    at.now += 3.0
    executor.mind_the_time()
    assert [(end.source, end.value) for end in at.ends()] == [("miss", 7)]
