"""Names of calls on their way: what goes together, and what it is called when it is sent again."""

from __future__ import annotations

from itertools import count

from rqproc.cluster import MOST_TOGETHER, Job
from rqproc.names import Names, fresh_id, is_part


def jobs(number: int) -> list[Job]:
    return [Job(f"own{place}", f"{place}|price:{place}", b"data") for place in range(number)]


def numbered() -> Names:
    numbers = count(1)
    return Names(lambda: f"carrier{next(numbers)}")


def test_calls_that_go_together_are_numbered_parts_of_one_job() -> None:
    named = numbered().put_together(jobs(3))
    assert [job.id for job in named] == ["carrier1:0", "carrier1:1", "carrier1:2"]
    assert [job.address for job in named] == ["0|price:0", "1|price:1", "2|price:2"]
    assert all(is_part(job.id) for job in named)
    assert not any(is_part(job.id) for job in jobs(3))


def test_a_job_carries_no_more_than_it_may() -> None:
    named = numbered().put_together(jobs(MOST_TOGETHER + 2))
    assert [job.id for job in named[-3:]] == [
        f"carrier1:{MOST_TOGETHER - 1}",
        "carrier2:0",
        "carrier2:1",
    ]


def test_an_answer_finds_the_call_by_the_name_that_it_went_out_with() -> None:
    names = numbered()
    first, second = jobs(2)
    names.put_together([first, second])
    assert names.given("carrier1:1") == second.id
    assert names.given("anything") == "anything"


def test_what_is_sent_again_keeps_its_name() -> None:
    names = numbered()
    first, second, alone = jobs(3)
    names.put_together([first, second])
    assert names.sent(second) == Job("carrier1:1", second.address, b"")
    assert names.sent(alone) is alone


def test_nothing_is_kept_of_calls_that_nobody_waits_for() -> None:
    names = numbered()
    first, second = jobs(2)
    names.put_together([first, second])
    names.forget([first])
    assert names.given("carrier1:0") == "carrier1:0"
    assert names.sent(first) is first
    assert names.given("carrier1:1") == second.id
    names.forget([first, second])
    assert names.given("carrier1:1") == "carrier1:1"


def test_ids_differ_and_are_such_that_rq_takes_them() -> None:
    ids = {fresh_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(id.isalnum() and id.isascii() and len(id) == 24 for id in ids)
