"""Jobs in a dispatcher: they wait unclaimed, and are claimed when their turn has come."""

from __future__ import annotations

import pytest
from dispatching import Bench

from rqproc.ids import address
from rqproc.model import Request
from rqproc.node.runs import Done
from rqproc.protocol import codec
from rqproc.protocol.messages import Claim


class Jobs(Bench):
    """A bench whose jobs wait until they are granted."""

    def waiting(self, *names: str, id: int = 1, resource: str = "charge") -> None:
        for name in names:
            self.receive(name, "waits", id=id, resource=resource)

    def receive(
        self, name: str, what: str, *, token: int = 0, id: int = 1, resource: str = "charge"
    ) -> None:
        data = codec.encode_request(Request(resource, id))
        claim = Claim(name, what, address(resource, id), token, 0, data)  # type: ignore[arg-type]
        self.dispatcher.receive(claim, due=self.due)

    def asked(self) -> tuple[list[str], int, int]:
        """What is claimed, how many of these have their turn, and the room for others."""
        asks = self.intake.asks()
        self.intake.go_on()
        return [id.decode() for id in asks.claims], asks.turns, asks.room


@pytest.fixture
def at() -> Jobs:
    return Jobs()


def test_a_job_that_waits_is_claimed_when_its_lane_is_free(at: Jobs) -> None:
    at.waiting("first", "second")
    assert at.asked() == (["first"], 1, 9)
    assert at.scheduler.next_run() is None, "it is not claimed yet"
    at.receive("first", "job", token=5)
    run = at.run()
    assert run.token == 5
    assert at.asked()[0] == [], "its lane is taken"
    at.done(run)
    assert at.asked() == (["second"], 1, 9)


def test_tokens_rise_though_a_job_is_claimed_after_calls_that_run_behind_it(at: Jobs) -> None:
    at.waiting("job")
    at.asked()
    at.receive("r0-a1-1-charge-1", "call", token=5)
    at.receive("r0-a2-1-charge-1", "call", token=6)
    at.receive("job", "job", token=7)
    tokens = []
    for _ in range(3):
        run = at.run()
        tokens.append((run.waiting[0].name, run.token, run.waiting[0].token))
        at.done(run)
    names = ["job", "r0-a1-1-charge-1", "r0-a2-1-charge-1"]
    assert [name for name, *_ in tokens] == names
    assert [token for _, token, _ in tokens] == [own for *_, own in tokens]
    assert (
        sorted({token for _, token, _ in tokens}) == [token for _, token, _ in tokens] == [5, 6, 7]
    )


def test_a_job_queued_anew_is_claimed_when_its_end_is_acknowledged(at: Jobs) -> None:
    """As one that is retried at once, and is back before the server's word on its end is read."""
    job = at.job("job", 1, "charge")
    assert at.pop(job) == ["job"]
    run = at.run()
    assert at.pop(job) == [], "it runs"
    at.done(run)
    endings = at.sent()
    assert at.pop(job, job) == []
    assert at.intake.awaits_ends
    at.dispatcher.acknowledged(endings)
    assert at.pop() == ["job"]
    assert at.run().job is not run.job
    assert at.pop() == [], "once"


def test_a_turn_is_asked_for_once_and_by_each_session_anew(at: Jobs) -> None:
    at.waiting("job")
    at.intake.asks()
    assert not at.intake.has_asks
    at.intake.abandon()
    assert at.intake.has_asks
    assert at.asked() == (["job"], 1, 9)


def test_a_job_that_is_gone_at_its_turn_makes_way_for_the_next(at: Jobs) -> None:
    at.waiting("gone", "next")
    at.asked()
    at.receive("gone", "gone")
    assert at.scheduler.next_run() is None
    assert at.asked()[0] == ["next"]
    at.receive("next", "job", token=3)
    at.done(at.run())
    assert [end.id for end in at.ends()] == ["next"]
    assert at.dispatcher.idle


def test_a_job_that_nodes_have_died_on_fails_at_its_turn(at: Jobs) -> None:
    at.waiting("deadly")
    at.asked()
    at.receive("deadly", "lost")
    assert at.scheduler.next_run() is None
    (end,) = at.ends()
    assert end.error["type"] == "NodeLost"
    assert at.dispatcher.idle


def test_of_jobs_that_share_a_run_the_next_has_the_turn_of_one_that_is_gone(at: Jobs) -> None:
    at.waiting("first", "second", resource="price")
    assert at.asked()[0] == ["first"]
    at.receive("first", "gone")
    assert at.asked()[0] == ["second"]
    at.receive("second", "job", token=4)
    run = at.run()
    assert run.token == 4
    at.scheduler.complete(run, Done("7"))
    assert [(end.id, end.value) for end in at.ends()] == [("second", 7)]


def test_calls_that_joined_a_job_that_is_gone_claim_for_themselves(at: Jobs) -> None:
    at.waiting("job", resource="price")
    call = at.named(1)
    at.intake.take([call])
    assert at.asked()[0] == ["job"]
    at.receive("job", "gone")
    assert at.scheduler.next_run() is None
    assert at.asked()[0] == [call.decode()]


def test_a_job_enqueued_at_the_front_has_the_next_turn(at: Jobs) -> None:
    at.receive("running", "job", token=1)
    run = at.run()
    at.waiting("second", "third")
    at.receive("urgent", "first")
    at.done(run)
    assert at.asked()[0] == ["urgent"]


def test_a_job_that_is_started_already_passes_those_that_are_not(at: Jobs) -> None:
    at.waiting("gone", "later")
    at.asked()
    at.receive("gone", "gone")  # the id is held by nobody at this moment
    at.receive("started", "job", token=2)
    assert at.scheduler.next_run() is not None
    assert at.asked()[0] == [], "later waits"


def test_there_is_no_room_for_jobs_beyond_the_lanes_and_the_calls_before_them(at: Jobs) -> None:
    for id in range(8):
        at.ask(id, "charge")
        at.run()
    at.intake.take([at.named(9, "charge"), b"job"])
    assert at.asked()[2] == 1


def test_a_lease_that_is_lost_takes_the_turns_along(at: Jobs) -> None:
    at.waiting("job")
    at.asked()
    at.dispatcher.forget()
    assert at.dispatcher.idle
    at.receive("job", "job", token=9)
    assert at.run().token == 9


# --- stopped by RQ's command ---


def test_a_job_that_waits_is_stopped_at_once_and_has_no_turn(at: Jobs) -> None:
    at.waiting("first", "second")
    assert at.scheduler.stop(b"first") is None
    assert [(end.id, end.how) for end in at.ends()] == [("first", "job:stopped")]
    assert at.scheduler.next_run() is None
    assert at.asked()[0] == ["second"]


def test_a_job_that_runs_on_a_thread_is_stopped_when_it_returns(at: Jobs) -> None:
    at.receive("job", "job", token=1)
    run = at.run()
    assert at.scheduler.stop(b"job") is None
    assert at.ends() == []
    at.done(run)
    (end,) = at.ends()
    assert (end.how, end.error["remote_type"]) == ("job:stopped", "Stopped")
    assert at.dispatcher.idle


def test_a_stop_of_what_is_not_here_is_said(at: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    assert at.scheduler.stop(b"elsewhere") is None
    assert "not here" in caplog.text
