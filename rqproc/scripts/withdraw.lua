-- Takes back calls whose node cannot be expected to answer: their caller will do without it.
--
-- ARGV  1 reply: the stream that answers go to  2 ms until the callers' deadline
--       then the ids of calls without an answer
-- returns how many were withdrawn; each of these is answered in its stream, with the reason
--
-- A call is lost where no member lives; where the server has forgotten it; where the node that has
-- it, in its queue or taken, has been silent for more than half of its lease. What a node that beats
-- has is not lost, however slow it is, and what is answered is not lost.
--
-- The reason stands where an answer stands, so that nothing else is done for the call:
--   1. its job is deleted: a take of its node drops the id, a finish finds nothing to answer and
--      releases the hold (a handler that runs already is not ended by this)
--   2. a route of it that was late on its way finds the answer, and leaves the call alone
--   3. a second withdrawal, after a lost reply, finds the answer too.
-- What has no job is answered or lost: its stream tells which.
local KEEP_MS = 60000
local reply, timeout_ms = ARGV[1], tonumber(ARGV[2])
local now = now_ms()
reap(now)
local answered = answered_in(reply)
local nobody = call('ZCARD', MEMBERS) == 0

-- The nodes that must be asked what they have: the silent ones, and the last ones that drain.
local nodes = {}
local leases = call('ZRANGE', LEASES, 0, -1, 'WITHSCORES')
for i = 1, #leases, 2 do
  local name = name_of(leases[i])
  local about = call('HMGET', NODE .. name, 'lease', 'grace')
  local lease_ms = tonumber(about[1] or 0)
  local silent_ms = lease_ms - (tonumber(leases[i + 1]) - now)
  if about[2] == '1' then silent_ms = silent_ms + math.floor(lease_ms / 2) end -- it has had more
  local silent = silent_ms > lease_ms / 2
  if silent or nobody then
    local queued = {}
    for _, id in ipairs(silent and call('LRANGE', QUEUE .. name, 0, -1) or {}) do queued[id] = true end
    nodes[#nodes + 1] = { name = name, taken = TAKEN .. leases[i], queued = queued, silent = silent,
      report = { type = 'OwnerLost', node = name, silent_ms = silent_ms } }
  end
end

-- Why a call is lost, nil where it is not.
local function loss(id)
  local job, number = part_of(id)
  local part = job and call('HGET', JOB .. job, number)
  if not part and call('EXISTS', JOB .. id) == 0 then
    if answered[id] then return nil end
    return nobody and { type = 'NoLiveNode' } or { type = 'OwnerLost', node = '', silent_ms = 0 }
  end
  for _, node in ipairs(nodes) do
    local taken = call('HEXISTS', node.taken, id) == 1
    local queued = node.queued[id] or part and string.match(part, '^%S*') == node.name
    if node.silent and (taken or queued) then return node.report end
    if taken then return nil end
  end
  return nobody and { type = 'NoLiveNode' } or nil
end

local withdrawn = 0
for i = 3, #ARGV do
  local report = loss(ARGV[i])
  if report then
    if not part_of(ARGV[i]) or end_part(ARGV[i]) == 0 then call('DEL', JOB .. ARGV[i]) end
    call('XADD', RESULTS .. reply, '*', 'type', 2, 'rqproc', ARGV[i] .. ' error 0 0 0',
      'rqproc_error', cjson.encode(report))
    withdrawn = withdrawn + 1
  end
end
if withdrawn > 0 then keep_stream(reply, timeout_ms + KEEP_MS) end
return withdrawn
