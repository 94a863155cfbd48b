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
--         where the kind is 'many', the address is the count of calls that are answered at once, all
--         with values, and three more follow for each: number, address, answer in JSON
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
local function tell(address) -- rarely
  local told = redis.pcall('PUBLISH', DROPPED, address)
  if type(told) == 'number' then return '' end
  local advice = told.err .. ' (the nodes publish on ' .. DROPPED .. ')'
  return cjson.encode({ type = 'HandlerFailed', remote_type = 'NotPublished', message = advice })
end

local awaited = {}

-- Of what is stuck: the second time its job is gone, or has ended.
local function answer_if_open(i, id, kind) -- rarely
  local open = kind ~= 'job' or call('HGET', JOB .. id, 'status') == 'started'
  if open and answer(i, false) and is_awaited(id, kind) then awaited[#awaited + 1] = id end
end

local function finish_one(i)
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

-- Answers calls of one job together. i: where it stands; count: of its calls.
local function finish_many(i, count) -- rarely
  -- Releases all of these at once.
  local function release_many(addresses)
    local idle, counts, times = {}, {}, {}
    for i, held in ipairs(call('HMGET', HOLDERS, unpack(addresses))) do
      local address = addresses[i]
      times[address] = (times[address] or 0) + 1
      local holder, count = string.match(held or '', '^(%S+) (%d+)$')
      if holder == inc and tonumber(count) <= times[address] then
        idle[#idle + 1] = address
      elseif holder == inc then
        counts[#counts + 1] = address
        counts[#counts + 1] = inc .. ' ' .. (count - times[address])
      end
    end
    if #counts > 0 then call('HSET', HOLDERS, unpack(counts)) end
    if #idle > 0 then call('HDEL', HOLDERS, unpack(idle)) end
  end

  -- Those of a job's calls that nobody has answered: some may have been withdrawn.
  local function still_open(job, numbers, answers)
    local open_numbers, open_answers = {}, {}
    for k, part in ipairs(call('HMGET', JOB .. job, unpack(numbers))) do
      if part then
        open_numbers[#open_numbers + 1] = numbers[k]
        open_answers[#open_answers + 1] = answers[k]
      end
    end
    return open_numbers, open_answers
  end

  local job, reply = ARGV[i], ARGV[i + 3]
  local names = {}
  for k = 1, count do names[k] = job .. ':' .. ARGV[i + 6 + 3 * k] end
  local taken = call('HMGET', TAKEN .. inc, unpack(names))
  local mine, numbers, addresses, answers = {}, {}, {}, {}
  for k = 1, count do
    if taken[k] then
      local at = i + 6 + 3 * k
      mine[#mine + 1] = names[k]
      numbers[#numbers + 1], addresses[#addresses + 1] = ARGV[at], ARGV[at + 1]
      answers[#answers + 1] = ARGV[at + 2]
    end
  end
  if #mine == 0 then return end
  call('HDEL', TAKEN .. inc, unpack(mine))
  release_many(addresses)
  if call('EXISTS', SUSPECTS) == 1 then call('HDEL', SUSPECTS, unpack(addresses)) end
  numbers, answers = still_open(job, numbers, answers)
  if #numbers == 0 then return end
  call('HDEL', JOB .. job, unpack(numbers))
  if add(JOB .. job, 'rqproc_left', -#numbers) <= 0 then call('DEL', JOB .. job) end
  call('XADD', RESULTS .. reply, '*', 'type', 1, 'worker_name', NAMES .. name, 'rqproc_many',
    '[' .. table.concat(answers, ',') .. ']', 'rqproc',
    job .. ' many ' .. table.concat(numbers, ','))
  keep_stream(reply, ARGV[i + 8])
end

local i = 4
while i <= #ARGV do
  if ARGV[i + 2] == 'many' then
    local count = tonumber(ARGV[i + 1])
    finish_many(i, count)
    i = i + 3 * count
  else
    finish_one(i)
  end
  i = i + 9
end
-- A draining node takes nothing new: what waited for a hold of its own goes to the new owner.
if ARGV[3] == '1' and is_live(inc) then place_all_again(QUEUE .. name, name) end
return awaited
