"""A caller whose conversation is carried out by hand, on a clock that only it moves."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, NoReturn

import pytest

from rqproc import calls, wire
from rqproc.cluster import Cluster
from rqproc.conversation import Look, Pause, Send, ask, run
from rqproc.errors import RedisUnavailable
from rqproc.keys import Keys
from rqproc.model import OnLost, Request
from rqproc.packets import Demand
from rqproc.wanted import Wanted

CLUSTER = Cluster(Keys("shop"))
BEGAN = 50.0


def batch(*request_ids: int, timeout_s: float = 10.0) -> calls.Batch:
    """Calls each of which is a job of its own."""
    requests = [Request("price", id) for id in request_ids]
    made = calls.batch(requests, kind="call", timeout_s=timeout_s)
    return made._replace(order=made.order._replace(together=b""))


def answered(job_id: str, value: int = 0) -> wire.Answer:
    return wire.Answer(job_id, "miss", worker="n", value=value)


def nobody(job_id: str) -> wire.Answer:
    return wire.Answer(job_id, report={"type": "NoLiveNode"})


def entry(answer: wire.Answer) -> list[bytes]:
    """An answer as it stands in a stream."""
    note = wire.note(answer.job_id, answer.source or "error", token=answer.token)
    if answer.report is None:
        body = wire.return_value(json.dumps(answer.value), "json")
        fields = {"type": "1", "worker_name": "n", "return_value": body, "rqproc": note}
    else:
        fields = {"type": "2", "rqproc": note, "rqproc_error": json.dumps(answer.report)}
    return [part.encode() for pair in fields.items() for part in pair]


class Caller:
    """Asks for two ids, or whatever ``batch`` is set to."""

    def __init__(self) -> None:
        self.now = BEGAN
        self.on_lost: OnLost = "wait"
        self.batch = batch(1, 2)
        self.talk: Generator[Any, Any, Any] = iter(())  # type: ignore[assignment]

    @property
    def ids(self) -> list[str]:
        return [job.id for job in self.batch.order.jobs]

    @property
    def answers(self) -> dict[str, wire.Answer]:
        return self.wanted.answers

    def clock(self) -> float:
        return self.now

    def ask(self) -> Look:
        self.wanted = Wanted(self.batch.order)
        self.talk = ask(self.wanted, server="there", clock=self.clock, on_lost=self.on_lost)
        return self.looks(next(self.talk))

    def run(self) -> Send:
        command = CLUSTER.survey()
        self.talk = run(CLUSTER, "survey", command, server="there", clock=self.clock)
        step = next(self.talk)
        assert isinstance(step, Send)
        return step

    @staticmethod
    def looks(step: Look | Pause) -> Look:
        assert isinstance(step, Look)
        return step

    def hear(self, *answers: wire.Answer, carried: bool = True) -> Look | None:
        """The look ends, with these answers; return the next one, None where it is over.

        ``carried``: the server has had what was sent.
        """
        if carried:
            self.wanted.carried = self.wanted.heard = True
        for answer in answers:
            self.wanted.take(answer)
        try:
            return self.looks(self.talk.send(None))
        except StopIteration:
            return None

    def answer(self, *places: int) -> Look | None:
        return self.hear(*(answered(self.ids[place], place) for place in places))

    def wait(self, seconds: float, *, carried: bool = True) -> Look:
        """Nothing comes for so long; return what is done then."""
        self.now += seconds
        look = self.hear(carried=carried)
        assert look
        return look

    def fail(self, error: Exception) -> Any:
        """The packet fails; the pause that follows passes; return what is done then."""
        self.now += self.pause(error).seconds
        return next(self.talk)

    def pause(self, error: Exception) -> Pause:
        pause = self.talk.throw(error)
        assert isinstance(pause, Pause)
        return pause

    def give_up(self, error: Exception) -> NoReturn:
        """Fail until it gives up, with its error."""
        while True:
            self.fail(error)

    def outage(self, error: Exception) -> float:
        """Return how long it takes until it gives up."""
        began = self.now
        with pytest.raises(RedisUnavailable):
            self.give_up(error)
        return self.now - began


def demanded(look: Look) -> Demand:
    """The one demand of a look."""
    (demand,) = look.demands
    return demand


def asked_for(demand: Demand) -> list[str]:
    return [job.id for job in demand.calls.jobs]
