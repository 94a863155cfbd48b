-- Queues requests, each at the one node that its id has at this instant.
--
-- ARGV  1 kind 'call' | 'job'  2 timeout in ms, 0 for none  3 reply: the stream that answers go to,
--         '' for each job's own  4 time as RQ writes it  5 result ttl in s, '' for RQ's own
--       6 parent: the address whose handler asks and waits, '' for none
--       7 '' where the ids may have been sent before; else they are new, unless this name is fenced
--       8 1 where it is no answer that nobody lives: it is only returned
--       then for each request: id, address, data
-- returns for each request '' or the JSON report of why it was not queued
--
-- A call that is not queued is answered in its stream at once, since its caller already waits
-- there. An id that is known, by its job or by its answer, is left alone: its caller lost the
-- first reply and asks again. New ids need not be looked for. But a packet of theirs may be late:
--   1. a connection breaks; its last packet, with new ids, still lies before a server that stands
--   2. the caller sets the fence of the name that it sent them under, and sends them again
--   3. one is answered, and another packet of it arrives: that is looked for, because of the fence.
--
-- A handler that asks for another id waits for it, and that one's handler may wait in turn. Whom an
-- address's run waits for stands in waits:ADDRESS, by the job that asks, with its deadline: until
-- then, or until that job is answered. (A coroutine that is cancelled while it waits leaves its wait
-- behind until the deadline.) A request that would close a circle is refused:
--   1. the run of A asks for B       2. the run of B asks for A: that is behind the run of A, which
--   is behind the run of B. Neither would ever end.
local KEEP_MS = 60000 -- a call's job or answer outlives its deadline by this much
local kind, timeout_ms, created = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local now = now_ms()
reap(now)
local parent = ARGV[6]
-- One look for both, since there is hardly ever one or the other.
local fence = FENCE .. ARGV[7]
local suspects = call('EXISTS', SUSPECTS, fence) > 0
local checked = ARGV[7] == '' or suspects and call('EXISTS', fence) == 1
local deadline = timeout_ms > 0 and now + timeout_ms or 0

local function refuse(id, reply, report) -- rarely
  local text = cjson.encode(report)
  if kind == 'call' then
    local note = id .. ' error 0 0 0'
    call('XADD', RESULTS .. reply, '*', 'type', 2, 'rqproc', note, 'rqproc_error', text)
    keep_stream(reply, timeout_ms + KEEP_MS)
  end
  return text
end

local function write(id, reply, address, data)
  if kind == 'call' then
    call('HSET', JOB .. id, 'status', 'queued', 'created_at', created, 'origin', INGRESS,
      'data', data, 'rqproc_address', address, 'rqproc_reply', reply, 'rqproc_deadline', deadline)
    call('PEXPIRE', JOB .. id, timeout_ms + KEEP_MS)
    return
  end
  call('HSET', JOB .. id, 'status', 'queued', 'created_at', created, 'enqueued_at', created,
    'origin', INGRESS, 'data', data, 'description', string.match(address, '|(.*)$'), 'timeout', -1,
    'rqproc_address', address, 'rqproc_kind', kind, 'rqproc_deadline', deadline)
  if ARGV[5] ~= '' then call('HSET', JOB .. id, 'result_ttl', ARGV[5]) end
end

-- The push itself tells how long the queue is: the limit is looked up where there is a queue.
local function queued_behind(id, reply, name, queued) -- rarely
  local limit = tonumber(call('HGET', NODE .. name, 'max_queue'))
  if queued <= limit then return '' end
  call('RPOP', QUEUE .. name)
  call('DEL', JOB .. id)
  return refuse(id, reply, { type = 'Overloaded', node = name, queued = queued - 1, limit = limit })
end

-- Notes whom the parent waits for; returns the way that leads back to it, where there is one.
local function wait_for(id, address) -- rarely
  -- The address that a run still waits for; one that it does not is forgotten.
  local function awaited(from, job, wait)
    local due, target = string.match(wait, '^(%d+) (.*)$')
    if tonumber(due) > now and call('EXISTS', JOB .. job) == 1 then return target end
    call('HDEL', WAITS .. from, job)
    return nil
  end

  -- The way, over those who wait, from an address to the parent; nil if there is none.
  local function way_back(from, seen)
    if from == parent then return { from } end
    if seen[from] then return nil end
    seen[from] = true
    local flat = call('HGETALL', WAITS .. from)
    for i = 1, #flat, 2 do
      local target = awaited(from, flat[i], flat[i + 1])
      local way = target and way_back(target, seen)
      if way then
        table.insert(way, 1, from)
        return way
      end
    end
    return nil
  end

  if call('HLEN', WAITS .. parent) > 64 then
    local flat = call('HGETALL', WAITS .. parent)
    for i = 1, #flat, 2 do awaited(parent, flat[i], flat[i + 1]) end
  end
  local way = way_back(address, {})
  if way then return way end
  call('HSET', WAITS .. parent, id, string.format('%d %s', deadline, address))
  if call('PTTL', WAITS .. parent) < timeout_ms then call('PEXPIRE', WAITS .. parent, timeout_ms) end
  return nil
end

-- No address may have more requests taken and not answered than its node allows.
local function crowded(name, held) -- rarely
  local limit = tonumber(call('HGET', NODE .. name, 'max_waiters'))
  return held >= limit and { type = 'Crowded', node = name, queued = held, limit = limit } or nil
end

local told -- what has been answered in the stream that is shared

local function is_known(id, reply) -- rarely
  if reply == id then return call('EXISTS', JOB .. id, RESULTS .. id) > 0 end
  if call('EXISTS', JOB .. id) == 1 then return true end
  told = told or answered_in(reply)
  return told[id]
end

local function submit(id, address, data)
  local reply = ARGV[3] ~= '' and ARGV[3] or id
  if checked and is_known(id, reply) then return '' end
  local name, held = target_of(address)
  if not name and kind == 'call' then
    if ARGV[8] == '1' then return cjson.encode({ type = 'NoLiveNode' }) end
    return refuse(id, reply, { type = 'NoLiveNode' })
  end
  local crowd = held > 0 and crowded(name, held)
  if crowd then return refuse(id, reply, crowd) end
  local deaths = suspects and killer(address, now)
  if deaths then return refuse(id, reply, { type = 'NodeLost', attempts = deaths }) end
  if parent ~= '' then
    local way = wait_for(id, address)
    if way then return refuse(id, reply, { type = 'RequestCycle', way = way }) end
  end
  write(id, reply, address, data)
  if not name then
    call('RPUSH', WAITING, id)
    return ''
  end
  local queued = call('RPUSH', QUEUE .. name, id)
  return queued > 1 and queued_behind(id, reply, name, queued) or ''
end

local refused = {}
for i = 9, #ARGV, 3 do
  refused[#refused + 1] = submit(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
return refused
