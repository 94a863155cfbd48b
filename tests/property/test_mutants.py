"""The gate's own gate: functions that are broken, one line at a time, must be found out.

Each mutant takes away one thing that the protocol rests on. A mutant that survives means that the
schedules of ``machine`` never come to where it matters, or that nothing there looks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import test_clock_facts as clock
import test_forgotten_facts as forgotten
import test_function_facts as facts
import test_group_facts as group_facts
import test_handoff_facts as handoff
import test_job_facts as jobs
import test_large_answers as large
import test_membership_facts as members
import test_state_facts as states
from callers import Callers
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from ledger import LEASE_MS
from machine import Protocol
from world import Mutation

pytestmark = pytest.mark.slow

SETTINGS = settings(
    max_examples=400,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

# fmt: off
MUTANTS = {
    # who lives
    "a lease lasts a moment longer": Mutation("membership",
        "elseif left_ms <= 0 then", "elseif left_ms < 0 then"),
    "nobody is dropped": Mutation("membership", "drop(dead, true, now, since)", ""),
    "an outage of the server kills all": Mutation("membership",
        "about[2] == '0' and quiet_ms > half_ms", "false"),
    "only those are waited for whose leases are over": Mutation("membership",
        "if left_ms < half_ms and", "if left_ms <= 0 and"),
    "an hour is nobody's grace": Mutation("membership", "(K.gap or not is_long)", "not is_long"),
    "grace has no end": Mutation("membership", "about[2] == '0' and", ""),
    "one silent node has grace too": Mutation("membership",
        "quiet_ms > half_ms and (K.gap", "(K.gap"),
    "join steals a name": Mutation("membership", "if present then", "if false then"),
    "join forgets its nonce": Mutation("membership", "== nonce then", "== '' then"),
    "join leaves the epoch": Mutation("membership", "epoch_changed(1, inc)", ""),
    "join leaves what waits": Mutation("membership", "place_again('', id, moment + i)", ""),
    "a beat renews nothing": Mutation("membership",
        "renew(inc, lease_ms, now)\n  speak_for(lease_ms)\n  call('HSET'",
        "speak_for(lease_ms)\n  call('HSET'"),
    "stats are not their node's": Mutation("membership",
        "string.format('%s %d %s', inc, now, args[12] or '{}')",
        "string.format('%s %d %s', inc, 0, args[12] or '{}')"),
    "a beat tells nothing of what is taken": Mutation("membership",
        "call('ZCARD', K.open .. inc) - call('LLEN', K.queue .. name)", "0"),
    "drain leaves the queue": Mutation("membership", "  empty_queue(present)\n", ""),
    "drain leaves the epoch": Mutation("membership", "    epoch_changed(1)\n", ""),
    "drain leaves what is open where it was": Mutation("membership",
        "call('ZREM', K.open .. inc, id)\n      place_again", "place_again"),
    "a successor is reported dead": Mutation("membership",
        "if known[1] ~= args[4] or known[2] ~= args[5] then return 0 end", ""),
    "a flush is marked nowhere": Mutation("members",
        "for _, inc in ipairs(live()) do call('RPUSH', queue_of(inc), EPOCH_MARK) end", ""),
    "a flush leaves the epoch": Mutation("members", "  call('INCRBY', K.epoch, 1)\n", ""),
    "a flush is of what was claimed later too": Mutation("members",
        "call('ZADD', K.flushed, call('GET', K.token), resource)",
        "call('ZADD', K.flushed, call('GET', K.token) + 1, resource)"),
    "a flush is told to nobody": Mutation("running",
        "call('ZRANGE', K.flushed, 0, -1, 'WITHSCORES')", "{}"),
    "a flush that is said again is another": Mutation("answering",
        "== ':flushed' and call('ZSCORE', K.open .. inc, id) then", "== ':flushed' then"),
    "the epoch rises unmarked": Mutation("members",
        "if inc ~= joined then call('RPUSH', queue_of(inc), EPOCH_MARK) end", ""),

    "what asks about an id passes its holder by": Mutation("routing",
        "asks_about_id(id) and holder_of(address) or owner_of(address)", "owner_of(address)"),

    # what becomes of the dead
    "the dead keep their membership": Mutation("recovery",
        "call('ZREM', K.members, inc) == 1", "false"),
    "a death leaves the epoch": Mutation("recovery",
        "if changes > 0 then epoch_changed(changes) end", ""),
    "a death is marked behind what was its own": Mutation("recovery",
        "  if changes > 0 then epoch_changed(changes) end\n  table.sort(open, function(a, b)"
        " return tonumber(a.moment) < tonumber(b.moment) end)\n"
        "  for i = #open, 1, -1 do\n    if started[open[i].id] then wait_again(open[i].id) end\n"
        "  end\n  send_on(open, since)\n",
        "  table.sort(open, function(a, b)"
        " return tonumber(a.moment) < tonumber(b.moment) end)\n"
        "  for i = #open, 1, -1 do\n    if started[open[i].id] then wait_again(open[i].id) end\n"
        "  end\n  send_on(open, since)\n"
        "  if changes > 0 then epoch_changed(changes) end\n"),
    "the dead keep their holds": Mutation("recovery",
        "seen[address] = true\n      call('HDEL', K.holders, address)\n", "seen[address] = true\n"),
    "the dead keep what was open": Mutation("recovery",
        "      recover(entry)\n", ""),
    "the dead keep their records": Mutation("recovery",
        "call('DEL', K.open .. inc, K.claims .. inc)", ""),
    "the dead keep their queues": Mutation("recovery",
        "    call('DEL', K.queue .. name)\n", ""),
    "recovered in any order": Mutation("recovery",
        "tonumber(a.moment) < tonumber(b.moment)", "tonumber(a.moment) > tonumber(b.moment)"),
    "to leave counts as an attempt": Mutation("recovery",
        "died and tonumber(", "tonumber("),
    "all that a dead node held is blamed": Mutation("recovery",
        "if not seen[address] then", "if true then"),
    "more is blamed than could run": Mutation("recovery", "if lanes > 0 then", "if true then"),
    "attempts are not counted": Mutation("recovery",
        "        count_death(claim.id)\n", ""),
    "a recovered job stays started": Mutation("jobs",
        "  call('HSET', K.job .. id, 'status', 'queued')\n", ""),
    "a recovered job waits nowhere": Mutation("jobs",
        "  call('LPUSH', K.ingress_queue, id)\n", ""),
    "the dead keep their executions": Mutation("recovery",
        "if is_id_of_job(flat[i]) then hide_execution(inc, flat[i], flat[i + 1]) end", ""),
    "a dead node's groups are lost": Mutation("recovery",
        "place_parts_again(entry.inc, id, entry.moment)", ""),

    # where calls go
    "a holder is not asked": Mutation("placement",
        "local inc = holder_of(address) or owner_of(address)\n  if inc",
        "local inc = owner_of(address)\n  if inc"),
    "slots are rounded": Mutation("placement",
        "math.fmod(tonumber(string.match(address, '^%d+')), count)",
        "math.fmod(tonumber(string.format('%.14g', string.match(address, '^%d+'))), count)"),
    "slots of groups are rounded": Mutation("placement",
        "math.fmod(tonumber(string.match(address, '^%d+')), #members) + 1", "1"),
    "one end releases all holds": Mutation("placement", "if count > 1 then", "if false then"),
    "what nobody serves is lost": Mutation("placement",
        "  elseif address_of_call(id) then\n    call('RPUSH', K.waiting, id)\n  end", "  end"),
    "what is queued is not open": Mutation("placement",
        "call('ZADD', keys.open, moment, id)", ""),
    "a group's calls take the place of others": Mutation("placement",
        "before and before .. ' ' .. text or text", "text"),
    "a group waits for nobody": Mutation("placement",
        "if not before then call('RPUSH', K.waiting, group) end", ""),
    "a group's calls stay where they were": Mutation("placement",
        "  call('HDEL', K.job .. group, inc)\n  local places", "  local places"),
    "a group is never gone": Mutation("placement",
        "call('HLEN', job) <= GROUP_FIELDS", "false"),
    "a group is gone too early": Mutation("placement",
        "call('HLEN', job) <= GROUP_FIELDS", "true"),

    # slots
    "slots stay where they were": Mutation("members", "  deal()\n", ""),
    "all slots move": Mutation("slots", "have[of[slot]] or free", "free"),
    "shares are not even": Mutation("slots",
        "more > less or more == less and a < b", "a < b"),
    "hash slots are not mixed": Mutation("slots", "found * FACTOR + ", ""),
    "hash slots of groups are others": Mutation("placement",
        "slots[#slots + 1] = hash_slot_of(args[i])", "slots[#slots + 1] = 1"),
    "a node is told the slots of others": Mutation("slots",
        "if flat[i + 1] == inc then", "if flat[i + 1] ~= inc then"),

    # how calls enter
    "the fence keeps all out": Mutation("routing", "if not again and is_fenced", "if is_fenced"),
    "what is asked again is queued again": Mutation("routing",
        "if again then report = find_known(id, args[i + 3]) end", ""),
    "what is answered is asked again": Mutation("routing",
        "local payload = told_before(id)",
        "local payload = call('GET', K.withdrawn .. id)"),
    "what was lost on its way stays lost": Mutation("routing",
        "    call('RPUSH', queue_of(inc), open)\n", ""),
    "what is queued is queued again": Mutation("routing",
        " and not call('LPOS', queue_of(inc), open)", ""),
    "queues have no end": Mutation("routing",
        "if queued <= limit then return nil end", "if true then return nil end"),
    "a refused request stays queued": Mutation("routing",
        "call('LREM', queue_of(inc), -1, id)", ""),
    "a refused request stays open": Mutation("routing",
        "call('LREM', queue_of(inc), -1, id)\n  call('ZREM', K.open .. inc, id)",
        "call('LREM', queue_of(inc), -1, id)"),
    "a call's hash stays for ever": Mutation("routing",
        "        call('PEXPIRE', job, timeout_ms + KEEP_MS)\n", ""),
    "refused calls of a group are queued": Mutation("routing",
        "    else\n      fields[#fields + 1] = inc",
        "    end\n    do\n      fields[#fields + 1] = inc"),
    "a job does not wait": Mutation("routing",
        "      if not report then call('RPUSH', K.ingress_queue, id) end\n", ""),
    "a job passes what no node has": Mutation("routing",
        "if last and not has_node(last) or are_suspended()", "if are_suspended()"),
    "a job is placed though RQ is suspended": Mutation("routing",
        "not has_node(last) or are_suspended() then", "not has_node(last) then"),
    "a job that runs out has no deadline": Mutation("routing",
        "timeout_ms > 0 and now + timeout_ms or 0", "0"),

    # runs
    "claims ask for no lease": Mutation("running", "if own[1] ~= inc then return { 0 } end", ""),
    "claims ask for no session": Mutation("running",
        "if own[2] ~= session then return { -1 } end", ""),
    "claims do not wait for what others run": Mutation("running",
        "now < settles_at and { -2, settles_at - now } or nil", "nil"),
    "claim serves the dead": Mutation("running",
        "local has_marks = reap(now)\n  local refused = refusal(inc, args[3], now)\n"
        "  if refused then return refused end\n  local claims, count",
        "local has_marks = false\n  local refused = refusal(inc, args[3], now)\n"
        "  if refused then return refused end\n  local claims, count"),
    "claim looks at no deadline": Mutation("running",
        "deadline > 0 and deadline <= now then\n    discard", "false then\n    discard"),
    "claim looks at no target": Mutation("running",
        "if (holder or owner_of(address)) ~= inc or new", "if new"),
    "claim looks at no holder": Mutation("running",
        "(holder or owner_of(address)) ~= inc", "owner_of(address) ~= inc"),
    "what is another's is not sent on": Mutation("running",
        "    place(id, address, moment)\n    return gone(id)", "    return gone(id)"),
    "claim does not count holds": Mutation("running", "inc .. ' ' .. (count + 1)", "inc .. ' 1'"),
    "tokens are given twice": Mutation("running",
        "claim_one(inc, args[7 + i], now, token + i, at, has_marks, starts)",
        "claim_one(inc, args[7 + i], now, token + 1, at, has_marks, starts)"),
    "a job that runs seems to wait": Mutation("jobs", "'status', 'started', 'started_at'",
        "'started_at'"),
    "a job is started that lies nowhere": Mutation("running",
        "    if not take_off(id) then\n", "    take_off(id)\n    if false then\n"),
    "a job is started before its turn": Mutation("running",
        "(holder == inc or starts ~= 'free')", "starts ~= 'free'"),
    "more jobs are started than there is room for": Mutation("running",
        "then room = room - 1 end", "then room = room end"),
    "a job is started though RQ is suspended": Mutation("running",
        "    if are_suspended() then\n", "    if false then\n"),
    "settle does not answer": Mutation("running",
        "if args[8] ~= '' then publish(group, args[8], K.answer .. group .. '/' .. inc) end", ""),
    "a group that is settled stays": Mutation("running",
        "  end_group_here(inc, group, about[1], length)\n", ""),
    "calls of a group are claimed unrecorded": Mutation("running",
        "      call('ZADD', K.open .. inc, moment, id)\n", ""),
    "calls of a group stay for ever": Mutation("running",
        "      call('PEXPIRE', K.job .. id, deadline - now + KEEP_MS)\n", ""),

    # answers
    "a hit answers what is not open": Mutation("answering",
        "if call('ZREM', K.open .. inc, id) == 1 then\n        call('DEL'",
        "if call('ZREM', K.open .. inc, id) >= 0 then\n        call('DEL'"),
    "a hit leaves the call's hash": Mutation("answering",
        "        call('DEL', K.job .. id)\n        publish", "        publish"),
    "a hit is not told": Mutation("answering",
        "        publish(id, args[i + 2], K.answer .. id)\n      end\n      i = i + 3",
        "      end\n      i = i + 3"),
    "an answered call's hash stays": Mutation("answering",
        "if call('DEL', K.job .. id) == 0 and call",
        "if call('EXISTS', K.job .. id) == 0 and call"),
    "an answer is not kept": Mutation("answering",
        "  call('SET', K.answer .. id, payload, 'PX', keep_ms)\n", "",),
    "an answer is kept for ever": Mutation("answering",
        "call('SET', K.answer .. id, payload, 'PX', keep_ms)",
        "call('SET', K.answer .. id, payload)"),
    "an execution stays": Mutation("answering",
        "claim and hide_execution(inc, id, claim)\n", "false\n"),
    "a job ends that lies nowhere": Mutation("answering",
        "status == 'queued' and take_off(id)", "status == 'queued'"),
    "an end releases nothing": Mutation("answering", "      release(address, inc)\n", ""),
    "an end releases what is not claimed": Mutation("answering",
        "call('HDEL', K.claims .. inc, id) == 1", "call('HDEL', K.claims .. inc, id) >= 0"),
    "what expires stays open": Mutation("answering",
        "if call('ZREM', K.open .. inc, id) == 0 then return end\n  if is_job", "if is_job"),
    "a draining node's queue is stuck": Mutation("answering",
        "args[4] == '1' and is_live(inc)", "false"),
    "a group that is answered stays open": Mutation("answering",
        "    call('ZREM', K.open .. inc, group)\n    end_parts", "    end_parts"),
    "a group that is answered stays": Mutation("answering", "    end_parts(inc, group)\n", ""),

    # sessions
    "reconcile opens no session": Mutation("sessions",
        "call('HSET', about, 'session', session)", ""),
    "reconcile revives the dead": Mutation("sessions",
        "if not is_live(inc) then return { 0 } end", ""),
    "what was lost on its way is not queued": Mutation("sessions",
        "  queue_lost(inc, known)\n  return", "  return"),
    "what is known is queued anew": Mutation("sessions", "known[id], runs[id] = true,",
        "known[id], runs[id] = nil,"),
    "what is queued is taken for lost": Mutation("sessions",
        "for _, id in ipairs(call('LRANGE', queue, 0, -1)) do known[id] = true end", ""),
    "another server process changes nothing": Mutation("sessions",
        "(known == server and not bare)", "true"),
    "tokens are not raised": Mutation("sessions", "  raise_tokens(now)\n", ""),
    "one who has spoken speaks for all": Mutation("sessions",
        "~= server then return false", "== false then return false"),
    "all never speak": Mutation("sessions", "    call('DEL', K.settling)\n", ""),
    "the execution of a lost claim stays": Mutation("sessions",
        "    hide_execution(inc, id, claimed)\n", ""),
    "what still runs is not held": Mutation("sessions",
        "call('HSET', K.holders, address, inc .. ' ' .. (count + 1))", ""),
    "what still runs is taken from its holder": Mutation("sessions",
        "if tonumber(number) > tonumber(token) then return false end", ""),

    # callers and other applications
    "withdraw keeps no reason": Mutation("callers",
        "        call('SET', K.withdrawn .. id, payload, 'PX', keep_ms)\n", ""),
    "withdraw knows nothing of groups": Mutation("members",
        "string.find(' ' .. flat[i + 1] .. ' ', part, 1, true)", "false"),
    "two nodes adopt": Mutation("ingress",
        "if has_node(id) or are_suspended() then", "if are_suspended() then"),
    "what waits no more is adopted": Mutation("ingress",
        "if redis.pcall('HGET', job, 'status') ~= 'queued' then", "if false then"),
    "what is adopted goes nowhere": Mutation("ingress",
        "  place(id, address, moment)\n", ""),
    "what lies at the end is not found": Mutation("ingress",
        "  if known(count - 1) then return nil end\n", "  do return nil end\n"),

    # what stateful ids leave
    "an old state is kept in the place of a newer one": Mutation("states",
        "  if token < tonumber(fence or 0) then return 0 end\n", ""),
    "to take a state leaves the fence where it was": Mutation("states",
        "  call('HSET', key, 'token', args[4])\n  if not kept[2]", "  if not kept[2]"),
    "an object holds nothing": Mutation("states",
        "  hold(inc, '~' .. made .. '-' .. address, address, tonumber(made), count)\n", ""),
    "objects are blamed for deaths": Mutation("recovery",
        "if is_of_object(claim.id) then", "if false then"),
}
# fmt: on


def fenced_call(stage: Callers) -> None:
    members.test_what_comes_late_over_a_connection_that_was_given_up_changes_nothing(stage, False)


def mixed(stage: Callers) -> None:
    members.test_a_node_of_another_placement_is_refused_as_long_as_there_are_members(
        stage, "modulo", "slots"
    )


def fenced_group(stage: Callers) -> None:
    members.test_what_comes_late_over_a_connection_that_was_given_up_changes_nothing(stage, True)


def replaced(stage: Callers) -> None:
    clock.test_a_dead_nodes_lease_is_no_longer_for_a_clock_that_was_set_back(stage, True)


def short_step(stage: Callers) -> None:
    by_ms = LEASE_MS * 6 // 10
    clock.test_no_node_that_lives_is_dropped_for_a_clock_that_is_set_forward(stage, by_ms)


def on_trial(stage: Callers) -> None:
    clock.test_callers_of_a_cluster_that_is_dead_for_long_are_told_so_after_half_a_lease(
        stage, False
    )


def group_on_trial(stage: Callers) -> None:
    clock.test_callers_of_a_cluster_that_is_dead_for_long_are_told_so_after_half_a_lease(
        stage, True
    )


def told_again(stage: Callers) -> None:
    large.test_who_asks_again_is_told_where_answers_lie_once_a_mebibyte_is_unread(
        stage, "one by one"
    )


def open_elsewhere(stage: Callers) -> None:
    forgotten.test_a_death_counts_though_what_it_ran_is_open_elsewhere(stage, False)


def moved_job(stage: Callers) -> None:
    forgotten.test_what_has_moved_since_is_ended_or_sent_on_by_who_runs_it(stage, "job", "ends")


def expired(stage: Callers) -> None:
    clock.test_a_run_is_answered_though_its_hash_has_expired_while_it_ran(stage, False)


def group_again(stage: Callers) -> None:
    group_facts.test_an_answer_to_a_group_that_arrives_twice_ends_nothing_that_came_since(
        stage, "many"
    )


# What schedules seldom come to is found out by a fact.
# fmt: off
BY_FACTS: dict[str, tuple[Callable[[Callers], None], Mutation]] = {
    "settle runs what was withdrawn": (
        group_facts.test_a_withdrawn_call_of_a_group_is_not_run_and_its_reason_stays,
        Mutation("running",
        "call('EXISTS', K.withdrawn .. id) == 0", "true")),
    "settle looks at no deadline": (
        group_facts.test_calls_of_a_group_past_their_deadline_are_not_run,
        Mutation("running", "if deadline > now and", "if")),
    "answers count though nothing is open": (
        facts.test_a_paused_nodes_late_answer_changes_nothing,
        Mutation("answering",
        "if call('ZREM', K.open .. inc, id) == 0 then return end\n  -- Its hash",
        "call('ZREM', K.open .. inc, id)\n  -- Its hash")),
    "what is not open is run": (
        facts.test_a_claim_of_what_is_open_elsewhere_changes_nothing,
        Mutation("running",
        "if not moment then return stray(id) end", "moment = moment or 1")),
    "a killer is enqueued again": (
        facts.test_what_kills_nodes_is_not_enqueued_until_a_minute_has_passed,
        Mutation("routing", "has_marks and killer(address, now)", "nil")),
    "a run that ends clears nobody": (
        facts.test_a_run_that_ends_clears_an_id_that_nodes_have_died_on,
        Mutation("answering", "call('HDEL', K.suspects, address)", "")),
    "a group is answered again": (
        group_again,
        Mutation("answering",
        "if text and begins_with(text, length, args[i + 2]) then", "if text then")),
    "a group is queued for each of its calls": (
        group_facts.test_what_comes_to_a_group_while_it_is_answered_is_queued_and_answered_later,
        Mutation("placement",
        "elseif not before then", "else")),
    "attempts have no end": (
        facts.test_other_calls_of_an_id_that_kills_nodes_are_not_run_either,
        Mutation("suspects", "tonumber(deaths) < MAX_ATTEMPTS", "true")),
    "a killer goes on": (
        facts.test_other_calls_of_an_id_that_kills_nodes_are_not_run_either,
        Mutation("running", "has_marks and killer(address, now)", "nil")),
    "what has ended since holds": (
        facts.test_what_a_server_has_forgotten_the_end_of_is_taken_over_by_who_runs_it,
        Mutation("sessions",
        "if not is_outdated(holder, address, token) then return end", "do return end")),
    "a death counts where it is open alone": (
        open_elsewhere,
        Mutation("recovery",
        "if status == 'queued' or", "if not has_node(id) and status == 'queued' or")),
    "what is held again stays open elsewhere": (
        moved_job,
        Mutation("sessions", "  open_again(inc, id, address, now, moment)\n", "")),
    "a job that is held again is open nowhere": (
        forgotten.test_a_job_that_lay_in_the_list_is_ended_by_who_runs_it,
        Mutation("sessions", "  call('ZADD', K.open .. inc, moment, id)\n", "")),
    "a job whose end was forgotten stays started": (
        forgotten.test_a_job_whose_end_is_forgotten_waits_when_another_runs_its_id,
        Mutation("sessions", "    wait_again(id)\n", "")),
    "what comes to a group is not queued": (
        group_facts.test_what_comes_to_a_group_while_it_is_answered_is_queued_and_answered_later,
        Mutation("answering",
        "    call('RPUSH', queue_of(inc), group)\n", "")),
    "an older session comes back": (
        facts.test_a_reconciliation_that_comes_late_holds_nothing,
        Mutation("sessions",
        "if session < tonumber(call('HGET', about, 'session')) then return { -1 } end", "")),
    "join again renews nothing": (
        members.test_a_join_sent_again_renews_the_lease_and_changes_nothing_else,
        Mutation("membership",
        "renew(present, lease_ms, now)", "")),
    "a beat revives the dead": (
        members.test_a_beat_of_a_node_that_was_dropped_revives_nothing,
        Mutation("membership",
        "if not is_live(inc) then return { 0 } end\n  local name", "local name")),
    "a late drain takes the successor out": (
        members.test_a_late_drain_leaves_the_successor_alone,
        Mutation("membership",
        "(inc ~= '' and inc ~= present)", "false")),
    "a late leave takes the successor out": (
        members.test_a_late_leave_leaves_the_successor_alone,
        Mutation("membership",
        "elseif inc ~= present then", "elseif false then")),
    "an incarnation comes again": (
        members.test_an_incarnation_is_new_though_the_server_has_forgotten_some,
        Mutation("membership", "  raise_tokens(now) --", "  --")),
    "any placement is let in": (
        mixed,
        Mutation("membership",
        "if call('ZCARD', K.members) > call('ZCOUNT', K.members, score, score) then",
        "if false then")),
    "those that drain keep another placement out": (
        members.test_one_that_drains_owns_nothing_so_that_others_may_have_another_placement,
        Mutation("membership",
        "call('ZCARD', K.members) > call('ZCOUNT', K.members, score, score)",
        "call('ZCARD', K.leases) > call('ZCOUNT', K.members, score, score)")),
    "slots outlive their members": (
        members.test_nothing_is_left_of_slots_when_the_last_member_has_gone,
        Mutation("slots", "    call('DEL', K.slots)\n", "")),
    "groups are let through a fence": (
        fenced_group,
        Mutation("routing",
        "if is_fenced(reap(now), group) then return nil end", "reap(now)")),
    "the fence is not looked at": (
        fenced_call,
        Mutation("routing",
        "if not again and is_fenced(has_marks, args[6]) then return nil end", "")),
    "a fence is not marked": (
        fenced_call,
        Mutation("callers", "call('ZADD', K.leases, 0, MARK)", "")),
    "a claim repeated counts twice": (
        facts.test_an_id_claimed_twice_by_one_node_is_held_once,
        Mutation("running",
        "string.format('%d %s', token, address)) == 1 then",
        "string.format('%d %s', token, address)) >= 0 then")),
    "a draining node is given more": (
        facts.test_a_draining_node_is_given_nothing_new_of_what_it_runs,
        Mutation("running", " or new and not is_member(inc)", "")),
    "what is stuck is released": (
        facts.test_what_is_stuck_is_held_though_it_is_answered,
        Mutation("answering", "outcome ~= ':stuck'", "true")),
    "what comes to a group while it is answered is lost": (
        group_facts.test_what_comes_to_a_group_while_it_is_answered_is_queued_and_answered_later,
        Mutation("answering",
        "  if #text > length then", "  if false then")),
    "withdraw leaves what is open": (
        members.test_what_is_withdrawn_of_a_silent_node_is_open_there_no_more,
        Mutation("callers",
        "        if inc and inc ~= '' then call('ZREM', K.open .. inc, id) end\n", "")),
    "claim looks at no status": (
        jobs.test_a_job_that_was_cancelled_is_not_run,
        Mutation("running",
        "or is_job and status ~= 'queued' and status ~= 'started' then", "then")),
    "a job is enqueued twice": (
        jobs.test_a_job_that_is_enqueued_twice_is_queued_once,
        Mutation("routing",
        "elseif call('EXISTS', job, K.results .. id) == 0 then", "else")),
    "withdraw takes what beats": (
        members.test_nothing_is_withdrawn_of_a_node_that_was_silent_for_less_than_half_its_lease,
        Mutation("callers",
            "silent_ms > tonumber(about[1]) / 2 and silent_ms or nil", "silent_ms")),
    "jobs are concluded twice": (
        jobs.test_a_late_end_of_a_job_that_another_node_runs_by_now_changes_nothing,
        Mutation("answering",
        "if call('ZREM', K.open .. inc, id) == 0 then return end\n    local how",
        "call('ZREM', K.open .. inc, id)\n    local how")),
    "withdraw takes back what is answered": (
        members.test_a_withdrawal_of_what_is_answered_is_told_the_answer,
        Mutation("callers",
        "told_before(id)", "call('GET', K.withdrawn .. id)")),
    "a lost claim is held": (
        facts.test_a_claim_whose_reply_was_lost_is_released_and_given_again,
        Mutation("sessions", "  release_lost(inc, runs)\n", "")),
    "a lost claim is released in part": (
        facts.test_a_claim_whose_reply_was_lost_is_released_and_given_again,
        Mutation("sessions",
        "  release(string.match(claimed, ' (.*)$'), inc)\n", "")),
    "time runs back": (
        clock.test_the_last_node_that_dies_is_known_to_be_dead_though_the_clock_was_set_back,
        Mutation("clock", "  if ms + K.ahead < before then K.ahead = before - ms end\n", "")),
    "time stands still once it has run back": (
        clock.test_a_request_is_not_run_after_its_time_though_the_clock_was_set_back,
        Mutation("clock",
        "if ms + K.ahead < before then K.ahead = before - ms end\n  local now = ms + K.ahead",
        "local now = math.max(ms, before)")),
    "another process begins its time anew": (
        replaced,
        Mutation("clock", "tonumber(call('GET', K.pulse) or 0), 0 end", "0, 0 end")),
    "the order of calls runs back": (
        clock.test_requests_keep_their_order_through_a_clock_that_is_set_back,
        Mutation("clock", "micros + K.ahead * 1000", "micros")),
    "rq reads another clock than its own": (
        clock.test_what_rq_reads_is_by_the_servers_own_clock,
        Mutation("answering", "server_time() / 1000", "clock() / 1000")),
    "rq's scheduled jobs are due by another clock": (
        clock.test_what_rq_has_scheduled_is_due_by_the_servers_own_clock,
        Mutation("jobs", "local now_s = math.floor(server_time() / 1000)",
        "local now_s = math.floor(clock() / 1000)")),
    "a step that leaves too little is not noticed": (
        short_step,
        Mutation("membership",
        "  if K.gap and K.half and K.gap > K.half then return reap_late(now, '+inf') end\n", "")),
    "a new process waits for those who are long dead": (
        clock.test_after_a_silence_that_another_process_has_slept_through_nobody_is_waited_for,
        Mutation("membership", "(K.gap or not is_long)", "true")),
    "nobody is ever on trial": (
        on_trial,
        Mutation("membership", "is_long and now or 1", "1")),
    "callers of the dead are told nothing": (
        on_trial,
        Mutation("recovery", "    call('DEL', K.job .. id)\n    tell(id)\n", "")),
    "callers of the dead are told nothing of a group": (
        group_on_trial,
        Mutation("recovery",
        "      tell(string.gsub(id, '-g', '-c', 1) .. '_' .. places[i] .. '-' .. address)\n", "")),
    "what was asked before a silence is refused": (
        clock.test_what_was_asked_before_a_long_silence_waits_for_a_node,
        Mutation("recovery", "tonumber(entry.moment) >= since * 1000 and", "")),
    "what another node could serve is refused": (
        clock.test_callers_after_a_long_silence_are_served_by_whoever_is_left,
        Mutation("recovery", "since and call('ZCARD', K.members) == 0", "since")),
    "jobs of the dead are refused": (
        clock.test_jobs_of_a_cluster_that_is_dead_for_long_wait_for_a_node,
        Mutation("recovery", " and not is_id_of_job(entry.id) then", " then")),
    "a run whose hash has expired is not answered": (
        expired,
        Mutation("answering",
        " and call('EXISTS', K.withdrawn .. id) == 1 then return end", " then return end")),
    "another protocol is spoken for ever": (
        clock.test_a_protocol_whose_lease_is_too_far_off_is_in_nobodys_way,
        Mutation("membership", "local last = now + LONGEST_MS", "local last = '+inf'")),
    "this protocol is spoken too long": (
        clock.test_how_long_a_protocol_is_spoken_is_said_by_the_servers_own_clock,
        Mutation("membership", " or known > now + LONGEST_MS then", " then")),
    "how long this protocol is spoken is by a clock of its own": (
        clock.test_how_long_a_protocol_is_spoken_is_said_by_the_servers_own_clock,
        Mutation("membership",
        "  local now = server_time()\n  local known", "  local now = clock()\n  local known")),
    "what is pushed has no end": (
        large.test_no_more_than_a_mebibyte_is_pushed_to_who_does_not_ask,
        Mutation("pushing", " or after > UNREAD then", " then")),
    "who asks has read nothing": (
        large.test_no_more_than_a_mebibyte_is_pushed_to_who_does_not_ask,
        Mutation("pushing", "if caller and K.unread[caller] then K.unread[caller] = 0 end", "")),
    "who asks for a group has read nothing": (
        large.test_who_asks_for_a_group_has_read_too,
        Mutation("routing", "  has_read(group)\n", "")),
    "what is small is told of": (
        large.test_what_is_small_is_always_pushed,
        Mutation("pushing", "  if bytes <= SHORT then return true end\n", "")),
    "all callers ever are remembered": (
        large.test_what_was_pushed_to_callers_who_are_gone_is_not_remembered_for_ever,
        Mutation("pushing", "if K.unread_of == 1000 then", "if false then")),
    "large answers are pushed": (
        large.test_an_answer_above_64_kib_is_told_of_and_kept_as_long_as_any_other,
        Mutation("pushing", "if bytes > BIG or after", "if after")),
    "a large hit lies nowhere": (
        large.test_a_large_hit_is_kept_for_its_caller_to_fetch,
        Mutation("answering", "if not lies then", "if lies then")),
    "a large answer of a run is kept too short": (
        large.test_an_answer_above_64_kib_is_told_of_and_kept_as_long_as_any_other,
        Mutation("answering", "if not lies then", "if true then")),
    "who asks again is told large answers": (
        told_again,
        Mutation("pushing", "if may_push(string.match(id, '^r%x+'), bytes) then return",
        "if true then return")),
    "who asks again has read": (
        told_again,
        Mutation("routing", "if not again then has_read", "if true then has_read")),
    "cancelled jobs come back": (
        jobs.test_a_job_that_was_cancelled_while_it_ran_is_not_recovered,
        Mutation("recovery",
        "    if fields[1] ~= 'queued' then return end\n", "")),
    "cancelled jobs end": (
        jobs.test_an_end_of_a_job_that_was_cancelled_while_it_ran_is_not_kept,
        Mutation("answering", "return status == 'started' or", "return status or")),
    "a job enqueued at the front goes behind": (
        jobs.test_what_is_enqueued_at_the_front_is_adopted_last_first,
        Mutation("ingress", "      found[1] = 'front'\n", "")),
    "a retry has no end": (
        jobs.test_a_job_that_fails_is_tried_again_at_once_and_keeps_no_failure,
        Mutation("jobs", "'retries_left', left - 1", "'retries_left', left")),
    "what is stopped is tried again": (
        jobs.test_what_is_stopped_or_kills_nodes_is_not_tried_again,
        Mutation("answering", "if not (ok or stopped or is_lost", "if not (ok or is_lost")),
    "what kills nodes is tried again": (
        jobs.test_what_is_stopped_or_kills_nodes_is_not_tried_again,
        Mutation("answering", "or stopped or is_lost or", "or stopped or")),
    "a job that repeats expires": (
        jobs.test_a_job_repeats_with_its_result_kept_and_itself_for_longer,
        Mutation("answering", "    keys[3] = nil\n", "")),
    "what is scheduled is enqueued at once": (
        jobs.test_what_is_scheduled_is_enqueued_when_its_time_has_come_and_no_sooner,
        Mutation("jobs", "now_s, 'LIMIT'", "'+inf', 'LIMIT'")),
    "a state is taken from a later run": (
        states.test_what_a_later_run_has_taken_is_not_taken_by_an_older_one,
        Mutation("states", "  if token < tonumber(kept[1] or 0) then return { 0 } end\n", "")),
    "the dead take states": (
        states.test_the_dead_are_given_no_state,
        Mutation("states", "not is_live(inc) or holder and holder ~= inc then return { 0 }",
            "holder and holder ~= inc then return { 0 }")),
    "a state is taken though another holds its id": (
        states.test_a_state_is_not_taken_while_another_holds_its_id,
        Mutation("states", "not is_live(inc) or holder and holder ~= inc then return { 0 }",
            "not is_live(inc) then return { 0 }")),
    "the dead keep what is forgotten": (
        states.test_where_the_fence_is_forgotten_the_dead_keep_nothing,
        Mutation("states",
            "if not fence and (not is_live(inc) or (holder_of(address) or inc) ~= inc)",
            "if false")),
    "a fence stays for ever": (
        states.test_a_fence_alone_has_its_time_and_a_state_has_none,
        Mutation("states", "if not kept[2] then call('PEXPIRE', key, FENCE_MS) end", "")),
    "a state has its time": (
        states.test_a_fence_alone_has_its_time_and_a_state_has_none,
        Mutation("states", "    call('PERSIST', key)\n", "")),
    "the dead keep what they have published": (
        members.test_stats_are_gone_with_their_node,
        Mutation("recovery", ", K.stats .. name)", ")")),
    "a node has its predecessor's stats": (
        members.test_stats_of_a_predecessor_are_not_those_of_a_node,
        Mutation("reading", "if published_by == inc then", "if json then")),
    "what is published stays for ever": (
        members.test_stats_that_nobody_renews_go_by_themselves,
        Mutation("membership", ", 'PX', lease_ms + 60000)", ")")),
    "a claim does not say how long it was queued": (
        members.test_a_claim_says_how_long_a_call_was_queued,
        Mutation("running", "math.max(0, now - math.floor(moment / 1000))", "0")),
    "what moved in another epoch is given": (
        handoff.test_what_is_given_in_another_epoch_is_given_to_nobody,
        Mutation("handoff", "if epoch() ~= tonumber(at) then return { -3 } end", "")),
    "what is held is given": (
        handoff.test_nothing_of_an_id_is_given_that_anyone_runs,
        Mutation("handoff", "and not holder_of(args[i])", "")),
    "an older session gives": (
        handoff.test_what_an_older_session_gives_is_given_to_nobody,
        Mutation("handoff", "  if refused then return refused end\n", "")),
    "what lies ready has no end": (
        handoff.test_what_lies_ready_goes_after_ten_seconds,
        Mutation("handoff", "call('PEXPIRE', K.entries .. owner, HANDED_MS)", "")),
    "any number lies ready": (
        handoff.test_no_more_than_sixty_four_packets_lie_ready_for_a_node,
        Mutation("handoff", ">= MOST_PACKETS", ">= 1000")),
    "what is given is marked nowhere": (
        handoff.test_the_owner_finds_a_mark_in_its_queue,
        Mutation("handoff", "call('RPUSH', queue_of(owner), EPOCH_MARK)", "")),
    "all nodes carry": (
        jobs.test_one_node_looks_into_arrivals_at_a_time,
        Mutation("ingress", "if carrier and carrier ~= inc and now", "if false and now")),
}
# fmt: on

FOUND_AT_ONCE = {
    "nobody is dropped",
    "the dead keep their holds",
    "the dead keep what was open",
    "what is asked again is queued again",
    "what is queued is not open",
    "what was lost on its way stays lost",
    "queues have no end",
    "the fence keeps all out",
    "tokens are given twice",
    "an end releases nothing",
    "reconcile opens no session",
    "what still runs is not held",
    "slots stay where they were",
}
"""Those without which nothing could be relied on, each found by one of the first schedules: these
are tried in every run of the tests."""


def _mutants() -> list[Any]:
    assert set(MUTANTS) > FOUND_AT_ONCE
    return [
        pytest.param(
            mutation, id=name, marks=() if name in FOUND_AT_ONCE else pytest.mark.exhaustive
        )
        for name, mutation in MUTANTS.items()
    ]


@pytest.mark.timeout(240)  # some are found out by the last of the schedules
@pytest.mark.parametrize("mutation", _mutants())
def test_a_broken_function_is_found_out(url: str, mutation: Mutation) -> None:
    machine = type("Mutant", (Protocol,), {"url": url, "mutation": mutation})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=SETTINGS)


@pytest.mark.parametrize(("fact", "mutation"), BY_FACTS.values(), ids=BY_FACTS)
def test_a_broken_function_fails_a_fact(
    url: str, fact: Callable[[Callers], None], mutation: Mutation
) -> None:
    stage = Callers(url, mutation)
    try:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            fact(stage)
    finally:
        stage.world.close()
