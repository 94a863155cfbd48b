-- Answers requests that a node has taken, and releases their holds.
--
-- ARGV  1 incarnation  2 time as RQ writes it
--       then for each job: id, token, address, kind, reply, 'ok' | 'error' | 'expired', body, note,
--       report     (body, note, report: see conclude in lib.lua; 'expired' has no answer)
-- returns the ids, of those that were answered here, whose dependents wait to be enqueued
--
-- A job that this incarnation does not hold under this token is left alone: it was finished before
-- (the node lost that reply), or it was given to another node, whose answer counts.
local inc, ended = ARGV[1], ARGV[2]
local name, taken = name_of(inc), taken_of(inc)
local now = now_ms()
reap(now)

local awaited = {}
for i = 3, #ARGV, 9 do
  local id, token, address, kind, outcome = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 5]
  if call('HGET', taken, id) == token .. ' ' .. address then
    call('HDEL', taken, id)
    release(address, inc)
    if call('EXISTS', job_of(id)) == 0 then
      -- deleted by its owner while it ran: nobody waits
    elseif outcome == 'expired' then
      cancel(id)
    else
      conclude(id, kind, ARGV[i + 4], outcome == 'ok', ARGV[i + 6], ARGV[i + 7], ARGV[i + 8], ended,
        Q .. name, now)
      if kind == 'job' and call('EXISTS', job_of(id) .. ':dependents') == 1 then
        awaited[#awaited + 1] = id
      end
    end
  end
end
-- A draining node takes nothing new: what waited for a hold of its own goes to the new owner.
if is_live(inc) and not is_member(name) then place_all_again(queue_of(name)) end
return awaited
