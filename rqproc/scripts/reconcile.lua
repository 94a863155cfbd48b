-- Opens a new session of a node, and tells it what it has taken: after a broken connection it
-- cannot know which of its last packets the server has carried out.
--
-- ARGV  1 incarnation  2 session, higher than any before  3 the server's run id, '' if unknown
--       4 1 where this process was a member before under another incarnation, else 0
--       then what the node has not yet finished: id, token, address. The id of a run for which nobody
--       is answered any more is '~' and its token: no other run of its address may meet it.
-- returns as take does, with the members in any case, without the '~'; {-1} where a newer session
--   has begun. The data of a job whose hash has expired is empty: nobody waits for it any more, but
--   it may still be running, so it is still held.
--
-- Another run id means another server process, which may have lost the last writes of the one
-- before, takes among them. So nothing is given out at first:
--   1. a takes 42 and runs it; the server dies, and its successor knows nothing of that take
--   2. 42 is in the queue of b, who would run it too: but take gives out nothing while SETTLING
--   3. a says here that it runs 42, and holds it again; when all that are known to live have spoken,
--      or after a lease where nobody knows who they were, takes go on.
-- Fencing tokens and the epoch are raised above all that may have been lost.
local inc, session, server = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = now_ms()

local function forgetful()
  local known = call('GET', SERVER)
  if server == '' or known == server then return end
  call('SET', SERVER, server)
  if not known and ARGV[4] == '0' then return end -- the first of all
  raise_tokens(now)
  call('INCRBY', EPOCH, 1000)
  local longest_ms = 0
  for _, live in ipairs(call('ZRANGE', LEASES, 0, -1)) do
    longest_ms = math.max(longest_ms, tonumber(call('HGET', NODE .. name_of(live), 'lease')))
  end
  call('SET', SETTLING, string.format('%d %s', now + longest_ms, known and 'known' or 'unknown'),
    'PX', longest_ms + 60000)
end

-- Holds what the node says it runs and the server has forgotten, unless another holds it by now.
local function hold_again(id, token, address)
  local holder, count = holder_of(address)
  if holder and holder ~= inc then return end
  local job, number = part_of(id)
  local part = job and redis.pcall('HGET', JOB .. job, number)
  if type(part) == 'string' then call('HSET', JOB .. job, number, '* ' .. address) end
  local status = redis.pcall('HGET', JOB .. id, 'status')
  if type(status) == 'string' and status ~= 'queued' and status ~= 'started' then return end
  if call('HSETNX', TAKEN .. inc, id, token .. ' ' .. address) == 0 then return end
  call('HSET', HOLDERS, address, inc .. ' ' .. (count + 1))
  if type(status) == 'string' and call('HGET', JOB .. id, 'rqproc_kind') == 'job' then
    call('HSET', JOB .. id, 'status', 'started')
  end
end

local function all_have_told()
  for _, live in ipairs(call('ZRANGE', LEASES, 0, -1)) do
    if call('HGET', NODE .. name_of(live), 'server') ~= server then return false end
  end
  return true
end

reap(now)
if not is_live(inc) then return { 0 } end
local about = NODE .. name_of(inc)
if session < tonumber(call('HGET', about, 'session')) then return { -1 } end -- it came late
call('HSET', about, 'session', session)
forgetful()
local forgot = call('HGET', about, 'server') ~= server
for i = 5, #ARGV, 3 do
  -- To the same server it is said only of runs without an answer: what is not taken is answered.
  if forgot or string.sub(ARGV[i], 1, 1) == '~' then hold_again(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
end
call('HSET', about, 'server', server)
if string.find(call('GET', SETTLING) or '', ' known') and all_have_told() then call('DEL', SETTLING) end

local jobs = {}
local flat = call('HGETALL', TAKEN .. inc)

-- Of a call that came with others: its data is in its address.
local function tell_part(id, token, address)
  local job, number = part_of(id)
  local fields = { false }
  if job then
    fields = redis.pcall('HMGET', JOB .. job, 'rqproc_kind', 'rqproc_reply', 'rqproc_deadline',
      'lost:' .. number, number)
  end
  if fields[1] ~= 'many' or not fields[5] then return false end
  jobs[#jobs + 1] = { id, tonumber(token), address, 'part', fields[2] or job,
    tonumber(fields[3] or '') or 0, '', tonumber(fields[4] or '') or 0 }
  return true
end

local function tell(id, claim)
  local token, address = string.match(claim, '^(%d+) (.*)$')
  if tell_part(id, token, address) then return end
  local job = redis.pcall('HMGET', JOB .. id, 'rqproc_kind', 'rqproc_reply', 'rqproc_deadline', 'data',
    'rqproc_lost')
  local kind = job[1] == 'job' and 'job' or 'call'
  jobs[#jobs + 1] = { id, tonumber(token), address, kind, job[2] or id,
    tonumber(job[3] or '') or 0, job[4] or '', tonumber(job[5] or '') or 0 }
end

for i = 1, #flat, 2 do
  if string.sub(flat[i], 1, 1) ~= '~' then tell(flat[i], flat[i + 1]) end
end
table.sort(jobs, function(a, b) return a[2] < b[2] end)
return { 1, now, epoch(), call('ZRANGE', MEMBERS, 0, -1), jobs }
