"""Single facts about the functions, on a real server: what schedules cannot see, or once found."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from callers import Callers
from ledger import LEASE_MS, Wanted
from rq.registry import FailedJobRegistry
from serving import started
from simnode import SimNode
from stage import HOST, PLAIN
from steps import called, ended, enqueued, lying, state, taken

from rqproc.ids import MAX_ID_CHARS, SLOT_BITS, address, owner, slot
from rqproc.lab.servers import ServerProcess
from rqproc.placement import PLACEMENTS, Deal, Placement, deal, hash_slot
from rqproc.protocol import library
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import job_key
from rqproc.protocol.messages import Claimed, Known, Limits, OtherBuild, Sent, SessionSuperseded

TOP = 2**SLOT_BITS - 1


# --- one place ---


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("count", range(1, 6))
def test_lua_finds_the_owner_that_python_finds(
    stage: Callers, count: int, placement: Placement
) -> None:
    stage.roll.placement = placement
    dealt: Deal = ()
    members = [f"n{number}" for number in range(count)]
    for name in members:
        stage.join(SimNode("", stage.number(), 9), name)
        dealt = deal(dealt, members[: members.index(name) + 1])
    random = Random(count)
    ids: list[Any] = [0, 1, TOP, TOP - 1, TOP - 2, TOP + 1, -1, "é", "007"]
    ids += [random.randrange(TOP - 10**6, TOP + 1) for _ in range(300)]
    ids += [f"user-{number}" for number in range(100)]
    command = stage.commands.locate("r", ids)
    found = stage.commands.read_locate(command, stage.world.run(command))
    if placement == "slots":
        assert [place.owner for place in found] == [dealt[hash_slot(slot(id))] for id in ids]
    else:
        assert [place.owner for place in found] == [owner(slot(id), members) for id in ids]
    assert {place.owner for place in found} == set(members)


@pytest.mark.parametrize("id", ["€" * MAX_ID_CHARS, "\U0001f600" * MAX_ID_CHARS, 10**199, "-"])
def test_the_longest_id_is_served_like_any_other(stage: Callers, id: int | str) -> None:
    started(stage)
    place = address("r" * 100, id)
    name = f"{stage.caller.name}-c0-{place}"
    route = stage.commands.route([Sent(name, place, "[]")], timeout_s=5.0)
    assert stage.world.run(route) is None
    queue = stage.world.keys.queue("a")
    assert stage.world.run(("LRANGE", queue, "-1", "-1")) == [name.encode()]


def test_a_paused_nodes_late_answer_changes_nothing(stage: Callers) -> None:
    paused = started(stage, "a")
    call = called(stage)
    (late,) = taken(stage, paused)
    stage.let_leases_pass()
    other = started(stage, "B")
    stage.ask_again(stage.orders[0])
    (claim,) = taken(stage, other)
    assert claim.token > late.token
    stage.answer(paused, [paused.ending(late)])
    assert not call.heard
    stage.answer(other, [other.ending(claim)])
    assert call.heard == [other.word(claim)]


def test_a_claim_of_what_is_open_elsewhere_changes_nothing(stage: Callers) -> None:
    owner_of, other = started(stage, "B"), started(stage, "a")
    call = called(stage, 1)  # of id 2
    assert lying(stage, "B") == [call.id]
    told = stage.ask_to_claim(other, [call.id], session=other.session)
    assert isinstance(told, Claimed)
    assert [claim.what for claim in told.claims] == ["gone"]
    assert lying(stage, "B") == [call.id]
    ended(stage, owner_of)


# --- what is kept ---


def test_a_call_is_kept_a_minute_past_its_deadline(stage: Callers) -> None:
    started(stage)
    call = called(stage, timeout_s=600.0)
    assert 650_000 < stage.world.run(("PTTL", job_key(call.id))) <= 660_000


# --- nothing lost, nothing twice ---


def killed(stage: Callers, name: str) -> None:
    """A node claims what there is, and dies."""
    node = started(stage, name)
    stage.carry()
    taken(stage, node)
    stage.nodes.remove(node)
    stage.report_death(node)
    stage.check()


def test_a_call_on_which_three_nodes_died_is_told_so(stage: Callers) -> None:
    job = enqueued(stage)
    for name in ("a", "B", "n9"):
        killed(stage, name)
    last = started(stage, "n10")
    stage.carry()
    taken(stage, last)
    assert job.due == ["NodeLost"]
    stage.check()


def test_what_kills_nodes_is_not_enqueued_until_a_minute_has_passed(stage: Callers) -> None:
    enqueued(stage)
    for name in ("a", "B", "n9"):
        killed(stage, name)
    place, data = stage.new_call(0)
    ask = stage.commands.enqueue([Sent("another", place, data)])
    assert b'"NodeLost"' in stage.world.run(ask)[0]
    stage.world.advance(60_000)
    assert stage.world.run(ask) == [b""]


def test_other_calls_of_an_id_that_kills_nodes_are_not_run_either(stage: Callers) -> None:
    enqueued(stage)
    for name in ("a", "B", "n9"):
        killed(stage, name)
    last = started(stage, "n10")
    call = called(stage)
    taken(stage, last)
    assert call.heard == ["NodeLost"]
    assert not last.known


def test_a_run_that_ends_clears_an_id_that_nodes_have_died_on(stage: Callers) -> None:
    enqueued(stage)
    for name in ("a", "B"):
        killed(stage, name)
    node = started(stage, "n9")
    stage.carry()
    assert state(stage, "suspects")
    ended(stage, node)
    assert not state(stage, "suspects")


def test_a_job_that_failed_and_is_requeued_has_all_its_attempts_again(
    stage: Callers, server: ServerProcess
) -> None:
    job = enqueued(stage)
    for name in ("a", "B", "n9"):
        killed(stage, name)
    last = started(stage, "n10")
    stage.carry()
    taken(stage, last)
    registry = FailedJobRegistry(stage.world.keys.ingress, connection=server.client())
    assert registry.get_job_ids() == [job.id]
    registry.requeue(job.id)
    assert stage.world.run(stage.commands.adopt(job.id.encode(), job.address)) == 1
    assert not state(stage, "suspects")
    assert stage.world.run(("HGET", job_key(job.id), "rqproc_lost")) is None


@pytest.mark.parametrize("bad", ["", "no-slot", "-", "-1-r-1", "9" * 400 + "-r-1", "1|r:1"])
def test_a_malformed_address_takes_nothing_else_along(stage: Callers, bad: str) -> None:
    """A function that fails half-way is not rolled back: what it has done would be half of it."""
    node = started(stage)
    wanted = Wanted("junk", bad, "job", b"", junk="addressed")
    fields: dict[str, str | bytes] = {"status": "queued", "data": "[]", "rqproc_address": bad}
    stage.put(wanted, stage.world.keys.queue("a"), fields)
    good = called(stage)
    assert good.id in {claim.id for claim in taken(stage, node)}
    assert stage.view.ingress == ["junk"], "it is looked into like any job of another"


@pytest.mark.parametrize("id", [b"\xff\xfe", b"", b"x" * 5000, b"rff-c0-", b"rff-g", b"a b\r\n"])
def test_whatever_lies_in_a_queue_is_gone_by_its_claim(stage: Callers, id: bytes) -> None:
    node = started(stage)
    good = called(stage)
    text = id.decode(errors="surrogateescape")
    stage.world.run(("RPUSH", stage.world.keys.queue("a"), id))
    stage.look()
    stage.pop(node, 9)
    told = stage.ask_to_claim(node, [text, good.id], session=node.session)
    assert isinstance(told, Claimed)
    assert [claim.what for claim in told.claims] == ["gone", "call"]


def test_a_running_job_that_is_enqueued_again_survives_its_node(stage: Callers) -> None:
    """RQ sets its status to queued; the second copy joins the run; the run dies."""
    node = started(stage)
    job = enqueued(stage)
    taken(stage, node)
    stage.look(("HSET", job_key(job.id), "status", "queued"))
    stage.look(("RPUSH", stage.world.keys.ingress_queue, job.id))
    stage.carry()
    stage.world.run(stage.commands.report_death("a", pid=node.pid, host=HOST))
    stage.look()
    assert stage.view.ingress == [job.id]


def test_an_end_without_an_answer_of_what_another_has_leaves_it_alone(stage: Callers) -> None:
    """
    1. a claims a call and is paused   2. its lease runs out: the call is b's   3. a finds that its
    deadline is over, and says so: the call's hash must stay, for b answers it
    """
    paused = started(stage, "a")
    call = called(stage)
    (claim,) = taken(stage, paused)
    other = started(stage, "B")
    stage.nodes.remove(paused)
    stage.report_death(paused)
    expired = Commands.call(":expired", call.id, call.address, "", 0.0)
    stage.world.run(stage.commands.answer(paused.inc, [expired]))
    ended(stage, other)
    assert call.heard
    assert claim.id == call.id


# --- questions about an id ---


def test_a_question_about_an_id_goes_to_who_runs_it_and_holds_nothing(stage: Callers) -> None:
    """The owner has changed meanwhile: the run is still where it began."""
    old = started(stage, "B")
    call = called(stage, 0)
    taken(stage, old)
    started(stage, "a")
    assert stage.view.holder(call.address) == old.inc != stage.view.owner(call.address)
    order = stage.new_order([0], kind="e")
    stage.send(order)
    (question,) = order.wanted
    assert question.address == call.address
    before = stage.view.holders
    stage.pop(old, 9)
    stage.answer(old, [old.hit(question.id)])
    assert question.heard == [f"{old.inc} hit"]
    assert stage.view.holders == before


# --- sessions ---


def test_a_claim_whose_reply_was_lost_is_released_and_given_again(stage: Callers) -> None:
    """Else, if the call had been answered otherwise meanwhile, its id would be held for ever."""
    node = started(stage)
    call = called(stage)
    stage.pop(node, 9)
    stage.claim(node, [call.id], lost=True)
    stage.open_session(node, forgets=True)
    assert not stage.view.holders
    stage.pop(node, 9)
    stage.answer(node, [node.hit(call.id)])
    assert call.heard == [f"{node.inc} hit"]
    assert not stage.view.holders


def test_a_reconciliation_that_comes_late_holds_nothing(stage: Callers) -> None:
    node = started(stage)
    still = Known("~7", 7, address("r", 1))
    late = stage.commands.reconcile(node.inc, session=node.session, known=[still])
    stage.open_session(node)
    with pytest.raises(SessionSuperseded):
        stage.commands.read_claim(stage.world.run(late))
    assert not state(stage, "holders")


def test_what_a_server_has_forgotten_the_end_of_is_taken_over_by_who_runs_it(
    stage: Callers,
) -> None:
    """
    1. b runs 1, and ends   2. a runs 1   3. another server takes over, to which b still runs it
    4. a says that it does: its token is higher, so it does.
    """
    second, first = started(stage, "B"), started(stage, "a")
    held = {"B": f"{second.inc} 1"}["B"]
    place, keys = address("r", 1), stage.world.keys
    stage.world.run(("HSET", f"{keys.state}holders", place, held))
    stage.world.run(("HSET", f"{keys.state}claims:{second.inc}", "rab-c0-1-r-1", f"5 {place}"))
    for token, holder in ((4, second.inc), (6, first.inc)):
        first.session += 1
        known = [Known(f"~{token}", token, place)]
        stage.world.run(stage.commands.reconcile(first.inc, session=first.session, known=known))
        stage.look()
        assert stage.view.holders == {place: f"{holder} 1"}


@pytest.mark.parametrize("bare", [False, True])
def test_a_server_without_functions_gives_out_nothing_until_all_have_spoken(
    stage: Callers, bare: bool
) -> None:
    nodes = [started(stage, name) for name in ("B", "a")]
    for node in nodes:
        node.session += 1
    one, other = (
        stage.commands.reconcile(node.inc, session=node.session, server="server-1", bare=bare)
        for node in nodes
    )
    stage.world.run(one)
    settling = f"{stage.world.keys.state}settling"
    assert stage.world.run(("EXISTS", settling)) == int(bare)
    assert stage.world.run(("PTTL", settling)) > 0 or not bare
    stage.world.run(
        stage.commands.reconcile(nodes[1].inc, session=nodes[1].session, server="server-1")
    )
    assert stage.world.run(("EXISTS", settling)) == 0
    assert other


# --- handlers that ask for other ids ---


def asked_by(stage: Callers, parent: int, id: int, *, timeout_s: float = 5.0) -> bytes:
    """The report of a request by the handler of another id, empty where it is queued."""
    place = address("r", id)
    name = f"{stage.caller.name}-c{stage.number():x}-{place}"
    command = stage.commands.route(
        [Sent(name, place, PLAIN)], timeout_s=timeout_s, parent=address("r", parent)
    )
    told = stage.world.run(command)
    return told[0] if told else b""


def waits(stage: Callers, id: int) -> int:
    found = stage.world.run(("HLEN", f"{stage.world.keys.state}waits:{address('r', id)}"))
    assert isinstance(found, int)
    return found


def test_a_circle_of_those_who_wait_is_refused_however_long(stage: Callers) -> None:
    started(stage)
    assert asked_by(stage, 1, 2) == b""
    assert asked_by(stage, 2, 5) == b""
    report = asked_by(stage, 5, 1)
    assert b"RequestCycle" in report
    assert b'["r:1","r:2","r:5"]' in report
    assert b"RequestCycle" in asked_by(stage, 5, 5)


def test_a_wait_that_is_over_closes_no_circle(stage: Callers) -> None:
    started(stage)
    assert asked_by(stage, 1, 2, timeout_s=0.5) == b""
    stage.world.advance(500)
    assert asked_by(stage, 2, 1) == b""


def test_waits_do_not_pile_up(stage: Callers) -> None:
    started(stage)
    for _ in range(70):
        asked_by(stage, 1, 2, timeout_s=0.1)
        stage.world.advance(10)
    assert waits(stage, 1) <= 65
    left = stage.world.run(("PTTL", f"{stage.world.keys.state}waits:{address('r', 1)}"))
    assert left != -1, "it has an end, or has had it"


def test_a_dead_nodes_runs_wait_for_nobody(stage: Callers) -> None:
    node = started(stage)
    called(stage)
    taken(stage, node)
    asked_by(stage, 1, 2)
    stage.world.run(stage.commands.report_death("a", pid=node.pid, host=HOST))
    assert waits(stage, 1) == 0


# --- what runs on ---


@pytest.mark.parametrize("sent", [(":stuck", ":ended"), (":ended",), (":ended", ":stuck")])
@pytest.mark.parametrize("kind", ["job", "call"])
def test_what_was_stuck_is_answered_once_whichever_word_of_it_arrives(
    stage: Callers, sent: tuple[str, ...], kind: str
) -> None:
    node = started(stage)
    wanted = enqueued(stage) if kind == "job" else called(stage)
    (claim,) = taken(stage, node)
    for outcome in sent:
        stage.look(stage.commands.answer(node.inc, [node.ending(claim, outcome)]))
    assert wanted.heard == [node.word(claim, " late")]
    assert not state(stage, "holders")


def test_what_is_stuck_is_held_though_it_is_answered(stage: Callers) -> None:
    node = started(stage)
    called(stage)
    (claim,) = taken(stage, node)
    for _ in range(2):
        stage.world.run(stage.commands.answer(node.inc, [node.ending(claim, ":stuck")]))
    stage.look()
    assert stage.view.holders == {claim.address: f"{node.inc} 1"}


# --- what is dropped ---


def test_a_drop_is_published_before_its_caller_hears_of_it_and_once(stage: Callers) -> None:
    node = started(stage)
    call = called(stage)
    (claim,) = taken(stage, node)
    stage.world.published()
    for _ in range(2):
        stage.world.run(stage.commands.answer(node.inc, [node.ending(claim, ":dropped")]))
    heard = stage.world.published()
    dropped = stage.world.keys.dropped.encode()
    assert heard[0] == (dropped, call.address.encode())
    reply = stage.world.keys.reply(call.caller).encode()
    assert [channel for channel, _ in heard].count(reply) == 1


# --- builds and protocols ---


def test_a_node_of_another_build_is_told_so_before_it_changes_anything(stage: Callers) -> None:
    other = Commands(stage.world.keys, library.build())
    before = stage.world.dump()
    join = other.join("a", lease_s=1, nonce="x", limits=Limits(9, 9, 9), pid=1, host="h",
                      versions=("3", "3"))  # fmt: skip
    with pytest.raises(OtherBuild):
        other.read_join("a", stage.world.run(join))
    assert stage.world.dump() == before


def test_a_lease_lasts_as_long_as_its_last_beat_says(stage: Callers) -> None:
    started(stage)
    for ms in (LEASE_MS, LEASE_MS // 2):
        stage.world.advance(ms)
        stage.function(stage.commands.survey())
    call = stage.new_order([0])
    stage.send(call)
    assert call.wanted[0].state == "refused"


def test_an_id_claimed_twice_by_one_node_is_held_once(stage: Callers) -> None:
    node = started(stage)
    call = called(stage)
    (claim,) = taken(stage, node)
    again = stage.ask_to_claim(node, [call.id, call.id], session=node.session)
    assert isinstance(again, Claimed)
    assert again.claims == (claim, claim)
    assert stage.view.holders == {claim.address: f"{node.inc} 1"}


def test_a_draining_node_is_given_nothing_new_of_what_it_runs(stage: Callers) -> None:
    """
    1. a runs 1, and drains   2. another call of 1 comes: it waits at a, for nobody else may run it
    3. the run ends: the call is sent on.
    """
    node = started(stage)
    called(stage)
    (claim,) = taken(stage, node)
    started(stage, "n9")
    second = called(stage)
    stage.drain("a")
    node.drained = True
    assert stage.view.owner(second.address) != node.inc
    stage.pop(stage.nodes[1], 9)
    stage.claim(stage.nodes[1], list(stage.nodes[1].taken))
    assert second.id in lying(stage, "a")
    told = stage.ask_to_claim(node, [second.id], session=node.session)
    assert isinstance(told, Claimed)
    assert told.claims[0].what == "gone"
    stage.answer(node, [node.ending(claim)])
    assert second.id in lying(stage, "n9")
