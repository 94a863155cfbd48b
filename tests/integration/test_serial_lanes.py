"""With ttl=0 an id is a choke point: one run at a time, in order; ids do not delay each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from integration import kit
from integration.fixtures import Fresh
from integration.kit import Book
from rq.job import JobStatus

from rqproc import Client


@pytest.mark.parametrize("resource", ["charge", "acharge"])
def test_thirty_callers_of_one_id_run_one_after_the_other(
    client: Client, book: Book, ids: Fresh, resource: str
) -> None:
    (id,) = ids(1)
    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(client.request, id, resource, args=(tag, 0.003)) for tag in range(30)]
        counted = sorted(one.result()["n"] for one in asked)
    assert counted == list(range(1, 31))
    log = book.log(resource, id)
    assert len(log) == 60
    assert kit.overlapping(log) == []


def test_one_callers_requests_of_an_id_run_in_the_order_in_which_it_sent_them(
    client: Client, book: Book, ids: Fresh
) -> None:
    one, other = ids(2, of=0, modulo=3)
    jobs = [client.enqueue(id, "charge", args=(tag,)) for tag in range(25) for id in (one, other)]
    for job in jobs:
        assert kit.ended(job) == JobStatus.FINISHED
    in_order = [str(tag) for tag in range(25)]
    assert book.order("charge", one) == in_order
    assert book.order("charge", other) == in_order


@pytest.mark.parametrize("slow", ["gated", "slow_price"])
def test_a_slow_id_does_not_delay_another_of_the_same_node(
    client: Client, book: Book, ids: Fresh, slow: str
) -> None:
    held, free, kept = ids(3, of=1, modulo=3)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.reply, held, slow)
        book.started(slow, held)
        assert client.request(free, "charge", timeout=5)["node"] == "n2"
        assert client.reply(kept, "price", timeout=5).source == "miss"
        assert client.reply(kept, "price", timeout=5).source == "hit"
        assert client.reply(held, "price", timeout=5).node == "n2"
        assert not waiting.done()
        book.release(slow, held)
        assert waiting.result().node == "n2"


def test_an_async_handler_that_waits_delays_neither_kind(
    client: Client, book: Book, ids: Fresh
) -> None:
    slow, fast, plain = ids(3, of=2, modulo=3)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.request, slow, "agated")
        book.started("agated", slow)
        client.request(fast, "acharge")
        client.request(plain, "charge")
        assert not waiting.done()
        assert [what for what, *_ in book.log("agated", slow)] == ["start"]
        book.release("agated", slow)
        assert waiting.result()["n"] == 1


def test_the_second_request_of_a_busy_id_waits_for_the_first(
    client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.request, id, "gated", args=("first",))
        book.started("gated", id)
        second = pool.submit(client.request, id, "gated", args=("second",))
        kit.eventually(lambda: sum(n.held for n in client.membership().nodes) == 2)
        assert not book.has_started("gated", id)
        book.release("gated", id)
        assert first.result()["n"] == 1
        assert book.started("gated", id) == "second"
        book.release("gated", id)
        assert second.result()["n"] == 2
