-- Makes a process a member: a new incarnation, in members and leases, epoch + 1.
--
-- ARGV  1 name  2 lease in ms  3 nonce of this process  4 max queue  5 max waiters  6 lanes
--       7 pid  8 host  9 time as RQ writes it  10 RQ version  11 Python version
-- returns {1, incarnation, epoch}
--         {0, lease left in ms}     a node of this name is alive
--
-- Repeated with the same nonce it answers as before and renews the lease: the caller lost the first
-- reply.
local name, lease_ms, nonce = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = now_ms()
reap(now)
local present = call('HGET', NODES, name)
if present then
  if call('HGET', NODE .. name, 'nonce') == nonce then
    call('ZADD', LEASES, now + lease_ms, present)
    call('SET', PULSE, now)
    call('HSET', NODE .. name, 'grace', 0)
    return { 1, present, epoch() }
  end
  return { 0, tonumber(call('ZSCORE', LEASES, present)) - now }
end

if call('EXISTS', TOKEN) == 0 then raise_tokens(now) end
local inc = string.format('%s@%d', name, call('INCR', TOKEN))
call('SET', PULSE, now)
call('ZADD', LEASES, now + lease_ms, inc)
call('ZADD', MEMBERS, 0, name)
call('HSET', NODES, name, inc)
call('HSET', NODE .. name, 'inc', inc, 'nonce', nonce, 'lease', lease_ms, 'grace', 0,
  'max_queue', ARGV[4], 'max_waiters', ARGV[5], 'lanes', ARGV[6], 'pid', ARGV[7], 'host', ARGV[8],
  'session', 0, 'stuck', 0, 'entries', 0, 'hits', 0, 'joined', 0, 'misses', 0)
local joined = call('INCR', EPOCH)

local worker = WORKER .. name
call('SADD', RQ .. 'queues', RQ .. 'queue:' .. INGRESS, QUEUE .. name)
call('SADD', RQ .. 'workers', worker)
call('SADD', RQ .. 'workers:' .. NAMES .. name, worker)
call('SADD', RQ .. 'workers:' .. INGRESS, worker)
call('HSET', worker, 'birth', ARGV[9], 'last_heartbeat', ARGV[9], 'queues',
  NAMES .. name .. ',' .. INGRESS, 'pid', ARGV[7], 'hostname', ARGV[8], 'ip_address', '',
  'version', ARGV[10], 'python_version', ARGV[11], 'state', 'idle')
call('PEXPIRE', worker, lease_ms + 60000)

place_all_again(WAITING, '')
return { 1, inc, joined }
