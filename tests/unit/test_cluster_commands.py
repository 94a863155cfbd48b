"""Commands as the scripts' contracts want them, and the reading of the scripts' answers."""

from __future__ import annotations

import pytest

from rqproc import wire
from rqproc.cluster import (
    Claim,
    Cluster,
    Finish,
    FinishMany,
    Job,
    LeaseLost,
    Limits,
    Order,
    SessionSuperseded,
    Tally,
)
from rqproc.errors import NameTaken
from rqproc.keys import Keys
from rqproc.link import Command, pack
from rqproc.scripts import NAMES, Scripts, scripts_of

KEYS = Keys("shop")
CLUSTER = Cluster(KEYS)
CLAIM = Claim("j", 7, "1|r:1", "call", "j", 0, b"[]", 0)

COMMANDS: dict[str, Command] = {
    "join": CLUSTER.join(
        "a", lease_s=5, nonce="x", limits=Limits(9, 9, 9), pid=1, host="h", versions=("3", "3.11")
    ),
    "beat": CLUSTER.beat("a@1", lease_s=5, tally=Tally()),
    "route": CLUSTER.route(Order("call", (Job("j", "1|r:1", b"[]"),), 1.5, "j")),
    "scatter": CLUSTER.scatter(
        [Job("j:0", "1|r:1", b"")],
        data=b"[]",
        timeout_s=1.5,
        reply="box",
        fence="box",
        quiet=False,
    ),
    "withdraw": CLUSTER.withdraw(
        Order("call", (Job("j", "1|r:1", b"[]"),), 1.5, "j"), timeout_s=0.5
    ),
    "take": CLUSTER.take("a@1", session=1, epoch=2, most=3, at="now"),
    "reconcile": CLUSTER.reconcile("a@1", session=1),
    "finish": CLUSTER.finish("a@1", [Finish(CLAIM, "ok", "body", "note")]),
    "drain": CLUSTER.drain("a"),
    "leave": CLUSTER.leave("a", "a@1"),
    "inspect": CLUSTER.inspect([b"j"]),
    "adopt": CLUSTER.adopt(b"j", "1|r:1"),
    "survey": CLUSTER.survey(),
    "locate": CLUSTER.locate("r", [1, "é"]),
}


def claimed(id: bytes, address: bytes = b"1|r:1") -> Claim:
    """A claim as it is read from a take's reply."""
    job = [id, 7, address, b"job", id, 0, b"[]", 0]
    (claim,) = CLUSTER.read_take([1, 0, 1, [], [job]]).claims
    return claim


def test_every_script_has_its_command() -> None:
    assert COMMANDS.keys() == set(NAMES)
    for name, command in COMMANDS.items():
        assert command[:3] == ("EVALSHA", scripts_of(KEYS)[name].sha, 0)
        assert pack([command]).startswith(b"*")


def test_the_scripts_of_a_namespace_are_made_once() -> None:
    assert scripts_of(Keys("shop")) is scripts_of(Keys("shop"))
    assert scripts_of(Keys("shop"))["take"] == Scripts(KEYS)["take"]


def test_scripts_are_loaded_by_their_texts() -> None:
    assert CLUSTER.load("take", "beat") == tuple(
        ("SCRIPT", "LOAD", scripts_of(KEYS)[name].text) for name in ("take", "beat")
    )


@pytest.mark.parametrize(
    ("seconds", "ms"), [(0.0, 0), (0.0001, 1), (1.5, 1500), (0.0014, 1), (604800, 604_800_000)]
)
def test_seconds_become_milliseconds_and_only_none_becomes_none(seconds: float, ms: int) -> None:
    assert CLUSTER.route(Order("call", (), seconds))[4] == ms


def test_an_order_sent_again_has_the_time_that_is_left() -> None:
    order = Order("call", (), 5.0)
    assert CLUSTER.route(order, timeout_s=1.25)[4] == 1250


def test_calls_of_several_orders_are_one_command_like_those_of_one() -> None:
    one, other = Job("j", "1|r:1", b"[]"), Job("k", "2|r:2", b"[]")
    order = Order("call", (one, other), 1.5, "box", parent="3|r:3")
    alike = CLUSTER.route_calls(
        [one, other], timeout_s=1.5, reply="box", parent="3|r:3", fence="", quiet=False
    )
    assert alike[:6] + alike[7:] == CLUSTER.route(order)[:6] + CLUSTER.route(order)[7:]
    new = CLUSTER.route_calls([one], timeout_s=1.5, reply="box", parent="", fence="box", quiet=True)
    assert new[9:11] == ("box", 1)


def test_calls_are_withdrawn_from_the_stream_that_they_were_sent_with() -> None:
    order = Order("call", (Job("j", "1|r:1", b"[]"),), 1.5)
    assert CLUSTER.withdraw(order, timeout_s=0.5, reply="box")[3:] == ("box", 500, "j")


def test_the_default_ttl_of_a_result_is_rqs_own() -> None:
    assert CLUSTER.route(Order("job", ()))[7] == ""
    assert CLUSTER.route(Order("job", (), result_ttl_s=0))[7] == 0


def test_a_refused_join_names_the_lease_that_is_left() -> None:
    with pytest.raises(NameTaken) as caught:
        CLUSTER.read_join("a", [0, 1500])
    assert (caught.value.name, caught.value.lease_left_s) == ("a", 1.5)


def test_a_lost_lease_and_a_newer_session_are_told_apart() -> None:
    with pytest.raises(LeaseLost):
        CLUSTER.read_beat([0])
    with pytest.raises(LeaseLost):
        CLUSTER.read_take([0])
    with pytest.raises(SessionSuperseded):
        CLUSTER.read_take([-1])


def test_members_are_none_where_the_epoch_is_the_one_seen() -> None:
    assert CLUSTER.read_take([1, 5, 2, [], []]).members is None
    assert CLUSTER.read_take([1, 5, 2, [b"a", b"b"], []]).members == ("a", "b")


@pytest.mark.parametrize("id", [b"plain", "é".encode(), b"\xff\xfe", b"a\x00b", "\ue000".encode()])
def test_whatever_bytes_an_id_has_its_finish_names_them(id: bytes) -> None:
    """Another application's job may have any id; a node must answer it, and go on."""
    claim = claimed(id, b"1|r:" + id)
    finish = Finish(claim, "ok", "body", "note")
    packed = pack([CLUSTER.finish("a@1", [finish])])
    assert packed.count(id + b"\r\n") == 3, "id, address and reply"


def test_the_note_of_an_answer_can_be_sent_whatever_the_id() -> None:
    claim = claimed(b"\xff\xfe")
    finish = Finish(claim, "ok", "body", wire.note(claim.id, "miss", token=7))
    assert b"miss 0 0 7" in pack([CLUSTER.finish("a@1", [finish])])


def test_a_location_is_read_beside_the_id_that_it_was_asked_for() -> None:
    reply = [3, [b"a", b"b"], [[b"b", b""], [b"a", b"b"]]]
    one, other = CLUSTER.read_locate(CLUSTER.locate("r", [1, "é"]), reply)
    assert (one.id, one.slot, one.owner, one.holder) == (1, 1, "b", None)
    assert (other.id, other.owner, other.holder) == ("é", "a", "b")
    assert (other.epoch, other.members) == (3, ("a", "b"))


def test_nobody_alive_is_no_owner() -> None:
    (found,) = CLUSTER.read_locate(CLUSTER.locate("r", [1]), [0, [], [[b"", b""]]])
    assert (found.owner, found.members) == (None, ())


def test_a_survey_is_read_into_nodes() -> None:
    row = [b"a", b"a@3", b"draining", 1500, 2, 1, b"3", b"4", b"5", b"6", b"7", b"99", b"host"]
    membership = CLUSTER.read_survey([8, [], [row]])
    (node,) = membership.nodes
    assert (membership.epoch, membership.members) == (8, ())
    assert (node.name, node.state, node.lease_left_s) == ("a", "draining", 1.5)
    assert (node.queued, node.held, node.stuck, node.entries, node.hits) == (2, 1, 3, 4, 5)
    assert (node.joined, node.misses, node.pid, node.host) == (6, 7, 99, "host")
    assert node.queue == KEYS.queue_name("a")


# --- calls that go together ---


def scattered(*jobs: Job, fence: str = "", quiet: bool = False) -> tuple[object, ...]:
    command = CLUSTER.scatter(jobs, data=b"D", timeout_s=1.5, reply="box", fence=fence, quiet=quiet)
    return command[3], command[4], *command[6:]


def test_calls_that_go_together_stand_behind_their_job() -> None:
    jobs = (Job("j:0", "1|r:1", b""), Job("j:7", "2|r:2", b""), Job("k:0", "3|r:3", b""))
    assert scattered(*jobs, fence="box", quiet=True) == (
        1500, "box", "box", 1, "j", b"D", 2, "0", "1|r:1", "7", "2|r:2", "k", b"D", 1, "0", "3|r:3"
    )  # fmt: skip
    assert scattered() == (1500, "box", "", 0)


def test_answers_that_go_together_stand_behind_their_job() -> None:
    claims = [CLAIM._replace(id=f"j:{n}", address=f"{n}|r:{n}", kind="part") for n in (0, 7)]
    many = FinishMany("j", "box", 60.0, [(claims[0], b"0", "A"), (claims[1], b"7", "B")])
    alone = Finish(CLAIM, "ok", "body", "note")
    command = CLUSTER.finish("a@1", [many, alone])
    head = ("j", 2, "many", "box", "ok", "", "", "", 60_000)
    assert command[6:21] == (*head, b"0", "0|r:0", "A", b"7", "7|r:7", "B")
    assert command[21:] == ("j", "1|r:1", "call", "j", "ok", "body", "note", "", 60_000)
    assert pack([command])


def test_what_is_taken_together_is_read_as_such_and_has_its_place_among_the_rest() -> None:
    group = [b"j", 7, [b"0", b"1|r:1", b"9", b"2|r:\xff"], b"many", b"box", 99, b"", 0]
    alone = [[b"x", token, b"5|r:5", b"call", b"x", 0, b"[]", 0] for token in (6, 9)]
    taken = CLUSTER.read_take([1, 0, 1, [], [alone[0], group, alone[1]]])
    assert [claim.token for claim in taken.in_turn()] == [6, 7, 9]
    (many,) = taken.together
    assert (many.id, many.reply, many.deadline_ms) == ("j", "box", 99)
    assert many.claim(0, "1|r:1") == Claim("j:0", 7, "1|r:1", "part", "box", 99, b"", 0)
    assert many.claim(1, "2|r:x").token == 8


def test_a_take_without_many_is_in_order_as_it_is() -> None:
    taken = CLUSTER.read_take([1, 0, 1, [], [[b"x", 6, b"5|r:5", b"call", b"x", 0, b"[]", 0]]])
    assert taken.in_turn() is taken.claims
