"""The threads' driver: who reads, who sends, and that nobody waits while nobody reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random

import pytest
from caller import CLUSTER, batch
from fake_server import SOON_S, FakeServer

from rqproc import conversation
from rqproc.errors import RedisUnavailable
from rqproc.lines import Lines
from rqproc.link import LinkLost
from rqproc.trunk import Trunk
from rqproc.wanted import Wanted


class Threads:
    """Threads that ask for one call each."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.trunk = Trunk(Lines(self.server), CLUSTER)  # type: ignore[arg-type]
        self.pool = ThreadPoolExecutor(64)

    def ask(self, count: int = 1, *, timeout_s: float = 20.0) -> Call:
        """Ask in a thread, and return when the calls have been queued."""
        call = Call(count, timeout_s)
        call.done = self.pool.submit(self._ask, call)
        self.server.until(lambda: all(self.server.queued[id] for id in call.ids))
        return call

    def _ask(self, call: Call) -> None:
        call.thread = threading.get_ident()
        server, clock = self.server.server, time.monotonic
        talk = conversation.ask(call.wanted, server=server, clock=clock)
        self.trunk.ask(call.wanted, talk)

    def ask_here(self, call: Call) -> float:
        """Ask in this thread; return how long it took."""
        began = time.monotonic()
        self._ask(call)
        return time.monotonic() - began


class Call:
    def __init__(self, count: int = 1, timeout_s: float = 20.0) -> None:
        self.wanted = Wanted(batch(*range(count), timeout_s=timeout_s).order)
        self.ids = [job.id for job in self.wanted.order.jobs]
        self.done: Future[None] = Future()
        self.thread = 0

    def is_answered(self) -> bool:
        """Wait until it is over."""
        self.done.result(SOON_S)
        return not self.wanted


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.server.release()
    threads.server.auto = True
    threads.server.cut()
    threads.pool.shutdown()
    threads.trunk.close()
    assert threads.server.open_links == []


@pytest.fixture
def server(threads: Threads) -> FakeServer:
    return threads.server


def reads(server: FakeServer, call: Call) -> None:
    """Wait until this caller reads."""
    server.until(lambda: server.reading == [call.thread])


def test_one_who_is_alone_sends_and_reads_over_one_link(
    threads: Threads, server: FakeServer
) -> None:
    for _ in range(3):
        call = threads.ask()
        reads(server, call)
        server.answer(*call.ids)
        assert call.is_answered()
    assert (len(server.links), server.senders) == (1, [])


def test_whoever_comes_while_another_reads_sends_over_the_other_link(
    threads: Threads, server: FakeServer
) -> None:
    first = threads.ask()
    reads(server, first)
    others = [threads.ask() for _ in range(5)]
    assert server.senders == [other.thread for other in others]
    assert server.reading == [first.thread]
    assert len(server.links) == 2
    for call in [*reversed(others), first]:
        server.answer(*call.ids)
        assert call.is_answered()


def test_whoever_comes_while_another_sends_is_taken_along_by_it(
    threads: Threads, server: FakeServer
) -> None:
    reader = threads.ask()
    server.held = True
    sender = threads.ask()
    followers = [Call() for _ in range(5)]
    for call in followers:
        call.done = threads.pool.submit(threads._ask, call)
    server.until(lambda: all(call.thread for call in followers))
    server.release()
    server.until(lambda: all(server.queued[call.ids[0]] for call in followers))
    for call in [sender, reader, *followers]:
        server.answer(*call.ids)
        assert call.is_answered()


def test_a_reader_with_its_own_answer_hands_its_place_on(
    threads: Threads, server: FakeServer
) -> None:
    calls = [threads.ask() for _ in range(4)]
    for call in calls:
        reads(server, call)
        server.answer(*call.ids)
        assert call.is_answered()


def test_the_place_is_not_handed_to_one_who_was_answered_at_the_same_moment(
    threads: Threads, server: FakeServer
) -> None:
    for _ in range(10):
        first, second, third = (threads.ask() for _ in range(3))
        server.answer(*first.ids, *second.ids)
        assert first.is_answered()
        assert second.is_answered()
        reads(server, third)
        server.answer(*third.ids)
        assert third.is_answered()


def test_the_place_is_not_left_by_one_whose_time_is_over(
    threads: Threads, server: FakeServer
) -> None:
    hasty = threads.ask(timeout_s=0.05)
    patient = threads.ask()
    assert not hasty.is_answered()
    reads(server, patient)
    server.answer(*patient.ids)
    assert patient.is_answered()


def test_one_who_waits_for_many_answers_goes_on_reading(
    threads: Threads, server: FakeServer
) -> None:
    many, one = threads.ask(3), threads.ask()
    for id in many.ids[:2]:
        server.answer(id)
        server.until(lambda: server.reading)
    server.answer(*one.ids)
    assert one.is_answered()
    server.answer(many.ids[2])
    assert many.is_answered()


def test_one_who_has_its_answer_does_not_go_on_sending_for_others(
    threads: Threads, server: FakeServer
) -> None:
    reader = threads.ask()
    server.held = True
    sender = threads.ask()
    server.answer(*sender.ids)
    server.until(lambda: not sender.wanted and server.reading == [reader.thread])
    followers = [Call() for _ in range(5)]
    for call in followers:
        call.done = threads.pool.submit(threads._ask, call)
    server.until(lambda: all(call.thread for call in followers))
    server.release()
    server.until(lambda: all(server.queued[call.ids[0]] for call in followers))
    assert sender.is_answered()
    assert sender.thread not in server.senders[1:]
    for call in (reader, *followers):
        server.answer(*call.ids)
        assert call.is_answered()


# --- what goes wrong ---


def test_everyone_asks_again_when_the_reader_has_lost_its_link(
    threads: Threads, server: FakeServer
) -> None:
    calls = [threads.ask() for _ in range(5)]
    server.cut()
    server.until(lambda: len(server.links) > 2 and server.reading)
    for call in calls:
        server.answer(*call.ids)
    assert all(call.is_answered() for call in calls)
    assert set(server.queued.values()) == {1}


def test_everyone_asks_again_when_a_sender_has_lost_its_link(
    threads: Threads, server: FakeServer
) -> None:
    reader = threads.ask()
    server.held = True
    sender = threads.ask()
    server.links[1].interrupt()
    server.release()
    server.until(lambda: len(server.links) > 2 and server.reading)
    server.answer(*reader.ids, *sender.ids)
    assert reader.is_answered()
    assert sender.is_answered()
    assert set(server.queued.values()) == {1}


def test_a_packet_that_was_late_is_not_run_again(threads: Threads, server: FakeServer) -> None:
    call = threads.ask()
    reads(server, call)
    server.answer(*call.ids)
    assert call.is_answered()
    server.cut()
    late = Call()
    late.done = threads.pool.submit(threads._ask, late)
    server.until(lambda: server.queued[late.ids[0]] and server.reading)
    server.answer(*late.ids)
    assert late.is_answered()
    assert server.late
    server.deliver_late()
    assert set(server.queued.values()) == {1}


def test_an_interrupted_reader_leaves_the_others_answered(
    threads: Threads, server: FakeServer
) -> None:
    interrupted, other = threads.ask(), threads.ask()
    reads(server, interrupted)
    server.interrupt(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        interrupted.done.result(SOON_S)
    reads(server, other)
    server.answer(*other.ids)
    assert other.is_answered()
    assert server.queued[other.ids[0]] == 1


def test_a_server_that_cannot_be_reached_at_first_is_dialled_again(
    threads: Threads, server: FakeServer
) -> None:
    server.refusals = [LinkLost("refused") for _ in range(4)]
    calls = [threads.ask() for _ in range(3)]
    server.answer(*(id for call in calls for id in call.ids))
    assert all(call.is_answered() for call in calls)


def test_one_who_does_not_want_to_wait_is_not_held_up_by_one_who_sends_and_waits(
    threads: Threads, server: FakeServer
) -> None:
    reader = threads.ask()
    server.held = True
    sender = threads.ask()
    hasty, began = Call(timeout_s=1.0), time.monotonic()
    talk = conversation.ask(hasty.wanted, server="there", clock=time.monotonic, on_lost="error")
    with pytest.raises(RedisUnavailable):
        threads.trunk.ask(hasty.wanted, talk)
    assert time.monotonic() - began < 0.5
    server.release()
    server.answer(*reader.ids, *sender.ids)
    assert reader.is_answered()
    assert sender.is_answered()
    assert hasty.ids[0] not in server.queued


def test_an_error_that_only_the_reader_has_is_raised_by_it_alone(
    threads: Threads, server: FakeServer
) -> None:
    server.refusals = [ValueError("no such primary")]
    with pytest.raises(ValueError, match="primary"):
        threads.ask_here(Call())
    call = threads.ask()
    server.answer(*call.ids)
    assert call.is_answered()


# --- the end ---


def test_a_closed_client_has_no_links(threads: Threads, server: FakeServer) -> None:
    first, second = threads.ask(), threads.ask()
    server.answer(*first.ids, *second.ids)
    assert first.is_answered()
    assert second.is_answered()
    threads.trunk.close()
    assert server.open_links == []
    again = threads.ask()
    server.answer(*again.ids)
    assert again.is_answered()


def test_a_client_that_is_closed_in_use_has_no_links_when_its_last_caller_has_gone(
    threads: Threads, server: FakeServer
) -> None:
    first, second = threads.ask(), threads.ask()
    threads.trunk.close()
    server.answer(*first.ids)
    assert first.is_answered()
    assert len(server.open_links) == 2
    server.answer(*second.ids)
    assert second.is_answered()
    assert server.open_links == []
    assert set(server.queued.values()) == {1}


def test_a_forked_child_begins_anew(threads: Threads, server: FakeServer) -> None:
    call = threads.ask()
    server.answer(*call.ids)
    assert call.is_answered()
    threads.trunk._lock.acquire()  # as another thread of the parent may have
    threads.trunk.forget_parent()
    call = threads.ask()
    server.answer(*call.ids)
    assert call.is_answered()
    assert [link.closed for link in server.links] == [False, False], "the parent's is left alone"
    server.links[0].close()


# --- many ---


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_left_waiting_without_a_reader(
    threads: Threads, server: FakeServer, seed: int
) -> None:
    """Calls are answered in any order, some of them together; nobody has to ask again."""
    stop = threading.Event()

    def serve() -> None:
        random = Random(seed)
        while not stop.is_set():
            with server.changed:
                open_ids = list(server._jobs)
                server.changed.wait_for(lambda: stop.is_set() or server._jobs, 0.1)
            if open_ids:
                server.answer(*random.sample(open_ids, random.randint(1, len(open_ids))))

    def hammer(number: int) -> float:
        return max(threads.ask_here(Call(1 + number % 3)) for _ in range(40))

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        slowest_s = max(threads.pool.map(hammer, range(24)))
    finally:
        stop.set()
        serving.join()
    assert slowest_s < conversation.NUDGE_S * 0.9
    assert set(server.queued.values()) == {1}


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_cut_and_late_all_are_answered_and_nothing_runs_twice(
    threads: Threads, server: FakeServer, seed: int
) -> None:
    server.auto = True
    stop = threading.Event()

    def harm() -> None:
        random = Random(seed)
        while not stop.wait(random.uniform(0.001, 0.02)):
            server.deliver_late()
            if links := server.open_links:
                random.choice(links).interrupt()

    def hammer(number: int) -> bool:
        calls = [Call(1 + number % 3) for _ in range(20)]
        for call in calls:
            threads.ask_here(call)
        return not any(call.wanted for call in calls)

    harming = threading.Thread(target=harm)
    harming.start()
    try:
        assert all(threads.pool.map(hammer, range(16)))
    finally:
        stop.set()
        harming.join()
    server.deliver_late()
    assert set(server.queued.values()) == {1}
