-- What the scripts share: who an id's requests go to, and what happens to the requests of a node
-- that is gone. Before each script stand those of these functions that it uses; see assemble in
-- scripts/__init__.py, which also writes constants in the place of words in capitals:
--   MEMBERS, LEASES, NODES, HOLDERS, EPOCH, TOKEN, WAITING, PULSE, SUSPECTS, SERVER, SETTLING
--                                the cluster's keys, see keys.py
--   NODE, TAKEN, WAITS, FENCE    prefixes of the keys of one node, of one incarnation, of one
--                                address and of one caller's stream
--   RQ, JOB, RESULTS             prefixes of RQ's keys
--   QUEUE, WORKER                prefixes of the keys of a node's queue and worker
--   INGRESS                      name of the ingress queue
--   NAMES                        prefix of the names of the nodes' queues and workers
--   DROPPED                      the channel that near-caches listen to
--   MAX_ATTEMPTS                 nodes that may die on a request before it fails
--   LOST_TEXT                    what RQ shows then, in RQ's encoding
--
-- A function that is marked `-- rarely` is called where something is out of the ordinary: what it
-- alone needs is made within it.
--
-- call is redis.call, now_ms() is the server's clock in milliseconds. An incarnation is
-- 'NAME@NUMBER', an address is 'SLOT|RESOURCE:ID'.

local function name_of(inc) return string.match(inc, '^(.*)@') end
local function is_live(inc) return call('ZSCORE', LEASES, inc) ~= false end
local function is_member(name) return call('ZSCORE', MEMBERS, name) ~= false end
local function epoch() return tonumber(call('GET', EPOCH) or 0) end

-- What stands as an address in a job that anyone may have written; nil if it is none.
local function address_in(text)
  if type(text) ~= 'string' or #text >= 1000 then return nil end
  local digits = string.match(text, '^(%d+)|[%w_.-]+:.+$')
  return digits and #digits <= 16 and text or nil -- 2^53 has 16; of 400, a number is infinite
end

-- Adds to a number in a job's hash, whatever anyone may have written there.
local function add(key, field, by)
  local sum = redis.pcall('HINCRBY', key, field, by)
  if type(sum) == 'number' then return sum end
  call('HSET', key, field, by)
  return by
end

-- members[slot % count]. fmod, since Lua's own % divides first and is off by one near 2^53.
local function owner_of(address)
  local count = call('ZCARD', MEMBERS)
  if count == 0 then return nil end
  local rank = math.fmod(tonumber(string.match(address, '^%d+')), count)
  return call('ZRANGE', MEMBERS, rank, rank)[1]
end

-- The incarnation that holds an address, and how many of its requests; nil, 0 where none does.
-- Every holder is live: drop releases what a dead node held.
local function holder_of(address)
  local held = call('HGET', HOLDERS, address)
  if not held then return nil, 0 end
  local inc, count = string.match(held, '^(%S+) (%d+)$')
  return inc, tonumber(count)
end

-- The one node that requests of an address go to: its holder if there is one, else its owner.
-- Returns its name, nil where no node is alive, and the number of requests that are held.
local function target_of(address)
  local inc, count = holder_of(address)
  return inc and name_of(inc) or owner_of(address), count
end

-- The same where the members and what is held of the address are at hand.
local function target_among(members, address, held)
  if held then
    local inc, count = string.match(held, '^(%S+) (%d+)$')
    return name_of(inc), tonumber(count)
  end
  if #members == 0 then return nil, 0 end
  return members[math.fmod(tonumber(string.match(address, '^%d+')), #members) + 1], 0
end

local function release(address, inc)
  local holder, count = holder_of(address)
  if holder ~= inc then return end
  if count > 1 then
    call('HSET', HOLDERS, address, inc .. ' ' .. (count - 1))
  else
    call('HDEL', HOLDERS, address)
  end
end

-- Queues a request at its target, or keeps it for the next node to join.
local function place(id, address)
  local name = target_of(address)
  call('RPUSH', name and QUEUE .. name or WAITING, id)
end

-- The job that a call is part of, and its number there; see scatter.
local function part_of(id) return string.match(id, '^(.*):(%d+)$') end

-- Queues a call of several at its target: the job lies there once, if it is the last in the queue.
local function place_part(job, number, address) -- rarely
  local name = target_of(address)
  local queue = name and QUEUE .. name or WAITING
  call('HSET', JOB .. job, number, (name or '') .. ' ' .. address)
  if call('LINDEX', queue, -1) ~= job then call('RPUSH', queue, job) end
end

-- A call of several ends: with the last one the job does. Returns 0 where it has ended before.
local function end_part(id)
  local job, number = part_of(id)
  if call('HDEL', JOB .. job, number) == 0 then return 0 end
  if add(JOB .. job, 'rqproc_left', -1) <= 0 then call('DEL', JOB .. job) end
  return 1
end

-- All that a job's hash says; nothing where it says more than any caller of ours has written.
local function fields_of(job)
  return call('HLEN', JOB .. job) <= 1000 and call('HGETALL', JOB .. job) or {}
end

-- Sends on those of a job's calls that are queued at a node, '' for those that wait for one.
local function place_parts_again(job, name)
  local flat = fields_of(job)
  for i = 1, #flat, 2 do
    local at, address = string.match(flat[i + 1], '^(%S*) (.*)$')
    if at == name and string.find(flat[i], '^%d+$') and address_in(address) then
      place_part(job, flat[i], address)
    end
  end
end

-- Sends a queued job on. One that is not a request of ours goes where such jobs are looked into.
local function place_again(id, name) -- rarely
  if redis.pcall('HGET', JOB .. id, 'rqproc_kind') == 'many' then
    place_parts_again(id, name)
    return
  end
  local found = redis.pcall('HGET', JOB .. id, 'rqproc_address')
  local address = address_in(found)
  if address then
    place(id, address)
  elseif call('EXISTS', JOB .. id) == 1 then
    call('RPUSH', RQ .. 'queue:' .. INGRESS, id)
  end
end

-- Sends on all that is queued at a node, '' for what waits for one.
local function place_all_again(list, name) -- rarely
  local ids = call('LRANGE', list, 0, -1)
  call('DEL', list)
  for _, id in ipairs(ids) do place_again(id, name) end
end

-- Raises the tokens above all that were ever given, even those that the server has forgotten: at
-- fewer than 100,000 a second no token is ahead of the clock.
local function raise_tokens(now) -- rarely
  local floor = (now - 1700000000000) * 100
  if tonumber(call('GET', TOKEN) or 0) < floor then
    call('SET', TOKEN, string.format('%d', floor))
  end
end

-- How many nodes have died on an address since one of its runs last ended, where that is so many
-- that its requests are refused for now; else nil. After a minute they may try again.
local function killer(address, now) -- rarely
  local found = call('HGET', SUSPECTS, address)
  if not found then return nil end
  local deaths, last = string.match(found, '^(%d+) %d+ (%d+)$')
  if tonumber(deaths) < MAX_ATTEMPTS or now - tonumber(last) >= 60000 then return nil end
  return tonumber(deaths)
end

local function forget_old_suspects(now)
  local flat = call('HGETALL', SUSPECTS)
  for i = 1, #flat, 2 do
    local first = tonumber(string.match(flat[i + 1], '^%d+ (%d+)'))
    if now - first > 600000 then call('HDEL', SUSPECTS, flat[i]) end
  end
end

-- A node died that ran a request of this address. Deaths count for ten minutes.
local function suspect(address, now)
  local found = call('HGET', SUSPECTS, address) or ''
  local deaths, first = string.match(found, '^(%d+) (%d+) %d+$')
  if not deaths or now - tonumber(first) > 600000 then deaths, first = 0, now end
  if call('HLEN', SUSPECTS) > 1000 then forget_old_suspects(now) end
  call('HSET', SUSPECTS, address, string.format('%d %d %d', deaths + 1, first, now))
  call('PEXPIRE', SUSPECTS, 600000)
end

-- Ends a job that will not be run, without an answer.
local function cancel(id, kind) -- rarely
  if kind == 'call' then
    call('DEL', JOB .. id)
  elseif kind == 'part' then
    end_part(id)
  else
    call('HSET', JOB .. id, 'status', 'canceled')
    call('EXPIRE', JOB .. id, 500)
  end
end

-- Keeps a stream for so long at least: whoever else is answered there may need it for longer.
local function keep_stream(reply, keep_ms)
  if call('PTTL', RESULTS .. reply) < tonumber(keep_ms) then call('PEXPIRE', RESULTS .. reply, keep_ms) end
end

-- Ends a job with one entry in the stream where its caller waits; false where the job is gone.
--   kind     'call': someone waits in the stream `reply`, the job has done its work
--            'part': the same for one of several calls
--            'job':  anyone may look it up, by RQ's rules
--   keep_ms  how long a call's answer is kept: a repeated route finds the job or the answer
--   ok       whether body is a return_value or an exc_string, both in RQ's encoding
--   note     'JOB SOURCE AGE_MS EXPIRES_MS TOKEN' for rqproc's own callers
--   report   JSON that names the error
local function conclude(id, kind, reply, keep_ms, ok, body, note, report, worker, ended_at)
  local known
  if kind == 'part' then
    known = end_part(id)
  else
    known = call(kind == 'call' and 'DEL' or 'EXISTS', JOB .. id)
  end
  if known == 0 then return false end
  if ok then
    call('XADD', RESULTS .. reply, '*', 'type', 1, 'worker_name', worker, 'return_value', body,
      'rqproc', note)
  else
    call('XADD', RESULTS .. reply, '*', 'type', 2, 'worker_name', worker, 'exc_string', body,
      'rqproc', note, 'rqproc_error', report)
  end
  if kind ~= 'job' then
    keep_stream(reply, keep_ms)
    return true
  end

  call('HSET', JOB .. id, 'status', ok and 'finished' or 'failed', 'ended_at', ended_at)
  local kept = call('HMGET', JOB .. id, 'origin', ok and 'result_ttl' or 'failure_ttl')
  local ttl = tonumber(kept[2] or '')
  if not ttl or ttl ~= math.floor(ttl) or ttl < -1 or ttl > 2147483647 then
    ttl = ok and 500 or 86400 -- RQ's default; a day, where RQ's is a year
  end
  local keys = { JOB .. id, RESULTS .. reply, JOB .. id .. ':dependents' }
  if ttl == 0 and call('EXISTS', keys[3]) == 1 then ttl = 60 end -- its dependents are read first
  if ttl == 0 then
    call('DEL', unpack(keys))
    return true
  end
  for _, key in ipairs(keys) do
    if ttl > 0 then call('EXPIRE', key, ttl) else call('PERSIST', key) end
  end
  local registry = RQ .. (ok and 'finished:' or 'failed:') .. (kept[1] or INGRESS)
  local now_s = math.floor(now_ms() / 1000)
  call('ZREMRANGEBYSCORE', registry, 0, now_s)
  call('ZADD', registry, ttl > 0 and now_s + ttl or '+inf', id)
  return true
end

-- The ids of what has been answered in a stream and not been removed from it.
local function answered_in(reply) -- rarely
  local found = {}
  for _, entry in ipairs(call('XRANGE', RESULTS .. reply, '-', '+')) do
    local fields = entry[2]
    for i = 1, #fields, 2 do
      if fields[i] == 'rqproc' then
        local id, numbers = string.match(fields[i + 1], '^(%S+) many (%S+)')
        for number in string.gmatch(numbers or '', '%d+') do found[id .. ':' .. number] = true end
        if not id then found[string.match(fields[i + 1], '^%S+')] = true end
      end
    end
  end
  return found
end

-- Answers a request that too many nodes have died on.
local function give_up(id, kind, reply, deaths) -- rarely
  local report = cjson.encode({ type = 'NodeLost', attempts = deaths })
  local keep_ms = math.max(call('PTTL', JOB .. (kind == 'part' and part_of(id) or id)), 1)
  conclude(id, kind, reply, keep_ms, false, LOST_TEXT, id .. ' error 0 0 0', report, '', '')
end

-- A node's membership, lease and keys. Returns what it had taken, oldest first.
local function remove(inc)
  local name = name_of(inc)
  call('ZREM', LEASES, inc)
  if call('ZREM', MEMBERS, name) == 1 then call('INCR', EPOCH) end
  call('HDEL', NODES, name)
  call('DEL', NODE .. name)
  call('SREM', RQ .. 'queues', QUEUE .. name)
  call('SREM', RQ .. 'workers', WORKER .. name)
  call('SREM', RQ .. 'workers:' .. NAMES .. name, WORKER .. name)
  call('SREM', RQ .. 'workers:' .. INGRESS, WORKER .. name)
  call('DEL', WORKER .. name)
  local flat, taken = call('HGETALL', TAKEN .. inc), {}
  for i = 1, #flat, 2 do
    local token, address = string.match(flat[i + 1], '^(%d+) (.*)$')
    taken[#taken + 1] = { id = flat[i], token = tonumber(token), address = address }
  end
  call('DEL', TAKEN .. inc)
  table.sort(taken, function(a, b) return a.token < b.token end)
  return taken
end

-- Releases what a node held, and marks what may have run where it died: the oldest of each address,
-- in as many lanes as it had. What waited for another id had given back its lane.
local function release_all(taken, lanes, now)
  local seen = {}
  for _, request in ipairs(taken) do
    local address = request.address
    if not seen[address] then
      seen[address] = true
      call('HDEL', HOLDERS, address)
      local waited = call('DEL', WAITS .. address) == 1
      if lanes > 0 then
        request.ran = true
        suspect(address, now)
        if not waited then lanes = lanes - 1 end
      end
    end
  end
end

local function recover_part(id, address, ran)
  local job, number = part_of(id)
  if not job then return end
  local fields = redis.pcall('HMGET', JOB .. job, 'rqproc_kind', 'rqproc_reply', number)
  if fields.err or fields[1] ~= 'many' or not fields[3] then return end
  local lost = add(JOB .. job, 'lost:' .. number, ran and 1 or 0)
  if ran and lost >= MAX_ATTEMPTS then
    give_up(id, 'part', fields[2] or job, lost)
  else
    place_part(job, number, address)
  end
end

-- Sends a request that was taken to its new target, unless it has used up its attempts.
local function recover(id, address, ran)
  if call('EXISTS', JOB .. id) == 0 then return recover_part(id, address, ran) end
  local fields = redis.pcall('HMGET', JOB .. id, 'status', 'rqproc_kind', 'rqproc_reply')
  if fields.err or not fields[1] then return end
  local kind = fields[2] or 'call'
  if kind == 'job' then
    -- 'queued' where someone has enqueued it again while it ran; that copy may be gone by now.
    if fields[1] ~= 'started' and fields[1] ~= 'queued' then return end
    call('HSET', JOB .. id, 'status', 'queued')
  end
  local lost = add(JOB .. id, 'rqproc_lost', ran and 1 or 0)
  if ran and lost >= MAX_ATTEMPTS then
    give_up(id, kind, fields[3] or id, lost)
  else
    place(id, address)
  end
end

-- Takes nodes out. First all of them, then their requests go to who is left, so that none is sent
-- from one dead node to the next. `died`: not by their own word, so it counts as an attempt.
local function drop(incs, died, now) -- rarely
  local orphans = {}
  for i, inc in ipairs(incs) do
    local lanes = died and tonumber(call('HGET', NODE .. name_of(inc), 'lanes') or 0) or 0
    orphans[i] = remove(inc)
    release_all(orphans[i], lanes, now)
  end
  for i, inc in ipairs(incs) do
    for _, request in ipairs(orphans[i]) do recover(request.id, request.address, request.ran) end
    place_all_again(QUEUE .. name_of(inc), name_of(inc))
  end
end

-- Drops every node whose lease has run out. Scripts that decide who serves begin with it.
--
-- Where nobody has beaten for long, it was the server that was out (paused, restarted, cut off),
-- not the nodes: each then has half a lease more, once, to say that it lives. What it runs is still
-- its own in that time. Whose lease ended more than half a minute ago will not say so any more.
local function reap_late(late, now) -- rarely
  local quiet_ms = now - tonumber(call('GET', PULSE) or 0)
  local dead = {}
  for _, inc in ipairs(late) do
    local about = call('HMGET', NODE .. name_of(inc), 'lease', 'grace')
    local half_ms = math.floor(tonumber(about[1] or 0) / 2)
    local late_ms = now - tonumber(call('ZSCORE', LEASES, inc))
    if about[2] == '0' and quiet_ms > half_ms and late_ms < 30000 then
      call('HSET', NODE .. name_of(inc), 'grace', 1)
      call('ZADD', LEASES, now + half_ms, inc)
    else
      dead[#dead + 1] = inc
    end
  end
  if #dead > 0 then drop(dead, true, now) end
end

local function reap(now)
  local late = call('ZRANGEBYSCORE', LEASES, '-inf', now)
  if #late > 0 then reap_late(late, now) end
end
