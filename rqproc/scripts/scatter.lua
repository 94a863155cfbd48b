-- Queues calls that entered together: one job carries all of them, and goes to each of their owners.
--
-- ARGV  1 timeout in ms  2 reply: the stream that answers go to  3 time as RQ writes it
--       4 fence, 5 quiet: as ARGV 7 and 8 of route
--       then for each job: id, data, count, then for each of its calls: number, address
-- returns for each call '' or the JSON report of why it was not queued
--
-- Call 3 of job J is known as J:3. The job's hash says of each call where it is:
--   3 -> 'NAME ADDRESS'   queued at the node NAME, in whose queue J lies
--   3 -> '* ADDRESS'      taken; the node has it among those that it has taken, as J:3
-- A call that is answered is removed there, and with the last one the job. J may lie in a queue
-- though none of its calls is queued there any more: then its take gives nothing.
local KEEP_MS = 60000 -- a job outlives its deadline by this much
local timeout_ms, reply, created = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local now = now_ms()
reap(now)
local checked = ARGV[4] == '' or call('EXISTS', FENCE .. ARGV[4]) == 1
local suspects = call('EXISTS', SUSPECTS) == 1
local members = call('ZRANGE', MEMBERS, 0, -1)
local deadline = now + timeout_ms
local told, refused = nil, {}

local function is_known(id, number)
  if call('HEXISTS', JOB .. id, number) == 1 then return true end
  told = told or answered_in(reply)
  return told[id .. ':' .. number]
end

local function refuse(id, report)
  local text = cjson.encode(report)
  refused[#refused] = text
  if report.type == 'NoLiveNode' and ARGV[5] == '1' then return end
  call('XADD', RESULTS .. reply, '*', 'type', 2, 'rqproc', id .. ' error 0 0 0', 'rqproc_error', text)
  keep_stream(reply, timeout_ms + KEEP_MS)
end

-- Why a call is not queued at the node that it goes to; nil where it is.
local function objection(address, name, held)
  if not name then return { type = 'NoLiveNode' } end
  if held > 0 then
    local limit = tonumber(call('HGET', NODE .. name, 'max_waiters'))
    if held >= limit then return { type = 'Crowded', node = name, queued = held, limit = limit } end
  end
  local deaths = suspects and killer(address, now)
  return deaths and { type = 'NodeLost', attempts = deaths } or nil
end

-- Queues the job at a node, unless that has too much to do.
local function push(id, name)
  local queued = call('RPUSH', QUEUE .. name, id)
  local limit = queued > 1 and tonumber(call('HGET', NODE .. name, 'max_queue')) or queued
  if queued <= limit then return nil end
  call('RPOP', QUEUE .. name)
  return { type = 'Overloaded', node = name, queued = queued - 1, limit = limit }
end

-- first: where the job's calls stand in ARGV; count: how many there are.
local function submit(id, data, first, count)
  local numbers, addresses = {}, {}
  for i = first, first + 2 * count - 2, 2 do
    numbers[#numbers + 1], addresses[#addresses + 1] = ARGV[i], ARGV[i + 1]
  end
  local holders = call('HMGET', HOLDERS, unpack(addresses))
  local fields, full = {}, {}
  for i, address in ipairs(addresses) do
    refused[#refused + 1] = ''
    if not (checked and is_known(id, numbers[i])) then
      local name, held = target_among(members, address, holders[i])
      local reason = objection(address, name, held)
      if not reason then
        if full[name] == nil then full[name] = push(id, name) or false end
        reason = full[name]
      end
      if reason then
        refuse(id .. ':' .. numbers[i], reason)
      else
        fields[#fields + 1] = numbers[i]
        fields[#fields + 1] = name .. ' ' .. address
      end
    end
  end
  if #fields == 0 then return end
  call('HSET', JOB .. id, 'status', 'queued', 'created_at', created, 'origin', INGRESS, 'data', data,
    'rqproc_kind', 'many', 'rqproc_reply', reply, 'rqproc_deadline', deadline, unpack(fields))
  call('HINCRBY', JOB .. id, 'rqproc_left', #fields / 2)
  call('PEXPIRE', JOB .. id, timeout_ms + KEEP_MS)
end

local i = 6
while i <= #ARGV do
  local count = tonumber(ARGV[i + 2])
  submit(ARGV[i], ARGV[i + 1], i + 3, count)
  i = i + 3 + 2 * count
end
return refused
