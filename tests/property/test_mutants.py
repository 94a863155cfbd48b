"""The gate's own gate: scripts that are broken, one line at a time, must be found out.

Each mutant takes away one thing that the protocol rests on. A mutant that survives means that the
schedules of ``machine`` never come to where it matters, or that nothing there looks.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from machine import Protocol
from world import Mutation

SETTINGS = settings(
    max_examples=800,
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
    "a holder is not asked": Mutation("lib",
        "return inc and name_of(inc) or owner_of(address), count",
        "return owner_of(address), count"),
    "slots are rounded": Mutation("lib",
        "tonumber(string.match(address, '^%d+'))",
        "tonumber(string.format('%.14g', tonumber(string.match(address, '^%d+'))))"),
    "one finish releases all holds": Mutation("lib", "if count > 1 then", "if false then"),
    "what nobody serves is lost": Mutation("lib",
        "call('RPUSH', name and QUEUE .. name or WAITING, id)",
        "if name then call('RPUSH', QUEUE .. name, id) end"),
    "a list is copied, not moved": Mutation("lib", "call('DEL', list)", ""),
    "foreign jobs in a node's queue are lost": Mutation("lib",
        "elseif call('EXISTS', JOB .. id) == 1 then", "elseif false then"),
    "the dead keep their holds": Mutation("lib",
        "call('HDEL', HOLDERS, address)\n      local waited", "local waited"),
    "the dead keep what they took": Mutation("lib",
        "recover(request.id, request.address, request.ran)", ""),
    "the dead keep their queues": Mutation("lib", "place_all_again(QUEUE .. name_of(inc))", ""),
    "the dead keep their membership": Mutation("lib",
        "if call('ZREM', MEMBERS, name) == 1 then call('INCR', EPOCH) end", ""),
    "a death leaves the epoch": Mutation("lib",
        "if call('ZREM', MEMBERS, name) == 1 then call('INCR', EPOCH) end",
        "call('ZREM', MEMBERS, name)"),
    "attempts have no end": Mutation("lib",
        "if ran and lost >= MAX_ATTEMPTS then", "if false then"),
    "attempts end early": Mutation("lib",
        "if ran and lost >= MAX_ATTEMPTS then", "if ran and lost >= MAX_ATTEMPTS - 1 then"),
    "to leave counts as an attempt": Mutation("lib",
        "died and tonumber(call('HGET', NODE .. name_of(inc), 'lanes') or 0) or 0",
        "tonumber(call('HGET', NODE .. name_of(inc), 'lanes') or 0)"),
    "all that a dead node held is blamed": Mutation("lib",
        "if not seen[address] then", "if true then"),
    "more is blamed than could run": Mutation("lib", "if lanes > 0 then", "if true then"),
    "a killer goes on": Mutation("take", "suspects and killer(address, now)", "nil"),
    "a killer is asked for again": Mutation("route", "suspects and killer(address, now)", "nil"),
    "a run that ends clears nobody": Mutation("finish", "call('HDEL', SUSPECTS, address)", ""),
    "an outage of the server kills all": Mutation("lib",
        "about[2] == '0' and quiet_ms > half_ms", "false"),
    "grace has no end": Mutation("lib", "about[2] == '0' and", ""),
    "one silent node has grace too": Mutation("lib",
        "and quiet_ms > half_ms and late_ms", "and late_ms"),
    "another server process changes nothing": Mutation("reconcile",
        "known == server then return end", "true then return end"),
    "takes do not wait for what others run": Mutation("take",
        "if now < settles_at then", "if false then"),
    "one who has spoken speaks for all": Mutation("reconcile",
        "~= server then return false", "== false then return false"),
    "what still runs is not held": Mutation("reconcile",
        "call('HSET', HOLDERS, address, inc .. ' ' .. (count + 1))", ""),
    "what still runs is taken from its holder": Mutation("reconcile",
        "if holder and holder ~= inc then return end", ""),
    "cancelled jobs come back": Mutation("lib",
        "if fields[1] ~= 'started' and fields[1] ~= 'queued' then return end", ""),
    "a recovered job stays started": Mutation("lib",
        "call('HSET', JOB .. id, 'status', 'queued')", ""),
    "a lease lasts a moment longer": Mutation("lib", "'-inf', now)", "'-inf', now - 1)"),
    "an answered call's job stays": Mutation("lib",
        "kind == 'call' and 'DEL' or 'EXISTS'", "'EXISTS'"),
    "an answer stays for ever": Mutation("lib",
        "call('PEXPIRE', RESULTS .. reply, keep_ms)", ""),
    "join steals a name": Mutation("join", "if present then", "if false then"),
    "join forgets its nonce": Mutation("join", "== nonce then", "== '' then"),
    "join again renews nothing": Mutation("join",
        "call('ZADD', LEASES, now + lease_ms, present)", ""),
    "join leaves the epoch": Mutation("join",
        "local joined = call('INCR', EPOCH)", "local joined = epoch()"),
    "join leaves what waits": Mutation("join", "place_all_again(WAITING)", ""),
    "a beat revives the dead": Mutation("beat", "if not is_live(inc) then return { 0 } end", ""),
    "a beat renews nothing": Mutation("beat", "call('ZADD', LEASES, now + lease_ms, inc)", ""),
    "route serves the dead": Mutation("route", "\nreap(now)", ""),
    "route queues a job twice": Mutation("route", "if known > 0 then return '' end", ""),
    "route asks again what is answered": Mutation("route",
        "call('EXISTS', JOB .. id, RESULTS .. id)", "call('EXISTS', JOB .. id)"),
    "route asks many again": Mutation("route", "answered and '' or submit", "submit"),
    "queues have no end": Mutation("route", "if queued <= limit then", "if true then"),
    "a refused request stays queued": Mutation("route", "call('RPOP', QUEUE .. name)", ""),
    "take serves the dead": Mutation("take", "\nreap(now)", ""),
    "take asks for no lease": Mutation("take", "if own[1] ~= inc then return { 0 } end", ""),
    "take asks for no session": Mutation("take", "if own[2] ~= session then return { -1 } end", ""),
    "a draining node takes": Mutation("take", "not own[3] and ", ""),
    "take looks at no target": Mutation("take", "if target ~= name then", "if false then"),
    "take looks at no deadline": Mutation("take",
        "if deadline > 0 and deadline <= now then", "if false then"),
    "take looks at no status": Mutation("take", " or job[2] ~= 'queued'", ""),
    "take does not count holds": Mutation("take", "inc .. ' ' .. (held + 1)", "inc .. ' 1'"),
    "take keeps the token": Mutation("take", "token = token + 1", ""),
    "finish asks for no hold": Mutation("finish",
        "call('HDEL', TAKEN .. inc, id) == 1", "call('HDEL', TAKEN .. inc, id) >= 0"),
    "finish releases nothing": Mutation("finish", "\n    release(address, inc)", ""),
    "a draining node's queue is stuck": Mutation("finish",
        "ARGV[3] == '1' and is_live(inc)", "false"),
    "drain leaves the queue": Mutation("drain", "place_all_again(QUEUE .. name)", ""),
    "drain leaves the epoch": Mutation("drain", "call('INCR', EPOCH)", ""),
    "a late drain takes the successor out": Mutation("drain",
        "inc ~= '' and inc ~= present", "false"),
    "reconcile opens no session": Mutation("reconcile",
        "call('HSET', about, 'session', session)", ""),
    "reconcile tells no members": Mutation("reconcile",
        "call('ZRANGE', MEMBERS, 0, -1), jobs", "{}, jobs"),
    "two porters adopt": Mutation("adopt", "== 0 then return 0 end", "== -1 then return 0 end"),
    "what runs is adopted again": Mutation("adopt",
        "if status ~= 'queued' then return 0 end", "if not status then return 0 end"),
    "a successor is reported dead": Mutation("leave",
        "if known[1] ~= ARGV[3] or known[2] ~= ARGV[4] then return 0 end", ""),
    "a late leave takes the successor out": Mutation("leave", "elseif inc ~= present then",
        "elseif false then"),
}
# fmt: on


@pytest.mark.parametrize("mutation", MUTANTS.values(), ids=MUTANTS)
def test_a_broken_script_is_found_out(url: str, mutation: Mutation) -> None:
    machine = type("Mutant", (Protocol,), {"url": url, "mutation": mutation})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=SETTINGS)
