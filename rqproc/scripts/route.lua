-- Queues requests, each at the one node that its id has at this instant.
--
-- ARGV  1 kind 'call' | 'job'  2 timeout in ms, 0 for none  3 reply: the stream that answers go to,
--         '' for each job's own  4 time as RQ writes it  5 result ttl in s, '' for RQ's own
--       then for each request: id, address, data
-- returns for each request '' or the JSON report of why it was not queued
--
-- A call that is not queued is answered in its stream at once, since its caller already waits
-- there. An id that is known is left alone: its caller lost the first reply.
local kind, timeout_ms, created = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local now = now_ms()
reap(now)

local function refuse(id, reply, report)
  local text = cjson.encode(report)
  if kind == 'call' then
    local stream = results_of(reply)
    call('XADD', stream, '*', 'type', 2, 'rqproc', id .. ' error 0 0 0', 'rqproc_error', text)
    call('PEXPIRE', stream, CALL_KEEP_MS)
  end
  return text
end

-- Why a target can take no more, or nil. What it has taken counts: it moves out of the queue fast.
local function refusal(name)
  local present = call('HGET', NODES, name)
  local queued = call('LLEN', queue_of(name)) + call('HLEN', taken_of(present))
  local limit = tonumber(call('HGET', node_of(name), 'max_queue'))
  if queued < limit then return nil end
  return { type = 'Overloaded', node = name, queued = queued, limit = limit }
end

local function submit(id, address, data)
  local reply = ARGV[3] ~= '' and ARGV[3] or id
  local job = job_of(id)
  if call('EXISTS', job) == 1 then return '' end
  local name = target_of(address)
  if not name and kind == 'call' then return refuse(id, reply, { type = 'NoLiveNode' }) end
  local report = name and refusal(name)
  if report then return refuse(id, reply, report) end
  call('HSET', job, 'created_at', created, 'enqueued_at', created, 'origin', INGRESS,
    'status', 'queued', 'data', data, 'description', string.match(address, '|(.*)$'),
    'timeout', -1, 'rqproc_address', address, 'rqproc_kind', kind, 'rqproc_reply', reply,
    'rqproc_deadline', timeout_ms > 0 and now + timeout_ms or 0)
  if kind == 'call' then
    call('PEXPIRE', job, timeout_ms + CALL_KEEP_MS)
  elseif ARGV[5] ~= '' then
    call('HSET', job, 'result_ttl', ARGV[5])
  end
  call('RPUSH', name and queue_of(name) or WAITING, id)
  return ''
end

local refused = {}
for i = 6, #ARGV, 3 do
  refused[#refused + 1] = submit(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
return refused
