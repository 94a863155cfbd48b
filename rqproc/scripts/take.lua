-- Gives a node the requests that are its own to run now.
--
-- ARGV  1 incarnation  2 session  3 epoch that the node last saw  4 most  5 time as RQ writes it
-- returns {1, now in ms, epoch, members, jobs}   members is empty where the epoch is the one seen
--         {0}    this incarnation has no lease
--         {-1}   a newer session of this node took over: a packet that arrived late claims nothing
--         {-2, ms}   nothing is given out for so long: see reconcile
--   a job is {id, token, address, kind, reply, deadline in ms or 0, data, lost}; where the kind is
--   'many' it has in the place of an address the numbers and addresses of its calls, in turn, and
--   the token of the first; the others' follow
--
-- Holds are what keeps an id in one place:
--   1. node a takes 42 and runs it     2. b joins and is the owner of 42 by now
--   3. route sends 42 to a, the holder, as long as it is one; a request of 42 that reached b's
--      queue before the hold is sent on to a here      4. a finishes: the next one goes to b.
local inc, session, seen, most, at = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local now = now_ms()
reap(now)
local name = name_of(inc)
local own = call('HMGET', NODE .. name, 'inc', 'session', 'draining')
if own[1] ~= inc then return { 0 } end
if own[2] ~= session then return { -1 } end
local facts = call('MGET', EPOCH, SETTLING)
local settles_at = facts[2] and tonumber(string.match(facts[2], '^%d+')) or 0
if now < settles_at then return { -2, settles_at - now } end
local current = tonumber(facts[1] or 0)
local members = current ~= seen and call('ZRANGE', MEMBERS, 0, -1) or {}
local ids = not own[3] and call('LPOP', QUEUE .. name, most) or {}
if #ids == 0 then return { 1, now, current, members, {} } end

local token = call('INCRBY', TOKEN, #ids) - #ids
local suspects = call('EXISTS', SUSPECTS) == 1

local jobs, back, room = {}, {}, most

-- Takes those of a job's calls that are to be run here.
local function claim_many(id, reply, deadline) -- rarely
  -- Sorts the calls of a job that are queued here: those to take, as many as there is room for, and
  -- those that are gone or another's by now. Returns the former's numbers and addresses, in turn, and
  -- how many requests of each address are held.
  local function sort_calls(id, flat, reply)
    local numbers, addresses, mine, held, claimed = {}, {}, {}, {}, {}
    for i = 1, #flat, 2 do
      local at, address = string.match(flat[i + 1], '^(%S*) (.*)$')
      if at == name and string.find(flat[i], '^%d+$') and address_in(address) then
        numbers[#numbers + 1], addresses[#addresses + 1] = flat[i], address
      end
    end
    if #numbers == 0 then return mine, held end
    local holders = call('HMGET', HOLDERS, unpack(addresses))
    local among = call('ZRANGE', MEMBERS, 0, -1)
    for i, address in ipairs(addresses) do
      local target, count = target_among(among, address, holders[i])
      local deaths = suspects and killer(address, now)
      if target ~= name then
        place_part(id, numbers[i], address)
      elseif count > 0 and call('HEXISTS', TAKEN .. inc, id .. ':' .. numbers[i]) == 1 then
        -- It came again after the server had forgotten it, and the node said that it runs.
        call('HSET', JOB .. id, numbers[i], '* ' .. address)
      elseif deaths then
        give_up(id .. ':' .. numbers[i], 'part', reply, deaths)
      elseif #held >= room then
        back[#back + 1] = id
        break
      else
        mine[#mine + 1] = numbers[i]
        mine[#mine + 1] = address
        held[#held + 1] = count + (claimed[address] or 0) -- two callers may ask for one id
        claimed[address] = (claimed[address] or 0) + 1
      end
    end
    return mine, held
  end

  if deadline <= now then
    call('DEL', JOB .. id)
    return nil
  end
  local mine, held = sort_calls(id, fields_of(id), reply)
  local count = #held
  if count == 0 then return nil end
  token = call('INCRBY', TOKEN, count + #ids) - #ids -- what is claimed after these has higher ones
  local first = token - count + 1
  local taken, holds, marks = {}, {}, {}
  for i = 1, count do
    local number, address = mine[2 * i - 1], mine[2 * i]
    taken[2 * i - 1], taken[2 * i] = id .. ':' .. number, string.format('%d %s', first + i - 1, address)
    holds[2 * i - 1], holds[2 * i] = address, inc .. ' ' .. (held[i] + 1)
    marks[2 * i - 1], marks[2 * i] = number, '* ' .. address
  end
  call('HSET', TAKEN .. inc, unpack(taken))
  call('HSET', HOLDERS, unpack(holds))
  call('HSET', JOB .. id, unpack(marks))
  room = room - count
  return { id, first, mine, 'many', reply, deadline, '', 0 }
end

local function claim(id)
  local job = redis.pcall('HMGET', JOB .. id, 'rqproc_address', 'status', 'rqproc_deadline',
    'rqproc_kind', 'rqproc_reply', 'data', 'rqproc_lost')
  if job.err then return nil end
  local address, deadline = address_in(job[1]), tonumber(job[3] or '') or 0
  if job[4] == 'many' then return claim_many(id, job[5] or id, deadline) end
  local kind = job[4] == 'job' and 'job' or 'call'
  if not address then
    place_again(id, name)
    return nil
  end
  if not job[6] or job[2] ~= 'queued' then return nil end -- nothing to run: it ends here
  if deadline > 0 and deadline <= now then
    cancel(id, kind)
    return nil
  end
  local target, held = target_of(address)
  if target ~= name then
    place(id, address)
    return nil
  end
  local deaths = suspects and killer(address, now)
  if deaths then
    give_up(id, kind, job[5] or id, deaths)
    return nil
  end
  token = token + 1
  if call('HSETNX', TAKEN .. inc, id, string.format('%d %s', token, address)) == 0 then return nil end
  call('HSET', HOLDERS, address, inc .. ' ' .. (held + 1))
  if kind == 'job' then
    -- `at` is when the node began to wait: a job that came later was started when it came.
    local queued_at = call('HGET', JOB .. id, 'enqueued_at') or at
    call('HSET', JOB .. id, 'status', 'started', 'started_at', queued_at > at and queued_at or at,
      'worker_name', NAMES .. name)
  end
  return { id, token, address, kind, job[5] or id, deadline, job[6], tonumber(job[7] or '') or 0 }
end

for _, id in ipairs(ids) do
  if room <= 0 then
    back[#back + 1] = id
  else
    local job = claim(id)
    if job and job[4] ~= 'many' then room = room - 1 end
    jobs[#jobs + 1] = job
  end
end
for i = #back, 1, -1 do call('LPUSH', QUEUE .. name, back[i]) end
return { 1, now, current, members, jobs }
