"""Nodes and callers of two protocols on one server: apart where they may be, named where not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from callers import Callers
from serving import started
from stage import PLAIN
from world import TIME, World

from rqproc.errors import ProtocolMismatch
from rqproc.ids import address
from rqproc.protocol import library
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys
from rqproc.protocol.library import PROTOCOL
from rqproc.protocol.messages import Joined, Limits, Tally

NEXT = PROTOCOL + 1


class NextKeys(Keys):
    """The keys of the next protocol."""

    @property
    def state(self) -> str:
        return super().state.replace(f":{PROTOCOL}:", f":{NEXT}:")


def next_commands(world: World, namespace: str) -> Commands:
    """The functions of the next protocol, loaded beside those that are there."""
    commands = Commands(NextKeys(namespace), library.build(protocol=NEXT, time=TIME))
    world.tell(commands.load, ("SET", f"{commands.keys.state}node:clock", str(world.now)))
    return commands


def join(world: World, commands: Commands, name: str = "x") -> Joined:
    command = commands.join(
        name, lease_s=1, nonce="x", limits=Limits(9, 9, 9), pid=1, host="h", versions=("3", "3")
    )
    return commands.read_join(name, world.run(command))


def route(world: World, commands: Commands) -> Any:
    place = address("r", 1)
    return world.run(commands.route_one(f"rab-c0-{place}", place, PLAIN, timeout_s=5.0, parent=""))


@pytest.fixture
def world(url: str) -> Iterator[World]:
    world = World(url)
    yield world
    world.close()


def test_two_protocols_in_two_namespaces_do_not_touch_each_others_keys(world: World) -> None:
    other = next_commands(world, "other")
    join(world, world.commands)
    mine = world.dump()
    join(world, other)
    assert route(world, other) is None
    names = {name for name in world.dump() if name not in mine}
    shared = (b"rq:queues", b"rq:workers")
    assert all(b"other" in name or name in shared or b"rq:job:" in name for name in names)
    kept = {name: value for name, value in mine.items() if name not in shared}
    assert all(world.dump()[name] == value for name, value in kept.items())
    libraries = world.run(("FUNCTION", "LIST"))
    assert {found[b"library_name"] for found in libraries} == {
        f"rqproc_{PROTOCOL}".encode(),
        f"rqproc_{NEXT}".encode(),
    }


@pytest.mark.parametrize("mine_first", [True, False])
def test_in_one_namespace_the_second_to_join_is_told_of_both(
    world: World, mine_first: bool
) -> None:
    both = [world.commands, next_commands(world, "w")]
    first, second = both if mine_first else both[::-1]
    join(world, first)
    with pytest.raises(ProtocolMismatch) as caught:
        join(world, second)
    text = str(caught.value)
    assert str(PROTOCOL) in text
    assert str(NEXT) in text
    assert "w" in text


def test_a_caller_whom_only_nodes_of_another_protocol_could_serve_is_told_so(world: World) -> None:
    other = next_commands(world, "w")
    join(world, other)
    (told,) = route(world, world.commands)
    assert json.loads(told) == {"type": "OtherProtocol", "mine": str(PROTOCOL), "others": str(NEXT)}


def test_another_protocol_is_in_nobodys_way_once_its_leases_are_over(world: World) -> None:
    other = next_commands(world, "w")
    join(world, other)
    world.advance(1001)
    assert b"NoLiveNode" in route(world, world.commands)[0]
    join(world, world.commands)


def test_who_leaves_last_leaves_the_namespace_to_others(world: World) -> None:
    inc = join(world, world.commands).incarnation
    world.run(world.commands.leave("x", inc))
    join(world, next_commands(world, "w"))


def test_a_beat_says_for_how_long_its_protocol_is_spoken(world: World) -> None:
    inc = join(world, world.commands).incarnation
    world.advance(500)
    world.run(world.commands.beat(inc, lease_s=1, tally=Tally()))
    score = world.run(("ZSCORE", "rqproc:w:protocols", str(PROTOCOL)))
    assert int(score) == world.now + 1000


# --- protocol 1, which knew of no other ---


def test_nodes_of_protocol_1_are_known_by_their_leases(world: World) -> None:
    world.run(("ZADD", "rqproc:w:leases", str(world.now + 500), "a@1"))
    with pytest.raises(ProtocolMismatch, match="1"):
        join(world, world.commands)
    (told,) = route(world, world.commands)
    assert json.loads(told) == {"type": "OtherProtocol", "mine": str(PROTOCOL), "others": "1"}
    world.advance(501)
    join(world, world.commands)


def test_all_other_protocols_are_named_in_order(world: World) -> None:
    world.run(("ZADD", "rqproc:w:leases", str(world.now + 500), "a@1"))
    join(world, next_commands(world, "elsewhere"))
    world.run(("ZADD", "rqproc:w:protocols", str(world.now + 500), str(NEXT)))
    (told,) = route(world, world.commands)
    assert json.loads(told)["others"] == f"1, {NEXT}"


@pytest.mark.parametrize("kind", ["text", "hash"])
def test_what_stands_where_protocol_1_had_its_leases_does_no_harm(world: World, kind: str) -> None:
    key = "rqproc:w:leases"
    world.run(("SET", key, "text") if kind == "text" else ("HSET", key, "a", "b"))
    join(world, world.commands)


def test_members_are_not_disturbed_by_what_comes_later(stage: Callers) -> None:
    """Nodes of another protocol that could not know of these are no reason to stop."""
    started(stage)
    stage.world.run(("ZADD", "rqproc:w:leases", str(stage.now + 500), "a@1"))
    stage.send(stage.new_order([0]))
    stage.check()
