-- Renews a node's lease.
--
-- ARGV  1 incarnation  2 lease in ms  3 entries  4 hits  5 joined  6 misses
--       7 succeeded  8 failed  9 stuck  10 time as RQ writes it
-- returns {1, epoch, 'member' | 'draining'}
--         {0}    this incarnation has no lease: forget all entries, join anew
local inc, lease_ms = ARGV[1], tonumber(ARGV[2])
local now = now_ms()
reap(now)
if not is_live(inc) then return { 0 } end
local name = name_of(inc)
-- A server that is out of memory refuses ZADD, but not in a script that has written already.
call('ZREM', LEASES, inc)
call('ZADD', LEASES, now + lease_ms, inc)
call('SET', PULSE, now)
call('HSET', NODE .. name, 'grace', 0, 'entries', ARGV[3], 'hits', ARGV[4], 'joined', ARGV[5],
  'misses', ARGV[6], 'stuck', ARGV[9])
local worker = WORKER .. name
call('HSET', worker, 'last_heartbeat', ARGV[10], 'successful_job_count', ARGV[7],
  'failed_job_count', ARGV[8], 'state', call('EXISTS', TAKEN .. inc) == 1 and 'busy' or 'idle')
call('PEXPIRE', worker, lease_ms + 60000)
return { 1, epoch(), is_member(name) and 'member' or 'draining' }
