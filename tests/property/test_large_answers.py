"""Facts about large answers: what is pushed to callers is bounded, and the rest lies ready."""

from __future__ import annotations

import pytest
from callers import Callers
from ledger import LEASE_MS
from serving import sent, started
from simnode import SimNode

from rqproc.protocol import answer_codec
from rqproc.protocol.commands import Commands

LARGE = 65_536
MOST = 1_048_576


def payload(id: str, size: int, *, source: str = "miss") -> str:
    """An answer of so many bytes."""
    empty = answer_codec.encode_answer(id, source, '""', node="a")
    return answer_codec.encode_answer(id, source, f'"{"x" * (size - len(empty))}"', node="a")


def told(stage: Callers) -> list[list[bytes]]:
    """The words of what was published since, but for what stands in a value."""
    return [text.split(b" ")[:4] for _, text in stage.world.published()]


def kept(stage: Callers, key: str | bytes) -> tuple[int, int]:
    """How long what lies there is, and for how long it does, in ms."""
    return tuple(stage.world.tell(("STRLEN", key), ("PTTL", key)))  # type: ignore[return-value]


def hit(stage: Callers, node: SimNode, size: int, *, caller: str = "") -> bytes:
    """Have a call answered that nobody asks for just now; return the word that is told."""
    id = f"{caller or stage.caller.name}-c{stage.number() + 10**6:x}-1-r-1"
    stage.world.run(("ZADD", f"{stage.world.keys.state}open:{node.inc}", "1", id))
    stage.world.published()
    answer = Commands.hit(id, payload(id, size, source="hit"))
    stage.world.run(stage.commands.answer(node.inc, [answer]))
    ((_, word, *_),) = told(stage)
    return word


def answered(stage: Callers, node: SimNode, count: int, size: int) -> list[str]:
    """Have calls asked for in one packet and answered, each with so many bytes."""
    order = stage.new_order([0] * count)
    calls = [sent(wanted) for wanted in order.wanted]
    stage.world.run(stage.commands.route(calls, timeout_s=5.0))
    stage.world.published()
    for call in calls:
        ending = Commands.call("", call.id, call.address, payload(call.id, size), 600.0)
        stage.world.run(stage.commands.answer(node.inc, [ending]))
    return [call.id for call in calls]


def test_an_answer_above_64_kib_is_told_of_and_kept_as_long_as_any_other(stage: Callers) -> None:
    node = started(stage)
    (id,) = answered(stage, node, 1, LARGE + 1)
    key = stage.world.keys.answer(id)
    assert told(stage) == [[id.encode(), b"kept", b"65537", key.encode()]]
    size, left_ms = kept(stage, key)
    assert size == LARGE + 1
    assert left_ms > 590_000


def test_an_answer_of_64_kib_is_pushed(stage: Callers) -> None:
    node = started(stage)
    (id,) = answered(stage, node, 1, LARGE)
    assert told(stage) == [[id.encode(), b"miss", b"0", b"0"]]


def test_a_large_hit_is_kept_for_its_caller_to_fetch(stage: Callers) -> None:
    node = started(stage)
    assert hit(stage, node, LARGE + 1) == b"kept"
    keys = stage.world.run(("KEYS", stage.world.keys.answer("*")))
    assert len(keys) == 1
    size, left_ms = kept(stage, keys[0])
    assert size == LARGE + 1
    assert 0 < left_ms <= 60_000


def test_no_more_than_a_mebibyte_is_pushed_to_who_does_not_ask(stage: Callers) -> None:
    """It may stand still: a server closes a connection that too much is ready for."""
    node = started(stage)
    size = 50_000
    answered(stage, node, 30, size)
    words = [word for _, word, *_ in told(stage)]
    pushed = MOST // size
    assert words == [b"miss"] * pushed + [b"kept"] * (30 - pushed)
    answered(stage, node, 1, size)
    assert [word for _, word, *_ in told(stage)] == [b"miss"], "who asks has read"


def test_who_asks_for_a_group_has_read_too(stage: Callers) -> None:
    node = started(stage)
    answered(stage, node, 30, 50_000)
    stage.send(stage.new_group([0, 1]))
    assert hit(stage, node, 50_000) == b"hit"


def test_what_is_small_is_always_pushed(stage: Callers) -> None:
    """To tell of it would be as much."""
    node = started(stage)
    answered(stage, node, 30, 50_000)
    assert hit(stage, node, 48_000) == b"hit", "there was room for it"
    assert hit(stage, node, 1025) == b"kept"
    assert hit(stage, node, 1024) == b"hit"


def test_what_was_pushed_to_callers_who_are_gone_is_not_remembered_for_ever(stage: Callers) -> None:
    node = started(stage)
    answered(stage, node, 21, 50_000)
    assert hit(stage, node, 50_000) == b"kept"
    for number in range(1000):
        hit(stage, node, 2000, caller=f"rff{number:x}")
    assert hit(stage, node, 50_000) == b"hit"


@pytest.mark.parametrize("how", ["again", "one by one", "withdrawn"])
def test_who_asks_again_is_told_where_answers_lie_once_a_mebibyte_is_unread(
    stage: Callers, how: str
) -> None:
    node = started(stage)
    (large, *others) = answered(stage, node, 1, LARGE + 1) + answered(stage, node, 22, 50_000)
    stage.world.advance(LEASE_MS * 6 // 10)
    calls = [sent(wanted) for order in stage.orders for wanted in order.wanted]
    commands = stage.commands
    ways = {
        "again": [commands.route(calls, timeout_s=1.0, again=True)],
        "one by one": [commands.route([call], timeout_s=1.0, again=True) for call in calls],
        "withdrawn": [commands.withdraw(calls, timeout_s=1.0)],
    }
    reply = [text for told in stage.world.tell(*ways[how]) for text in told]
    assert [text.split(b" ")[0].decode() for text in reply] == [large, *others]
    assert [text.split(b" ")[1] for text in reply] == [b"kept"] * 23
    key = stage.world.keys.answer(large)
    assert reply[0].split(b" ")[2:] == [b"65537", key.encode()]


def test_who_asks_again_and_has_read_is_told_the_answer(stage: Callers) -> None:
    node = started(stage)
    (id,) = answered(stage, node, 1, 50_000)
    call = sent(stage.orders[0].wanted[0])
    (found,) = stage.world.run(stage.commands.route([call], timeout_s=1.0, again=True))
    assert found == payload(id, 50_000).encode()
