-- Gives a node the requests that are its own to run now.
--
-- ARGV  1 incarnation  2 session  3 epoch that the node last saw  4 most  5 time as RQ writes it
-- returns {1, now in ms, epoch, members, jobs}   members is empty where the epoch is the one seen
--         {0}    this incarnation has no lease
--         {-1}   a newer session of this node took over: a packet that arrived late claims nothing
--         {-2, ms}   nothing is given out for so long: see reconcile
--   a job is {id, token, address, kind, reply, deadline in ms or 0, data, lost}
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
local settles_at = tonumber(string.match(call('GET', SETTLING) or '', '^%d+') or 0)
if now < settles_at then return { -2, settles_at - now } end
local current = epoch()
local members = current ~= seen and call('ZRANGE', MEMBERS, 0, -1) or {}
local ids = not own[3] and call('LPOP', QUEUE .. name, most) or {}
if #ids == 0 then return { 1, now, current, members, {} } end

local token = call('INCRBY', TOKEN, #ids) - #ids
local suspects = call('EXISTS', SUSPECTS) == 1

local function claim(id)
  local job = redis.pcall('HMGET', JOB .. id, 'rqproc_address', 'status', 'rqproc_deadline',
    'rqproc_kind', 'rqproc_reply', 'data', 'rqproc_lost')
  if job.err then return nil end
  local address, deadline = address_in(job[1]), tonumber(job[3] or '') or 0
  local kind = job[4] == 'job' and 'job' or 'call'
  if not address then
    place_again(id)
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

local jobs = {}
for _, id in ipairs(ids) do jobs[#jobs + 1] = claim(id) end
return { 1, now, current, members, jobs }
