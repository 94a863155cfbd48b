-- Leases, and the functions that nodes keep their membership with.

-- Drops every node whose lease has run out. Functions that decide who serves begin with it. Returns
-- whether route must look closer, see MARK.
--
-- Where nobody has beaten for long, it was the server that was out (paused, restarted, cut off, its
-- clock set forward), not the nodes: each then has half a lease from now, once, to say that it lives.
-- What it runs is still its own in that time.
--
-- Whose lease ended more than half a minute ago will not say so any more, if that was told to another
-- process of the server. This one cannot tell an hour of silence from a clock that was set forward by
-- one: those nodes are on trial, see drop.
--
--   last  only those are looked at whose leases end by then
local function reap_late(now, last)
  local quiet_ms = now - tonumber(call('GET', K.pulse) or 0)
  local dead, marked, since = {}, false, nil
  for _, inc in ipairs(call('ZRANGEBYSCORE', K.leases, '-inf', last)) do
    if inc == MARK then
      marked = call('EXISTS', K.suspects, K.fences) > 0
      if not marked then call('ZREM', K.leases, MARK) end
    else
      local about = call('HMGET', K.node .. name_of(inc), 'lease', 'grace')
      local half_ms = math.floor(tonumber(about[1] or 0) / 2)
      local left_ms = tonumber(call('ZSCORE', K.leases, inc)) - now
      local is_long = left_ms <= -30000
      if left_ms < half_ms and about[2] == '0' and quiet_ms > half_ms and (K.gap or not is_long) then
        call('HSET', K.node .. name_of(inc), 'grace', is_long and now or 1)
        call('ZADD', K.leases, now + half_ms, inc)
      elseif left_ms <= 0 then
        dead[#dead + 1] = inc
        since = tonumber(about[2] or 0) > 1 and tonumber(about[2]) or since
      end
    end
  end
  if #dead > 0 then
    drop(dead, true, now, since)
    marked = marked or call('EXISTS', K.suspects) == 1
    if marked then call('ZADD', K.leases, 0, MARK) end
  end
  return marked
end

-- After a gap that no node that lives leaves, not only those are looked at whose leases are over: a
-- clock set forward may have left of others too little for a beat.
local function reap(now)
  if K.gap and K.half and K.gap > K.half then return reap_late(now, '+inf') end
  if #call('ZRANGEBYSCORE', K.leases, '-inf', now, 'LIMIT', 0, 1) == 0 then return false end
  return reap_late(now, now)
end

-- A node lives: its lease begins anew.
local function renew(inc, lease_ms, now)
  call('ZADD', K.leases, now + lease_ms, inc)
  call('SET', K.pulse, now)
  call('HSET', K.node .. name_of(inc), 'grace', 0, 'beat', now)
  K.half = math.min(K.half or lease_ms, lease_ms / 2)
end

-- Raises the tokens above all that were ever given, even those that the server has forgotten: at
-- fewer than 100,000 a second no token is ahead of the clock.
local function raise_tokens(now)
  local floor = (now - 1700000000000) * 100
  if tonumber(call('GET', K.token) or 0) < floor then
    call('SET', K.token, string.format('%d', floor))
  end
end

-- The protocols, other than this one, whose nodes live in this namespace, as 'N, M'; nil for none.
-- Those of protocol 1 knew nothing of others: their leases tell. All of it is by the server's own
-- clock; no lease is longer than an hour, so what is further off is from before it was set back.
local LONGEST_MS = 3600000

local function other_protocols()
  local now, found = server_time(), {}
  local last = now + LONGEST_MS
  for _, version in ipairs(call('ZRANGEBYSCORE', K.protocols, now, last)) do
    if version ~= tostring(PROTOCOL) then found[#found + 1] = version end
  end
  local first = redis.pcall('ZRANGEBYSCORE', K.first_leases, now, last, 'LIMIT', 0, 1)
  if not first.err and #first > 0 then table.insert(found, 1, '1') end
  return #found > 0 and table.concat(found, ', ') or nil
end

local function speak_for(lease_ms)
  local now = server_time()
  local known = tonumber(call('ZSCORE', K.protocols, PROTOCOL) or 0)
  if now + lease_ms > known or known > now + LONGEST_MS then
    call('ZADD', K.protocols, now + lease_ms, PROTOCOL)
  end
end

-- Registers a node as a worker of RQ's. Its hash ends with the lease and a minute: after a server was out
-- for longer, or where anyone has deleted it, a beat registers it anew.
local function register_worker(name)
  local worker = K.worker .. name
  local about = call('HMGET', K.node .. name, 'birth', 'pid', 'host', 'rq', 'python')
  for i = 1, 5 do about[i] = about[i] or '' end
  call('SADD', K.rq .. ':queues', K.ingress_queue, K.queue .. name)
  call('SADD', K.rq .. ':workers', worker)
  call('SADD', K.rq .. ':workers:' .. K.names .. name, worker)
  call('SADD', K.rq .. ':workers:' .. K.ingress, worker)
  call('HSET', worker, 'birth', about[1], 'last_heartbeat', about[1], 'queues',
    K.names .. name .. ',' .. K.ingress, 'pid', about[2], 'hostname', about[3], 'ip_address', '',
    'version', about[4], 'python_version', about[5], 'state', 'idle')
end

-- join: makes a process a member: a new incarnation, in members and leases, epoch + 1.
--
-- args  2 name  3 lease in ms  4 nonce of this process  5 max queue  6 max waiters  7 lanes
--       8 pid  9 host  10 time as RQ writes it  11 RQ version  12 Python version
--       13 digest of the library that this process has  14 placement, 'modulo' or 'slots'
--       15 digest of its app's code
-- returns {1, incarnation, epoch}
--         {0, lease left in ms}     a node of this name is alive
--         {-1, 'N, M'}              nodes of other protocols are alive in this namespace
--         {-2}                      the library here is another build: load yours, and ask again
--         {-3, placement}           the members have another one
--
-- Repeated with the same nonce it answers as before and renews the lease: the caller lost the first
-- reply.
local function join(args)
  local name, lease_ms, nonce = args[2], tonumber(args[3]), args[4]
  if args[13] ~= '' and args[13] ~= DIGEST then return { -2 } end
  local now = clock()
  reap(now)
  local others = other_protocols()
  if others then return { -1, others } end
  local score = args[14] == 'slots' and BY_SLOTS or 0
  if call('ZCARD', K.members) > call('ZCOUNT', K.members, score, score) then
    return { -3, placement() or 'modulo' }
  end
  local present = call('HGET', K.nodes, name)
  if present then
    if call('HGET', K.node .. name, 'nonce') == nonce then
      renew(present, lease_ms, now)
      return { 1, present, epoch() }
    end
    return { 0, tonumber(call('ZSCORE', K.leases, present)) - now }
  end

  raise_tokens(now) -- a server that has forgotten would give the same incarnation again
  local inc = string.format('%s#%d', name, call('INCR', K.token))
  renew(inc, lease_ms, now)
  speak_for(lease_ms)
  call('ZADD', K.members, score, inc)
  call('HSET', K.nodes, name, inc)
  call('HSET', K.node .. name, 'inc', inc, 'nonce', nonce, 'lease', lease_ms,
    'max_queue', args[5], 'max_waiters', args[6], 'lanes', args[7], 'pid', args[8], 'host', args[9],
    'birth', args[10], 'rq', args[11], 'python', args[12], 'code', args[15],
    'session', 0, 'stuck', 0, 'entries', 0, 'hits', 0, 'joined', 0, 'misses', 0)
  epoch_changed(1, inc)

  register_worker(name)
  call('PEXPIRE', K.worker .. name, lease_ms + 60000)

  local waiting = call('LRANGE', K.waiting, 0, -1)
  call('DEL', K.waiting)
  local _, moment = clock()
  for i, id in ipairs(waiting) do place_again('', id, moment + i) end
  return { 1, inc, epoch() }
end

-- beat: renews a node's lease.
--
-- args  2 incarnation  3 lease in ms  4 entries  5 hits  6 joined  7 misses
--       8 succeeded  9 failed  10 stuck  11 time as RQ writes it  12 what is published of the node
-- returns {1, epoch, 'member' | 'draining', taken}    taken: how much is open at the node and not in
--                                                     its queue, so that it must know of it
--         {0}    this incarnation has no lease: forget all entries, join anew
local function beat(args)
  local inc, lease_ms = args[2], tonumber(args[3])
  local now = clock()
  reap(now)
  if not is_live(inc) then return { 0 } end
  local name = name_of(inc)
  renew(inc, lease_ms, now)
  speak_for(lease_ms)
  call('HSET', K.node .. name, 'entries', args[4], 'hits', args[5], 'joined', args[6],
    'misses', args[7], 'stuck', args[10])
  local worker = K.worker .. name
  if call('HEXISTS', worker, 'birth') == 0 then register_worker(name) end
  local state = call('EXISTS', K.claims .. inc) == 1 and 'busy' or 'idle'
  call('HSET', worker, 'last_heartbeat', args[11], 'successful_job_count', args[8],
    'failed_job_count', args[9], 'state', are_suspended() and 'suspended' or state)
  call('PEXPIRE', worker, lease_ms + 60000)
  call('SET', K.stats .. name, string.format('%s %d %s', inc, now, args[12] or '{}'), 'PX', lease_ms + 60000)
  local taken = call('ZCARD', K.open .. inc) - call('LLEN', K.queue .. name)
  return { 1, epoch(), is_member(inc) and 'member' or 'draining', taken }
end

-- Sends on all that lies in a node's queue; it keeps what it has taken from there.
local function empty_queue(inc)
  local queue = queue_of(inc)
  local ids = call('LRANGE', queue, 0, -1)
  call('DEL', queue)
  for _, id in ipairs(ids) do
    local moment = call('ZSCORE', K.open .. inc, id)
    if moment then
      call('ZREM', K.open .. inc, id)
      place_again(inc, id, moment)
    elseif id ~= EPOCH_MARK and redis.pcall('HGET', K.job .. id, 'status') == 'queued' then
      if is_id_of_job(id) then put_on(id) end
    end
  end
end

-- drain: takes a node out of the members but leaves it its lease: it finishes what it has.
--
-- args  2 name  3 incarnation, or '' for whichever there is
-- returns 1, or 0 where no such node is alive. Repeated, it only sends on what waits for holds that
--   have ended.
local function drain(args)
  local name, inc = args[2], args[3]
  reap((clock()))
  local present = call('HGET', K.nodes, name)
  if not present or (inc ~= '' and inc ~= present) then return 0 end
  if call('ZREM', K.members, present) == 1 then
    call('HSET', K.node .. name, 'draining', 1)
    epoch_changed(1)
  end
  empty_queue(present)
  return 1
end

-- leave: takes a node out at once: by its own word when it has finished, or by its supervisor's, which
-- has seen the process die. What it had goes to its new owners.
--
-- args  2 name  3 incarnation, or ''  4 pid  5 host
--       the node itself gives the first two; its parent the name, pid and host that it knew
-- returns 1, or 0 where that very node is not alive (a successor of its name is left alone)
local function leave(args)
  local name, inc = args[2], args[3]
  local now = clock()
  reap(now)
  local present = call('HGET', K.nodes, name)
  if not present then return 0 end
  if inc == '' then
    local known = call('HMGET', K.node .. name, 'pid', 'host')
    if known[1] ~= args[4] or known[2] ~= args[5] then return 0 end
  elseif inc ~= present then
    return 0
  end
  drop({ present }, inc == '', now)
  if inc == '' and call('EXISTS', K.suspects) == 1 then call('ZADD', K.leases, 0, MARK) end
  if #live() == 0 then call('ZREM', K.protocols, PROTOCOL) end
  return 1
end

registered('join', join)
registered_for_full('beat', beat)
registered_for_full('drain', drain)
registered_for_full('leave', leave)
