"""What a caller keeps for itself, by a clock that stands still unless it is moved."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from made_calls import a_call

from rqproc.calls.near_cache import NearCache, check_near
from rqproc.calls.near_entries import ROUNDED_S, Expected, Near
from rqproc.calls.subscription import BEAT_S, TRUST_S, Pulse
from rqproc.errors import ConfigError, InvalidId, NoLiveNode, RqprocError
from rqproc.ids import Id, address
from rqproc.model import Reply, Source
from rqproc.runtime import MACHINE
from rqproc.transport.connection import ConnectionLost


class Caller:
    """A store that is trusted for ever, unless it is said otherwise."""

    def __init__(self, most: int = 10) -> None:
        self.now = 100.0
        self.near = Near(most, clock=lambda: self.now)
        self.near.begin()
        self.near.trust(math.inf)

    def ask(self, id: Id, value: Any = "v", **fields: Any) -> None:
        """Ask for an id, and be answered at once."""
        self.near.expect("price", [id]).keep({id: reply(id, value, **fields)})

    def has(self, id: Id) -> bool:
        return self.near.find(id, "price") is not None

    def value(self, id: Id) -> Any:
        kept = self.near.find(id, "price")
        assert kept
        return kept.value()

    def hears(self, id: Id) -> None:
        self.near.hear(address("price", id).encode())


def reply(
    id: Id, value: Any = "v", *, source: Source = "miss", age_s: float = 0.0,
    expires_in_s: float = 30.0, token: int = 1,
) -> Reply:  # fmt: skip
    return Reply(id, value, "n1", source, age_s, expires_in_s, token)


@pytest.fixture
def caller() -> Caller:
    return Caller()


# --- how long ---


def test_a_reply_is_kept_until_its_owners_entry_ends(caller: Caller) -> None:
    caller.ask(1, expires_in_s=30)
    caller.now += 30 - 2 * ROUNDED_S
    assert caller.has(1)
    caller.now = 100.0 + 30
    assert not caller.has(1)


def test_the_time_left_counts_from_when_it_was_asked_for(caller: Caller) -> None:
    expected = caller.near.expect("price", [1])
    caller.now += 10
    expected.keep({1: reply(1, expires_in_s=30)})
    caller.now += 19.9
    assert caller.has(1)
    caller.now += 0.1
    assert not caller.has(1)


def test_a_reply_that_took_longer_than_it_lives_is_not_served(caller: Caller) -> None:
    expected = caller.near.expect("price", [1])
    caller.now += 31
    expected.keep({1: reply(1, expires_in_s=30)})
    assert not caller.has(1)


@pytest.mark.parametrize(
    "outcome", [reply(1, expires_in_s=0), reply(1, expires_in_s=ROUNDED_S), NoLiveNode("x"), None]
)
def test_what_its_owner_does_not_keep_is_not_kept(
    caller: Caller, outcome: Reply | RqprocError | None
) -> None:
    caller.near.expect("price", [1]).keep({1: outcome} if outcome else {})
    assert not caller.has(1)
    assert len(caller.near) == 0


def test_its_story_goes_on_where_the_owner_left_off(caller: Caller) -> None:
    caller.ask(1, source="hit", age_s=4, expires_in_s=26, token=9)
    caller.now += 6
    found = caller.near.reply(1, "price")
    assert found == Reply(1, "v", "n1", "near", 10, pytest.approx(20, abs=0.001), 9)


# --- which id ---


def test_an_id_and_its_decimal_text_are_the_same(caller: Caller) -> None:
    caller.ask(7)
    caller.ask(-5)
    assert caller.has("7")
    assert caller.has("-5")
    assert not caller.has("07")


@pytest.mark.parametrize("id", [True, 1.0, b"1", None, [1]])
def test_what_is_no_id_finds_nothing(caller: Caller, id: Any) -> None:
    caller.ask(1)
    assert not caller.has(id)


def test_a_text_that_is_no_id_is_refused_as_ever(caller: Caller) -> None:
    caller.ask(1)
    with pytest.raises(InvalidId):
        caller.has("\n")


def test_a_resource_is_another_ones_stranger(caller: Caller) -> None:
    caller.ask(1)
    assert caller.near.find(1, "cost") is None
    assert caller.near.find(1, ["price"]) is None  # type: ignore[arg-type]


# --- whose value ---


@pytest.mark.parametrize(
    "value", [{"a": 1}, [1, 2], {"a": [1, {"b": None}]}, [[]], {}, []], ids=repr
)
def test_a_caller_who_changes_its_value_changes_nobody_elses(caller: Caller, value: Any) -> None:
    mine: Any = eval(repr(value))
    caller.ask(1, mine)
    for _ in range(2):
        _spoil(mine)
        mine = caller.value(1)
        assert mine == value


def _spoil(value: Any) -> None:
    for part in list(value.values() if isinstance(value, dict) else value):
        if isinstance(part, dict | list):
            _spoil(part)
    value.clear()


@pytest.mark.parametrize("value", [None, True, 0, 10**30, 0.1, -0.0, "", "é\ud800\0"], ids=repr)
def test_a_scalar_is_served_as_it_came(caller: Caller, value: Any) -> None:
    caller.ask(1, value)
    found = caller.value(1)
    assert (type(found), repr(found)) == (type(value), repr(value))


def test_a_value_too_deep_to_be_copied_is_not_kept(caller: Caller) -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    caller.ask(1, value)
    assert not caller.has(1)


# --- what is dropped ---


def test_an_id_that_is_dropped_is_not_served(caller: Caller) -> None:
    caller.ask(1)
    caller.ask(2)
    caller.hears(1)
    assert (caller.has(1), caller.has(2)) == (False, True)


def test_a_reply_that_was_asked_for_before_a_drop_and_comes_after_it_is_not_kept(
    caller: Caller,
) -> None:
    expected = caller.near.expect("price", [1])
    caller.hears(1)
    expected.keep({1: reply(1)})
    assert not caller.has(1)


def test_it_is_not_kept_for_someone_who_asked_after_the_drop_either(caller: Caller) -> None:
    before = caller.near.expect("price", [1])
    caller.hears(1)
    after = caller.near.expect("price", [1])
    before.keep({1: reply(1, "old", token=1)})
    assert not caller.has(1)
    after.keep({1: reply(1, "new", token=2)})
    assert caller.value(1) == "new"
    before.keep({1: reply(1, "old", token=1)})
    assert caller.value(1) == "new"


def test_two_who_ask_side_by_side_are_both_forgotten_by_a_drop(caller: Caller) -> None:
    one, other = caller.near.expect("price", [1]), caller.near.expect("price", [1])
    one.keep({1: reply(1)})
    caller.hears(1)
    other.keep({1: reply(1)})
    assert not caller.has(1)


def test_one_who_fails_does_not_take_away_what_another_has_kept(caller: Caller) -> None:
    one, other = caller.near.expect("price", [1]), caller.near.expect("price", [1])
    one.keep({1: reply(1)})
    other.keep({1: NoLiveNode("x")})
    assert caller.has(1)


def test_an_earlier_runs_value_does_not_follow_a_later_ones(caller: Caller) -> None:
    one, other = caller.near.expect("price", [1]), caller.near.expect("price", [1])
    other.keep({1: reply(1, "later", token=6)})
    one.keep({1: reply(1, "earlier", token=5)})
    assert caller.value(1) == "later"


@pytest.mark.parametrize("message", [b"", b"x", b"1-price", b"x-price-1", b"1-price-_0a", b"\xff"])
def test_what_cannot_be_read_may_be_about_any_id(caller: Caller, message: bytes) -> None:
    caller.ask(1)
    caller.near.hear(message)
    assert not caller.has(1)


# --- while it is told ---


def test_nothing_is_served_past_the_last_word_of_the_subscription(caller: Caller) -> None:
    caller.ask(1)
    caller.near.trust(caller.now + 2)
    caller.now += 1.999
    assert caller.has(1)
    caller.now += 0.001
    assert not caller.has(1)
    caller.near.trust(caller.now + 2)
    assert caller.has(1), "nothing was missed: the word came late"


def test_a_subscription_that_is_lost_takes_everything_with_it(caller: Caller) -> None:
    caller.ask(1)
    caller.near.distrust()
    assert not caller.has(1)
    caller.near.begin()
    caller.near.trust(math.inf)
    assert not caller.has(1)


def test_what_was_asked_for_before_the_subscription_began_is_not_kept(caller: Caller) -> None:
    caller.near.distrust()
    early = caller.near.expect("price", [1])
    caller.near.begin()
    caller.near.trust(math.inf)
    late = caller.near.expect("price", [1])
    early.keep({1: reply(1, "old")})
    assert not caller.has(1)
    late.keep({1: reply(1, "new")})
    assert caller.value(1) == "new"


def test_a_pulse_is_good_for_a_while_from_when_it_was_asked_for() -> None:
    pulse = Pulse(sent_at=10.0)
    assert pulse.due == 10.0 + TRUST_S
    assert pulse.answered() == 10.0 + TRUST_S
    assert pulse.due == 10.0 + BEAT_S


# --- how many ---


def test_there_are_no_more_than_were_allowed() -> None:
    caller = Caller(most=3)
    for id in range(50):
        caller.ask(id)
        assert len(caller.near) <= 3
    assert [id for id in range(50) if caller.has(id)] == [47, 48, 49]


def test_what_is_served_outlives_what_is_not() -> None:
    caller = Caller(most=3)
    caller.ask(1)
    for id in range(2, 50):
        assert caller.has(1)
        caller.ask(id)


def test_many_that_are_asked_for_together_may_be_more_than_there_is_room_for() -> None:
    caller = Caller(most=2)
    caller.ask(1)
    assert caller.has(1)
    ids = list(range(10, 20))
    caller.near.expect("price", ids).keep({id: reply(id) for id in ids})
    assert sum(map(caller.has, ids)) == len(caller.near) == 2


def test_those_that_fail_leave_no_places_behind(caller: Caller) -> None:
    for id in range(5):
        caller.near.expect("price", [id]).keep({id: NoLiveNode("x")})
    assert len(caller.near) == 0


# --- for which resources ---


class Declared:
    def __init__(self, near: bool | None, ttl_s: float = 30.0) -> None:
        self.near = near
        self.ttl_s = ttl_s


class NoDial:
    """Nobody answers: nothing is served, and nothing is waited for."""

    server = "nowhere"
    runtime = MACHINE

    def without_revival(self) -> NoDial:
        return self

    def connect(self, *, timeout_s: float) -> Any:
        raise ConnectionLost("nobody there")


RESOURCES = {
    "yes": Declared(True),
    "no": Declared(False),
    "either": Declared(None),
    "choke": Declared(None, 0.0),
}


@pytest.mark.parametrize(
    ("most", "resource", "keeps"),
    [
        (0, "yes", True),
        (0, "no", False),
        (0, "either", False),
        (0, "unknown", False),
        (5, "yes", True),
        (5, "no", False),
        (5, "either", True),
        (5, "choke", False),
        (5, "unknown", True),
    ],
)
def test_a_resource_says_whether_it_is_kept_and_its_client_where_it_does_not(
    most: int, resource: str, keeps: bool
) -> None:
    cache = NearCache(most, RESOURCES, connector=NoDial(), channel="c")  # type: ignore[arg-type]
    assert (cache.expect(a_call(resource=resource)) is not None) is keeps
    assert (cache.expect(a_call(1, 2, resource=resource)) is not None) is keeps
    assert cache.expect(a_call(resource=resource, kind="a", args=("argument",))) is None
    assert cache.expect(a_call(resource=resource, kind="i")) is None
    cache.close()


@pytest.mark.parametrize("most", [-1, 1.5, True, "10", None])
def test_a_number_of_replies_that_is_none_is_refused(most: Any) -> None:
    with pytest.raises(ConfigError, match="invalid near"):
        check_near(most)


# --- every order of things ---


class World:
    """An owner, a caller that keeps, and what is on its way between them, in any order.

    A value is the number of drops that its id had seen when the owner answered.
    """

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.caller = Caller(most=2)
        self.drops = dict.fromkeys((1, 2, 3), 0)
        self.heard = dict(self.drops)
        self.asked: list[Expected] = []
        self.answered: list[tuple[Expected, dict[Id, object]]] = []
        self.messages: list[Id | None] | None = []
        self.served = 0

    def ask(self) -> None:
        ids = self.chance.sample(sorted(self.drops), self.chance.randint(1, 2))
        self.asked.append(self.caller.near.expect("price", ids))

    def answer(self) -> None:
        if self.asked:
            expected = self.asked.pop(self.chance.randrange(len(self.asked)))
            found = {id: reply(id, [self.drops[int(id)]]) for id in expected.places}
            self.answered.append((expected, dict(found)))

    def arrive(self) -> None:
        if self.answered:
            expected, found = self.answered.pop(self.chance.randrange(len(self.answered)))
            expected.keep(found)

    def drop(self) -> None:
        id = self.chance.choice(sorted(self.drops))
        self.drops[id] += 1
        if self.messages is not None:
            self.messages.append(id)

    def hear(self) -> None:
        """The next message; None is the server's word that it knows of the subscription."""
        if self.messages:
            id = self.messages.pop(0)
            if id is None:
                self.caller.near.begin()
                self.caller.near.trust(math.inf)
            else:
                self.caller.hears(id)
                self.heard[int(id)] += 1

    def lose(self) -> None:
        self.caller.near.distrust()
        self.messages = None

    def subscribe(self) -> None:
        if self.messages is None:
            self.messages = [None]
            self.heard = dict(self.drops)

    def look(self) -> None:
        for id, least in self.heard.items():
            if self.caller.has(id):
                self.served += 1
                assert self.caller.value(id)[0] >= least


@pytest.mark.parametrize("seed", range(30))
def test_no_order_of_things_brings_back_what_was_dropped(seed: int) -> None:
    chance = Random(seed)
    world = World(chance)
    common = [world.ask] * 8 + [world.answer, world.arrive, world.hear] * 12
    rare = [world.drop] * 4 + [world.subscribe] * 2 + [world.lose]
    for _ in range(3000):
        chance.choice(common + rare)()
        world.look()
    assert world.served > 100
