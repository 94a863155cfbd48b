-- Stands before every script. What the scripts share: the names of keys, who an id's requests go
-- to, and what happens to the requests of a node that is gone.
--
-- A header made by scripts/__init__.py stands before this text and defines
--   K             prefix of the cluster's keys, 'rqproc:NS:'
--   RQ            prefix of RQ's keys, 'rq:'
--   Q             prefix of the node queues' names, 'rqproc.NS.'
--   INGRESS       name of the ingress queue
--   MAX_ATTEMPTS  nodes that may die on a request before it fails
--   LOST_TEXT     what RQ shows then, in RQ's encoding
--   now_ms()      the server's clock in milliseconds
--
-- Words: an incarnation is 'NAME@NUMBER'; an address is 'SLOT|RESOURCE:ID'.

local call = redis.call
local MEMBERS, LEASES, NODES = K .. 'members', K .. 'leases', K .. 'nodes'
local HOLDERS, EPOCH, TOKEN, WAITING = K .. 'holders', K .. 'epoch', K .. 'token', K .. 'waiting'

local CALL_KEEP_MS = 60000      -- a call's job and reply outlive its deadline by this much
local RESULT_TTL_S = 500        -- RQ's default for finished jobs
local FAILURE_TTL_S = 86400     -- failed jobs without a failure_ttl of their own: one day

local function name_of(inc) return string.match(inc, '^(.*)@') end
local function queue_of(name) return RQ .. 'queue:' .. Q .. name end
local function taken_of(inc) return K .. 'taken:' .. inc end
local function node_of(name) return K .. 'node:' .. name end
local function job_of(id) return RQ .. 'job:' .. id end
local function results_of(id) return RQ .. 'results:' .. id end
local function is_live(inc) return call('ZSCORE', LEASES, inc) ~= false end
local function is_member(name) return call('ZSCORE', MEMBERS, name) ~= false end
local function epoch() return tonumber(call('GET', EPOCH) or 0) end

-- members[slot % count]. fmod, since Lua's own % divides first and is off by one near 2^53.
local function owner_of(address)
  local count = call('ZCARD', MEMBERS)
  if count == 0 then return nil end
  local rank = math.fmod(tonumber(string.match(address, '^%d+')), count)
  return call('ZRANGE', MEMBERS, rank, rank)[1]
end

-- The incarnation that holds an address, and how many of its requests; nil where none does.
-- Every holder is live: drop releases what a dead node held.
local function holder_of(address)
  local held = call('HGET', HOLDERS, address)
  if not held then return nil, 0 end
  local inc, count = string.match(held, '^(%S+) (%d+)$')
  return inc, tonumber(count)
end

local function hold(address, inc)
  local _, count = holder_of(address)
  call('HSET', HOLDERS, address, inc .. ' ' .. (count + 1))
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

-- The one node that requests of an address go to: its holder if there is one, else its owner.
local function target_of(address)
  local inc = holder_of(address)
  if inc then return name_of(inc) end
  return owner_of(address)
end

-- Queues a request at its target, or keeps it for the next node to join.
local function place(id, address)
  local name = target_of(address)
  call('RPUSH', name and queue_of(name) or WAITING, id)
end

-- Sends a queued job on. One that is not a request of ours goes where such jobs are looked into.
local function place_again(id)
  local job = redis.pcall('HGET', job_of(id), 'rqproc_address')
  if type(job) == 'string' then
    place(id, job)
  elseif job == false and call('EXISTS', job_of(id)) == 1 then
    call('RPUSH', RQ .. 'queue:' .. INGRESS, id)
  end
end

local function place_all_again(list)
  local ids = call('LRANGE', list, 0, -1)
  call('DEL', list)
  for _, id in ipairs(ids) do place_again(id) end
end

-- A job's end as RQ records it: expiry, registry, dependents' keys.
local function record_end(id, ok, now)
  local job = job_of(id)
  local kept = call('HMGET', job, 'origin', ok and 'result_ttl' or 'failure_ttl')
  local ttl = tonumber(kept[2] or '') or (ok and RESULT_TTL_S or FAILURE_TTL_S)
  local keys = { job, results_of(id), job .. ':dependents' }
  if ttl == 0 then
    call('DEL', unpack(keys))
    return
  end
  for _, key in ipairs(keys) do
    if ttl > 0 then call('EXPIRE', key, ttl) else call('PERSIST', key) end
  end
  local registry = RQ .. (ok and 'finished:' or 'failed:') .. (kept[1] or INGRESS)
  local now_s = math.floor(now / 1000)
  call('ZREMRANGEBYSCORE', registry, 0, now_s)
  call('ZADD', registry, ttl > 0 and now_s + ttl or '+inf', id)
end

-- Ends a job with one entry in the stream where its caller waits.
--   kind   'call': someone waits in the stream `reply`, the job is short-lived
--          'job':  anyone may look it up, by RQ's rules
--   ok     whether body is a return_value or an exc_string, both in RQ's encoding
--   note   'JOB SOURCE AGE_MS EXPIRES_MS TOKEN' for rqproc's own callers
--   report JSON that names the error, '' where there is none
local function conclude(id, kind, reply, ok, body, note, report, ended_at, worker, now)
  local stream = results_of(reply)
  call('XADD', stream, '*', 'type', ok and 1 or 2, 'worker_name', worker,
    ok and 'return_value' or 'exc_string', body, 'rqproc', note, 'rqproc_error', report)
  local job = job_of(id)
  call('HSET', job, 'status', ok and 'finished' or 'failed', 'ended_at', ended_at)
  if kind == 'job' then
    record_end(id, ok, now)
  else
    local left = call('PTTL', job)
    call('PEXPIRE', stream, left > 0 and left or CALL_KEEP_MS)
  end
end

-- Ends a job that will not be run, without an answer.
local function cancel(id)
  call('HSET', job_of(id), 'status', 'canceled')
  if call('PTTL', job_of(id)) == -1 then call('EXPIRE', job_of(id), RESULT_TTL_S) end
end

-- A request whose node is gone goes to its new target, unless it has used up its attempts: a node
-- that died on it counts, one that left by its own word does not.
local function recover(id, address, died, now)
  local job = job_of(id)
  local fields = redis.pcall('HMGET', job, 'status', 'rqproc_kind', 'rqproc_reply')
  if fields.err or fields[1] ~= 'started' then return end
  local lost = call('HINCRBY', job, 'rqproc_lost', died and 1 or 0)
  if died and lost >= MAX_ATTEMPTS then
    local report = cjson.encode({ type = 'NodeLost', attempts = lost })
    conclude(id, fields[2], fields[3], false, LOST_TEXT, id .. ' error 0 0 0', report, '', '', now)
    return
  end
  call('HSET', job, 'status', 'queued')
  place(id, address)
end

-- Takes a node out: its membership, lease and holds. Returns what it had taken, oldest first.
local function remove(inc)
  local name = name_of(inc)
  call('ZREM', LEASES, inc)
  if call('ZREM', MEMBERS, name) == 1 then call('INCR', EPOCH) end
  call('HDEL', NODES, name)
  call('DEL', node_of(name))
  call('SREM', RQ .. 'queues', Q .. name)
  local worker = RQ .. 'worker:' .. Q .. name
  call('SREM', RQ .. 'workers', worker)
  call('SREM', RQ .. 'workers:' .. Q .. name, worker)
  call('SREM', RQ .. 'workers:' .. INGRESS, worker)
  call('DEL', worker)
  local flat, taken = call('HGETALL', taken_of(inc)), {}
  for i = 1, #flat, 2 do
    local token, address = string.match(flat[i + 1], '^(%d+) (.*)$')
    taken[#taken + 1] = { id = flat[i], token = tonumber(token), address = address }
    call('HDEL', HOLDERS, address)
  end
  call('DEL', taken_of(inc))
  table.sort(taken, function(a, b) return a.token < b.token end)
  return taken
end

-- Drops nodes: first all of them out, then their requests to who is left, so that none is sent
-- from one dead node to the next.
local function drop(incs, died, now)
  local orphans = {}
  for i, inc in ipairs(incs) do orphans[i] = remove(inc) end
  for i, inc in ipairs(incs) do
    for _, request in ipairs(orphans[i]) do recover(request.id, request.address, died, now) end
    place_all_again(queue_of(name_of(inc)))
  end
end

-- Drops every node whose lease has run out. Each script begins with it, so none acts on the dead.
local function reap(now)
  local dead = call('ZRANGEBYSCORE', LEASES, '-inf', now)
  if #dead > 0 then drop(dead, true, now) end
end
