"""What the server runs for a hit, alone and in a group: exact counts, the same on any machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from stage import PLAIN
from world import World

from rqproc.ids import address
from rqproc.placement import PLACEMENTS
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import Limits


def commands_run(world: World, *commands: tuple[Any, ...]) -> dict[str, int]:
    """What the server runs for some commands, those in functions too, besides the functions."""

    def counts() -> dict[str, int]:
        text = world.run(("INFO", "commandstats")).decode()
        rows = [line.split(":calls=") for line in text.split("\r\n") if ":calls=" in line]
        return {name.removeprefix("cmdstat_"): int(rest.split(",")[0]) for name, rest in rows}

    before = counts()
    for command in commands:
        world.run(command)
    ignored = {"info", "ping", "fcall"}
    after = counts()
    found = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in found.items() if count and name not in ignored}


@pytest.fixture(params=PLACEMENTS)
def real(url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    world = World(url, real_clock=True)
    join = world.commands.join(
        "a",
        lease_s=60,
        nonce="x",
        limits=Limits(1000, 1000, 2),
        pid=1,
        host="h",
        versions=("3", "3"),
        placement=request.param,
    )
    world.placement = request.param  # type: ignore[attr-defined]
    world.inc = world.commands.read_join("a", world.run(join)).incarnation  # type: ignore[attr-defined]
    yield world
    world.close()


def test_a_hit_costs_eight_commands_to_ask_and_three_to_answer(real: Any) -> None:
    place = address("r", 1)
    id = f"rab-c0-{place}"
    route = real.commands.route_one(id, place, PLAIN, timeout_s=5.0, parent="")
    owner = ("zcount", "zrange") if real.placement == "modulo" else ("zcount", "hget")
    one = ("time", "zrangebyscore", *owner, "hset", "pexpire", "zadd", "rpush")
    assert commands_run(real, route) == dict.fromkeys(one, 1)
    hit = Commands.hit(id, answer_codec.encode_answer(id, "hit", "1", node="a"))
    answer = real.commands.answer(real.inc, [hit])
    assert commands_run(real, answer) == dict.fromkeys(("zrem", "del", "publish"), 1)


def test_a_group_of_64_costs_no_more_than_one_call(real: Any) -> None:
    group, addresses = "rab-g0", [address("r", id) for id in range(64)]
    scatter = real.commands.scatter(group, codec.encode_many("r"), addresses, timeout_s=5.0)
    asked = commands_run(real, scatter)
    assert sum(asked.values()) <= 8, asked
    text = real.run(real.commands.group(group, real.inc)).decode()
    parts = [answer_codec.encode_part(str(n), "hit", "1", age_s=0, expires_in_s=1, token=0)
             for n in range(64)]  # fmt: skip
    many = Commands.many(group, answer_codec.encode_group(group, "a", parts), len(text))
    answered = commands_run(real, real.commands.answer(real.inc, [many]))
    assert sum(answered.values()) <= 7, answered
