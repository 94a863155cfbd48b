-- Opens a new session of a node, and tells it what it has taken: after a broken connection it
-- cannot know which of its last packets the server has carried out.
--
-- ARGV  1 incarnation  2 session, higher than any before
-- returns as take does, with the members in any case. The data of a job whose hash has expired is
--   empty: nobody waits for it any more, but it may still be running, so it is still held.
local inc, session = ARGV[1], tonumber(ARGV[2])
local now = now_ms()
reap(now)
if not is_live(inc) then return { 0 } end
local about = NODE .. name_of(inc)
if session > tonumber(call('HGET', about, 'session')) then call('HSET', about, 'session', session) end
local jobs = {}
local flat = call('HGETALL', TAKEN .. inc)
for i = 1, #flat, 2 do
  local id = flat[i]
  local token, address = string.match(flat[i + 1], '^(%d+) (.*)$')
  local job = redis.pcall('HMGET', JOB .. id, 'rqproc_kind', 'rqproc_reply', 'rqproc_deadline', 'data',
    'rqproc_lost')
  jobs[#jobs + 1] = { id, tonumber(token), address, job[1] or 'call', job[2] or id,
    tonumber(job[3] or '') or 0, job[4] or '', tonumber(job[5] or '') or 0 }
end
table.sort(jobs, function(a, b) return a[2] < b[2] end)
return { 1, now, epoch(), call('ZRANGE', MEMBERS, 0, -1), jobs }
