-- Gives a node the requests that are its own to run now.
--
-- ARGV  1 incarnation  2 session  3 epoch that the node last saw  4 most  5 time as RQ writes it
-- returns {1, now in ms, epoch, members, jobs}   members is empty where the epoch is the one seen
--         {0}    this incarnation has no lease
--         {-1}   a newer session of this node took over: a packet that arrived late claims nothing
--   a job is {id, token, address, kind, reply, deadline in ms or 0, data, lost}
--
-- Holds are what keeps an id in one place:
--   1. node a takes 42 and runs it     2. b joins and is the owner of 42 by now
--   3. route sends 42 to a, the holder, as long as it is one; a request of 42 that reached b's
--      queue before the hold is sent on to a here      4. a finishes: the next one goes to b.
local inc, session, seen, most, at = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local now = now_ms()
reap(now)
if not is_live(inc) then return { 0 } end
local name = name_of(inc)
if call('HGET', node_of(name), 'session') ~= session then return { -1 } end

local current = epoch()
local members = current ~= seen and call('ZRANGE', MEMBERS, 0, -1) or {}
if not is_member(name) then return { 1, now, current, members, {} } end

local WANTED = { 'rqproc_address', 'status', 'rqproc_deadline', 'rqproc_kind', 'rqproc_reply', 'data',
  'rqproc_lost' }

local function claim(id)
  local job = redis.pcall('HMGET', job_of(id), unpack(WANTED))
  if job.err then return nil end
  local address, status, deadline = job[1], job[2], tonumber(job[3] or 0)
  if not address or not job[6] then
    place_again(id)
    return nil
  end
  if status ~= 'queued' then return nil end
  if deadline > 0 and deadline <= now then
    cancel(id)
    return nil
  end
  if target_of(address) ~= name then
    place(id, address)
    return nil
  end
  local token = call('INCR', TOKEN)
  hold(address, inc)
  call('HSET', taken_of(inc), id, token .. ' ' .. address)
  call('HSET', job_of(id), 'status', 'started', 'started_at', at, 'worker_name', Q .. name)
  return { id, token, address, job[4], job[5], deadline, job[6], tonumber(job[7] or 0) }
end

local jobs = {}
for _, id in ipairs(call('LPOP', queue_of(name), most) or {}) do
  jobs[#jobs + 1] = claim(id)
end
return { 1, now, current, members, jobs }
