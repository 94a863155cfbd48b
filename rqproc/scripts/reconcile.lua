-- Opens a new session of a node, and tells it what it has taken: after a broken connection it
-- cannot know which of its last packets the server has carried out.
--
-- ARGV  1 incarnation  2 session, higher than any before
-- returns {1, now in ms, jobs}     jobs as in take
--         {0}                      this incarnation has no lease
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
  local job = call('HMGET', JOB .. id, 'rqproc_kind', 'rqproc_reply', 'rqproc_deadline', 'data',
    'rqproc_lost')
  if job[4] then
    jobs[#jobs + 1] = { id, tonumber(token), address, job[1] or 'call', job[2] or id,
      tonumber(job[3] or 0), job[4], tonumber(job[5] or 0) }
  else -- its hash is gone: nobody waits any more
    call('HDEL', TAKEN .. inc, id)
    release(address, inc)
  end
end
table.sort(jobs, function(a, b) return a[2] < b[2] end)
return { 1, now, jobs }
