-- Answers requests that a node has taken, and releases their holds.
--
-- ARGV  1 incarnation  2 time as RQ writes it  3 1 where this node is draining, else 0
--       then for each job: id, address, kind, reply, outcome, body, note, report, keep in ms
--       (see conclude in lib.lua)
--       outcome  'ok' | 'error'
--                'dropped'   as 'ok', of an invalidation: near-caches hear of it before its caller
--                'expired'   no answer: nobody waits any more
--                'stuck'     an error, but the run goes on, so the hold stays
--                'released'  the run has ended that nobody, or a 'stuck', was answered for; it has
--                            the answer of that one, which may have been lost on its way
-- returns the ids, of those that were answered here, whose dependents wait to be enqueued
--
-- A job that is not among those taken by this very incarnation is not answered again: it was
-- finished before (the node lost that reply, and is told of the dependents once more), or it was
-- given to another node, whose answer counts.
local inc, ended = ARGV[1], ARGV[2]
local name = name_of(inc)

local function answer(i, ok)
  return conclude(ARGV[i], ARGV[i + 2], ARGV[i + 3], ARGV[i + 8], ok, ARGV[i + 5], ARGV[i + 6],
    ARGV[i + 7], NAMES .. name, ended)
end

local function is_awaited(id, kind)
  return kind == 'job' and call('EXISTS', JOB .. id .. ':dependents') == 1
end

-- Tells near-caches that an entry was dropped. Returns '', or the report of why they were not told:
-- then nobody may say that the old value is served no more.
local function tell(address)
  local told = redis.pcall('PUBLISH', DROPPED, address)
  if type(told) == 'number' then return '' end
  local advice = told.err .. ' (the nodes publish on ' .. DROPPED .. ')'
  return cjson.encode({ type = 'HandlerFailed', remote_type = 'NotPublished', message = advice })
end

local awaited = {}

-- Of what is stuck: the second time its job is gone, or has ended.
local function answer_if_open(i, id, kind)
  local open = kind == 'call' or call('HGET', JOB .. id, 'status') == 'started'
  if open and answer(i, false) and is_awaited(id, kind) then awaited[#awaited + 1] = id end
end

for i = 4, #ARGV, 9 do
  local id, address, kind, outcome = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 4]
  if outcome == 'stuck' then
    if call('HEXISTS', TAKEN .. inc, id) == 1 then answer_if_open(i, id, kind) end
  elseif call('HDEL', TAKEN .. inc, id) == 1 then
    release(address, inc)
    if outcome == 'expired' then
      cancel(id, kind)
    elseif outcome == 'released' then
      if ARGV[i + 7] ~= '' then answer_if_open(i, id, kind) end
    else
      call('HDEL', SUSPECTS, address)
      if outcome == 'dropped' then ARGV[i + 7] = tell(address) end
      local ok = outcome == 'ok' or outcome == 'dropped' and ARGV[i + 7] == ''
      if answer(i, ok) and is_awaited(id, kind) then awaited[#awaited + 1] = id end
    end
  elseif is_awaited(id, kind) then
    local status = call('HGET', JOB .. id, 'status')
    if status == 'finished' or status == 'failed' then awaited[#awaited + 1] = id end
  end
end
-- A draining node takes nothing new: what waited for a hold of its own goes to the new owner.
if ARGV[3] == '1' and is_live(inc) then place_all_again(QUEUE .. name) end
return awaited
