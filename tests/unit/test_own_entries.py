"""What a program finds of its node's entries, on a clock that stands still."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from local_shop import until

from rqproc.errors import InvalidId
from rqproc.ids import address, canonical
from rqproc.model import Reply
from rqproc.node.cache import Cache
from rqproc.node.entries import Entries, Entry
from rqproc.node.lease import Term
from rqproc.node.own_entries import OwnEntries
from rqproc.policy import UNBOUNDED, Bounds

TTL_S = 5.0
TRUST_S = 4.0


class Interrupted(Cache):
    """Something happens between the look at an entry and what follows it."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def get(self, address: bytes, now: float) -> Entry | None:
        entry = super().get(address, now)
        self.meanwhile()
        return entry


class Alone(Entries):
    """Entries that find out whether they are used by one at a time."""

    def __init__(self, max_entries: int) -> None:
        super().__init__(max_entries)
        self._user = threading.RLock()

    def get(self, address: bytes, now: float) -> Entry | None:
        with self._one():
            return super().get(address, now)

    def put(self, address: bytes, entry: Entry, now: float, bounds: Bounds = UNBOUNDED) -> None:
        with self._one():
            super().put(address, entry, now, bounds)

    def drop(self, address: bytes, now: float, before: int | None = None) -> bool:
        with self._one():
            return super().drop(address, now, before)

    def remove(self, addresses: Sequence[bytes]) -> None:
        with self._one():
            super().remove(addresses)

    def clear(self) -> None:
        with self._one():
            super().clear()

    @contextmanager
    def _one(self) -> Iterator[None]:
        assert self._user.acquire(blocking=False), "two threads at once"
        try:
            yield
        finally:
            self._user.release()


class Home:
    """Node b, with entries and a lease. Odd ids are its own while a and b are the members."""

    def __init__(self) -> None:
        self.now = 100.0
        self.cache = Interrupted("b", 2)
        self.cache._values = Alone(2)
        self.term = Term("b@1", self.now + TRUST_S, lambda: self.now, epoch=1)
        self.own_entries = OwnEntries("b", self.cache, lambda: self.term)
        self.learn(1, ["a", "b"])

    def learn(self, epoch: int, members: Sequence[str]) -> None:
        self.cache.learn(epoch, members)

    def keep(self, id: Any, text: str = "7") -> None:
        entry = Entry(self.now, self.now + TTL_S, 9, text.encode())
        self.cache.keep(address("price", canonical(id)).encode(), entry, self.now)

    def find(self, id: Any) -> Reply | None:
        return self.own_entries.find("price", id)

    def sleep_through_the_lease(self) -> None:
        self.now += TRUST_S

    def sleep_through_the_ttl(self) -> None:
        self.now += TTL_S
        self.beat(1)

    def beat(self, epoch: int) -> None:
        self.term.epoch, self.term.trusted_until = epoch, self.now + TRUST_S


@pytest.fixture
def at() -> Home:
    return Home()


def test_an_entry_is_found_with_its_story(at: Home) -> None:
    at.keep(1)
    at.now += 2
    assert at.find(1) == Reply(1, 7, "b", "hit", 2.0, 3.0, 9)
    assert at.own_entries.hits == {"price": 1}


def test_what_has_no_entry_is_not_found(at: Home) -> None:
    at.keep(1)
    assert at.find(3) is None
    assert at.own_entries.find("other", 1) is None
    assert at.own_entries.hits == {}


def test_an_entry_is_gone_at_exactly_its_expiry(at: Home) -> None:
    at.keep(1)
    at.now += TTL_S
    at.beat(1)
    assert at.find(1) is None


def test_every_spelling_of_an_id_finds_the_same_entry(at: Home) -> None:
    at.learn(2, ["b"])
    for id, spelled in ((7, "7"), (-7, "-7"), (10**30, str(10**30)), ("ABC", "ABC")):
        at.keep(id, '"x"')
        for asked in (id, spelled):
            found = at.find(asked)
            assert found
            assert (found.id, found.value) == (canonical(id), "x")


@pytest.mark.parametrize("id", [True, "", 1.0, None, "a\nb", [1]])
def test_what_is_no_id_is_refused_as_ever(at: Home, id: Any) -> None:
    at.keep(1)
    with pytest.raises(InvalidId):
        at.find(id)


def test_each_value_is_the_callers_own(at: Home) -> None:
    at.keep(1, '{"seen": []}')
    first, second = at.find(1), at.find(1)
    assert first
    assert second
    first.value["seen"].append("mine")
    assert second.value == {"seen": []}


# --- the lease ---


def test_nothing_is_found_once_the_lease_may_not_be_relied_on(at: Home) -> None:
    at.keep(1)
    at.now += TRUST_S - 0.001
    assert at.find(1)
    at.now += 0.001
    assert at.find(1) is None
    at.beat(1)
    assert at.find(1), "it was a member all the time, as the server says"


def test_a_thread_that_is_stopped_while_it_looks_finds_an_entry_too_old(at: Home) -> None:
    at.keep(1)
    at.cache.meanwhile = at.sleep_through_the_ttl
    assert at.find(1) is None


def test_nothing_is_found_of_a_term_that_is_over(at: Home) -> None:
    at.keep(1)
    at.term.over = True
    assert at.find(1) is None


def test_nothing_is_found_in_a_node_that_drains(at: Home) -> None:
    at.keep(1)
    at.term.draining = True
    assert at.find(1) is None


def test_nothing_is_found_in_entries_that_are_closed(at: Home) -> None:
    at.keep(1)
    at.own_entries.close()
    assert at.find(1) is None


def test_a_thread_that_is_stopped_while_it_looks_finds_its_lease_too_old(at: Home) -> None:
    at.keep(1)
    at.cache.meanwhile = at.sleep_through_the_lease
    assert at.find(1) is None


# --- the members ---


def test_nothing_is_found_from_a_beats_word_until_the_members_are_learned(at: Home) -> None:
    at.keep(1)
    at.beat(2)
    assert at.find(1) is None
    at.learn(2, ["a", "b", "c"])
    assert at.find(1)


def test_what_a_new_member_owns_is_not_found(at: Home) -> None:
    at.keep(1)
    at.keep(5)
    at.beat(2)
    at.learn(2, ["a", "b", "c"])
    assert at.find(1)
    assert at.find(5) is None, "5 modulo 3 is c's"


def test_a_take_that_is_ahead_of_the_heartbeat_closes_nothing(at: Home) -> None:
    at.learn(2, ["a", "b", "c"])
    at.keep(1)
    assert at.find(1)


def test_nothing_is_found_after_the_lease_was_lost_until_members_are_known(at: Home) -> None:
    at.keep(1)
    at.term.over = True
    at.cache.forget()
    at.term = Term("b@5", at.now + TRUST_S, lambda: at.now, epoch=5)
    assert at.find(1) is None
    at.learn(5, ["b"])
    assert at.find(1) is None
    at.keep(1)
    assert at.find(1)


def test_an_entry_from_before_a_change_is_not_found_by_who_looks_across_it(at: Home) -> None:
    at.keep(1)
    at.cache.meanwhile = lambda: at.learn(2, ["a", "b", "c"])
    assert at.find(1) is None


def test_the_same_epoch_with_other_members_counts(at: Home) -> None:
    """A server that has lost its last writes may give an epoch twice."""
    at.keep(1)
    at.learn(1, ["b", "c"])
    assert at.find(1) is None


# --- threads ---


def test_any_number_of_threads_may_look_while_the_worker_works(at: Home) -> None:
    over = threading.Event()

    def look() -> int:
        found = 0
        while not over.is_set():
            found += sum(at.find(id) is not None for id in (1, 3, 5))
        return found

    switches = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            at.keep(1)
            looking = [pool.submit(look) for _ in range(2)]
            until(lambda: bool(at.own_entries.hits))
            for turn in range(3000):
                at.keep((1, 3, 5)[turn % 3])
                at.cache.drop(address("price", 3).encode(), at.now)
                at.now += 0.7 * (turn % 2)
                at.beat(1)
                if turn % 10 == 0:
                    at.learn(at.cache.epoch + 1, ["a", "b"])
            over.set()
            assert sum(looked.result() for looked in looking) == at.own_entries.hits["price"] > 0
    finally:
        over.set()
        sys.setswitchinterval(switches)


# --- use ---


def test_what_is_found_is_used_and_stays_longer_than_what_is_not(at: Home) -> None:
    at.keep(1)
    at.keep(3)
    assert at.find(1)
    at.keep(5)
    assert at.find(3) is None
    assert at.find(1)


def test_what_the_program_has_had_made_elsewhere_takes_the_place_of_what_is_older(at: Home) -> None:
    at.keep(1)
    kept = at.find(1)
    assert kept
    at.own_entries.drop("price", 1, before=kept.token)
    assert at.find(1) == kept
    at.own_entries.drop("price", 1, before=kept.token + 1)
    assert at.find(1) is None


def test_what_the_program_has_invalidated_elsewhere_is_dropped(at: Home) -> None:
    at.keep(1)
    at.own_entries.drop("price", "1")
    assert at.find(1) is None
