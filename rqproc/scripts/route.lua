-- Queues requests, each at the one node that its id has at this instant.
--
-- ARGV  1 kind 'call' | 'job'  2 timeout in ms, 0 for none  3 reply: the stream that answers go to,
--         '' for each job's own  4 time as RQ writes it  5 result ttl in s, '' for RQ's own
--       then for each request: id, address, data
-- returns for each request '' or the JSON report of why it was not queued
--
-- A call that is not queued is answered in its stream at once, since its caller already waits
-- there. An id that is known, by its job or by its answer, is left alone: its caller lost the
-- first reply and asks again.
local KEEP_MS = 60000 -- a call's job or answer outlives its deadline by this much
local kind, timeout_ms, created = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local now = now_ms()
reap(now)
local shared = ARGV[3] ~= '' and ARGV[3] ~= ARGV[6]
local deadline = timeout_ms > 0 and now + timeout_ms or 0

local function refuse(id, reply, report)
  local text = cjson.encode(report)
  if kind == 'call' then
    local note = id .. ' error 0 0 0'
    call('XADD', RESULTS .. reply, '*', 'type', 2, 'rqproc', note, 'rqproc_error', text)
    call('PEXPIRE', RESULTS .. reply, timeout_ms + KEEP_MS)
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
local function push(id, reply, name)
  local queued = call('RPUSH', QUEUE .. name, id)
  if queued == 1 then return '' end
  local limit = tonumber(call('HGET', NODE .. name, 'max_queue'))
  if queued <= limit then return '' end
  call('RPOP', QUEUE .. name)
  call('DEL', JOB .. id)
  return refuse(id, reply, { type = 'Overloaded', node = name, queued = queued - 1, limit = limit })
end

local function submit(id, address, data)
  local reply = shared and ARGV[3] or id
  local known = shared and call('EXISTS', JOB .. id) or call('EXISTS', JOB .. id, RESULTS .. id)
  if known > 0 then return '' end
  local name = target_of(address)
  if not name and kind == 'call' then return refuse(id, reply, { type = 'NoLiveNode' }) end
  write(id, reply, address, data)
  if name then return push(id, reply, name) end
  call('RPUSH', WAITING, id)
  return ''
end

local refused = {}
local answered = shared and call('EXISTS', RESULTS .. ARGV[3]) == 1
for i = 6, #ARGV, 3 do
  refused[#refused + 1] = answered and '' or submit(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
return refused
