"""Commands as the functions' contracts want them, and the reading of the functions' answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rqproc.errors import NameTaken, PlacementMismatch, ProtocolMismatch
from rqproc.ids import address
from rqproc.protocol import library, stats_codec
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys
from rqproc.protocol.messages import (
    Beaten,
    Claim,
    Claimed,
    Joined,
    Known,
    LeaseLost,
    Limits,
    OtherBuild,
    Sent,
    SessionSuperseded,
    Settling,
    Tally,
)
from rqproc.stats import NodeStats, PastError
from rqproc.transport.connection import Command, pack

KEYS = Keys("shop")
COMMANDS = Commands(KEYS)
CALL = Sent("rab-c0-1-r-1", "1-r-1", b"[]")

ALL: dict[str, Command] = {
    "join": COMMANDS.join(
        "a", lease_s=5, nonce="x", limits=Limits(9, 8, 7), pid=1, host="h", versions=("3", "3.11")
    ),
    "beat": COMMANDS.beat("a#1", lease_s=5, tally=Tally(1, 2, 3, 4, 5, 6, 7)),
    "drain": COMMANDS.drain("a"),
    "leave": COMMANDS.leave("a", "a#1"),
    "route": COMMANDS.route([CALL], timeout_s=1.5),
    "scatter": COMMANDS.scatter("rab-g0", b"[]", ["1-r-1"], timeout_s=1.5),
    "enqueue": COMMANDS.enqueue([CALL]),
    "fence": COMMANDS.fence("rab", 130.0),
    "withdraw": COMMANDS.withdraw([CALL], timeout_s=0.5),
    "claim": COMMANDS.claim("a#1", ["j"], session=1, epoch=2, at="now"),
    "settle": COMMANDS.settle("a#1", "rab-g0", 9, "", [], session=1, epoch=2, at="now"),
    "answer": COMMANDS.answer("a#1", [COMMANDS.hit("rab-c0-1-r-1", "payload")]),
    "reconcile": COMMANDS.reconcile("a#1", session=1),
    "arrivals": COMMANDS.arrivals("a#1", most=9),
    "adopt": COMMANDS.adopt(b"j", "1-r-1"),
    "take_state": COMMANDS.take_state("a#1", "1-r-1", token=3, made=2),
    "keep_state": COMMANDS.keep_state("a#1", "1-r-1", "{}", token=3),
    "hand_over": COMMANDS.hand_over("a#1", [(b"1-r-1", b"line")], session=1, epoch=2),
    "take_over": COMMANDS.take_over("a#1"),
    "survey": COMMANDS.survey(),
    "stats": COMMANDS.stats(),
    "locate": COMMANDS.locate("r", [1, "é"]),
}


@pytest.mark.parametrize("name", ALL)
def test_a_command_calls_its_function_with_the_namespaces_prefix_as_its_key(name: str) -> None:
    function = f"rqproc_{library.PROTOCOL}_{name}"
    assert ALL[name][:5] == ("FCALL", function, "1", KEYS.state, "rq")
    assert function in {f"rqproc_{library.PROTOCOL}_{each}" for each in ALL}
    assert pack([ALL[name]]).startswith(b"*")


def test_every_function_has_its_command() -> None:
    text = library.library().text
    assert {f"('{name}'," in text for name in ALL} == {True}
    registered = text.count("\nregistered('") + text.count("\nregistered_for_full('")
    assert registered == len(ALL)


def args(command: Command) -> tuple[object, ...]:
    """What follows the keys and RQ's prefix; times as RQ writes them are left out."""
    return tuple(arg for arg in command[5:] if not str(arg).endswith("Z"))


@pytest.mark.parametrize(
    ("seconds", "ms"), [(0.0, 0), (0.0001, 1), (1.5, 1500), (0.0014, 1), (604800, 604_800_000)]
)
def test_seconds_become_milliseconds_and_only_none_becomes_none(seconds: float, ms: int) -> None:
    assert args(COMMANDS.route([], timeout_s=seconds))[0] == str(ms)


def test_one_new_call_is_sent_as_several_are() -> None:
    alone = COMMANDS.route_one(*CALL[:3], timeout_s=1.5, parent="5-r-5")
    among = COMMANDS.route([CALL], timeout_s=1.5, parent="5-r-5")
    assert args(alone) == args(among)
    assert alone[:5] == among[:5]


def test_calls_say_whether_they_may_have_been_sent_before_and_with_what() -> None:
    again = COMMANDS.route([CALL._replace(group="rab-g0"), CALL], timeout_s=1.5, again=True)
    each = ("rab-c0-1-r-1", "1-r-1", b"[]")
    assert args(again) == ("1500", "", "again", *each, "rab-g0", *each, "")
    assert args(ALL["route"])[2] == "new"


def test_a_group_is_an_id_its_data_and_addresses() -> None:
    command = COMMANDS.scatter("rab-g0", b"D", ["1-r-1", "2-r-2"], timeout_s=1.5)
    assert args(command) == ("1500", "rab-g0", b"D", "1-r-1", "2-r-2")


def test_the_default_ttl_of_a_result_is_rqs_own() -> None:
    assert args(COMMANDS.enqueue([CALL]))[:2] == ("0", "")
    assert args(COMMANDS.enqueue([CALL], timeout_s=2.0, result_ttl_s=0))[:2] == ("2000", "0")


def test_calls_are_withdrawn_by_their_ids_and_groups() -> None:
    command = COMMANDS.withdraw([CALL, CALL._replace(id="x", group="g")], timeout_s=0.5)
    assert args(command) == ("500", "rab-c0-1-r-1", "", "x", "g")


def test_a_node_pops_from_its_queue_by_the_servers_own_command() -> None:
    command = COMMANDS.pop("a", most=7, block_s=1.5)
    assert command == ("BLMPOP", "1.5", "1", KEYS.queue("a"), "LEFT", "COUNT", "7")


@pytest.mark.parametrize("group", ["rab-g0", b"rab-g0"])
def test_a_nodes_part_of_a_group_is_a_field_of_its_hash(group: str | bytes) -> None:
    assert COMMANDS.group(group, "a#1") == ("HGET", b"rq:job:rab-g0", "a#1")


# --- what is read ---


def test_a_join_is_read_or_its_refusal_raised() -> None:
    assert COMMANDS.read_join("a", [1, b"a#3", 8]) == Joined("a#3", 8)
    with pytest.raises(NameTaken) as caught:
        COMMANDS.read_join("a", [0, 1500])
    assert (caught.value.name, caught.value.lease_left_s) == ("a", 1.5)
    with pytest.raises(ProtocolMismatch, match="1, 3"):
        COMMANDS.read_join("a", [-1, b"1, 3"])
    with pytest.raises(OtherBuild):
        COMMANDS.read_join("a", [-2])
    for others, mine in ((b"slots", "modulo"), (b"modulo", "slots")):
        with pytest.raises(PlacementMismatch) as other:
            COMMANDS.read_join("a", [-3, others])
        assert (other.value.mine, other.value.others) == (mine, others.decode())


def test_a_beat_tells_the_epoch_and_how_much_is_taken() -> None:
    assert COMMANDS.read_beat([1, 8, b"draining", 3]) == Beaten(8, "draining", 3)
    with pytest.raises(LeaseLost):
        COMMANDS.read_beat([0])


def test_what_a_claim_is_refused_for_is_told_apart() -> None:
    with pytest.raises(LeaseLost):
        COMMANDS.read_claim([0])
    with pytest.raises(SessionSuperseded):
        COMMANDS.read_claim([-1])
    with pytest.raises(Settling) as caught:
        COMMANDS.read_claim([-2, 1500])
    assert caught.value.left_s == 1.5


def test_claims_are_read_with_members_where_the_epoch_is_new() -> None:
    row = [b"j", b"call", b"1-r-1", 7, 99, b"[]", 1500]
    claim = Claim("j", "call", "1-r-1", 7, 99, b"[]", waited_s=1.5)
    assert COMMANDS.read_claim([1, 5, 2, [b"a", b"b"], [row]]) == Claimed(
        5, 2, ("a", "b"), (claim,)
    )
    assert COMMANDS.read_claim([1, 5, 2, [], []]).members is None


def test_a_claim_tells_what_was_flushed_up_to_which_token() -> None:
    told = COMMANDS.read_claim([1, 5, 2, [b"a"], [], b"", [b"", b"12", b"price", b"8000000000001"]])
    assert told.flushed == {b"": 12, b"price": 8000000000001}
    assert COMMANDS.read_claim([1, 5, 2, [], []]).flushed == {}


def test_of_slots_a_claim_tells_a_node_its_own_and_a_survey_how_many_each_has() -> None:
    assert COMMANDS.read_claim([1, 5, 2, [b"a"], []]).slots == b""
    assert COMMANDS.read_claim([1, 5, 2, [b"a"], [], b"\x01", []]).slots == b"\x01"
    rows = [[b"a", b"a#1", b"member", 900, 0, 0, *[b"0"] * 5, b"7", b"h"]]
    found = COMMANDS.read_survey([3, [b"a"], rows, [b"a#1", 4096]])
    assert (found.placement, found.nodes[0].slots, found.nodes[0].host) == ("slots", 4096, "h")
    found = COMMANDS.read_survey([3, [b"a"], rows])
    assert (found.placement, found.nodes[0].slots) == ("modulo", 0)


@pytest.mark.parametrize("id", [b"plain", "é".encode(), b"\xff\xfe", b"a\x00b", "\ue000".encode()])
def test_whatever_bytes_a_jobs_id_has_its_end_names_them(id: bytes) -> None:
    """Another application's job may have any id; a node must answer it, and go on."""
    (claim,) = COMMANDS.read_claim([1, 0, 1, [], [[id, b"job", b"1-r-1", 7, 0, b"[]", 0]]]).claims
    ending = COMMANDS.job("", claim.id, claim.address, "body", "")
    known = Known(claim.id, claim.token, claim.address)
    assert id + b"\r\n" in pack([COMMANDS.answer("a#1", [ending])])
    assert id + b"\r\n" in pack([COMMANDS.reconcile("a#1", session=1, known=[known])])


def test_endings_stand_one_after_the_other() -> None:
    endings = [
        COMMANDS.hit(b"x", b"P"),
        COMMANDS.many("g", "M", 12),
        COMMANDS.call(":dropped", "y", "1-r-1", "Q", 1.5),
        COMMANDS.job(":stuck", "z", "2-r-2", "B", "R"),
    ]
    assert args(COMMANDS.answer("a#1", endings, draining=True)) == (
        "a#1", "1", "hit", b"x", b"P", "many", "g", "M", "12", "call:dropped", "y", "1-r-1", "Q",
        "1500", "job:stuck", "z", "2-r-2", "B", "R",
    )  # fmt: skip


def test_a_session_says_what_is_known_and_what_the_server_is() -> None:
    command = COMMANDS.reconcile(
        "a#1", session=3, server="s", rejoined=True, bare=False, known=[Known("~7", 7, "1-r-1")]
    )
    assert args(command) == ("a#1", "3", "s", "1", "0", "~7", "7", "1-r-1")


def test_a_location_is_read_beside_the_id_that_it_was_asked_for() -> None:
    assert args(ALL["locate"]) == (address("r", 1), address("r", "é"))
    reply = [3, [b"a", b"b"], [[b"b", b""], [b"a", b"b"]]]
    one, other = COMMANDS.read_locate(ALL["locate"], reply)
    assert (one.id, one.slot, one.owner, one.holder) == (1, 1, "b", None)
    assert (other.id, other.owner, other.holder) == ("é", "a", "b")
    assert (other.epoch, other.members) == (3, ("a", "b"))


def test_nobody_alive_is_no_owner() -> None:
    (found,) = COMMANDS.read_locate(COMMANDS.locate("r", [1]), [0, [], [[b"", b""]]])
    assert (found.owner, found.members) == (None, ())


def test_stats_are_read_by_the_clock_of_the_server() -> None:
    past = PastError("price", 7, 95.0, "KeyError", "7", "its traceback")
    told = NodeStats(100.0, entries=3, errors=(past,))
    assert args(COMMANDS.beat("b#1", lease_s=5, tally=Tally(), stats=stats_codec.encode(told)))[-1]
    text = stats_codec.encode(told).encode()
    found = COMMANDS.read_stats([5_000_500, [b"b#1", 5_000_000, text, b"a#2", 5_000_100, b"{}"]])
    a, b = found.nodes
    assert (found.at_s, a.node, a.at_s, a.entries) == (5000.5, "a", 5000.1, 0)
    assert (b.node, b.incarnation, b.at_s, b.entries) == ("b", "b#1", 5000.0, 3)
    assert b.errors == (replace(past, at_s=4995.0),)


def test_a_survey_is_read_into_nodes() -> None:
    row = [b"a", b"a#3", b"draining", 1500, 2, 1, b"3", b"4", b"5", b"6", b"7", b"99", b"host"]
    membership = COMMANDS.read_survey([8, [], [row]])
    (node,) = membership.nodes
    assert (membership.epoch, membership.members) == (8, ())
    assert (node.name, node.state, node.lease_left_s) == ("a", "draining", 1.5)
    assert (node.queued, node.held, node.stuck, node.entries, node.hits) == (2, 1, 3, 4, 5)
    assert (node.joined, node.misses, node.pid, node.host) == (6, 7, 99, "host")
    assert node.queue == KEYS.queue_name("a")
