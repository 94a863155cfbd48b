-- What callers do where something has gone wrong.

-- fence: from now on what names this caller and says that it is new is dropped: it comes late, over a
-- connection that the caller has given up, and was sent again since.
--
-- args  2 the caller's name  3 ms for which it may still come
--   1. a connection breaks; its last packet, with new calls, still lies before a server that stands
--   2. the caller sets the fence of the name that it sent them under, and asks for them again
--   3. one is answered, and the packet of 1 arrives: dropped, because of the fence.
local function fence(args)
  local ms = tonumber(args[3])
  call('SET', K.fence .. args[2], 1, 'PX', ms)
  if call('PTTL', K.fences) < ms then call('SET', K.fences, 1, 'PX', ms) end
  call('ZADD', K.leases, 0, MARK)
  return 1
end

-- How long a node has been silent, where that is more than half of its lease; else nil. One that does
-- not tell is given all of it.
local function silence(inc, now)
  local about = call('HMGET', K.node .. name_of(inc), 'lease', 'beat')
  if not (about[1] and about[2]) then return nil end
  local silent_ms = now - tonumber(about[2])
  return silent_ms > tonumber(about[1]) / 2 and silent_ms or nil
end

-- withdraw: takes back calls whose node cannot be expected to answer: their caller will do without it.
--
-- args  2 ms until the caller's deadline
--       then for each call without an answer: id, group
-- returns for each call '' or its answer: why it was withdrawn, or what it has been answered with, or
--   where that lies: see pushing.lua
--
-- A call is lost where no member lives; where the server has forgotten it; where the node that has it
-- has been silent for more than half of its lease. What a node that beats has is not lost, however slow
-- it is, and what is answered is not lost.
--
-- The reason is kept, so that nothing else is done for the call:
--   1. it is not open any more: a claim drops it, and an answer finds nothing to end (a handler that
--      runs already is not ended by this)
--   2. a packet that asks for it again, late on its way, finds the reason
--   3. so does a second withdrawal, after a lost reply.
local function withdraw(args)
  local keep_ms = tonumber(args[2]) + KEEP_MS
  local now = clock()
  reap(now)
  local nobody_lives, told = call('ZCARD', K.members) == 0, {}

  -- Why a call is lost, nil where it is not.
  local function loss(inc)
    if not inc then
      return nobody_lives and { type = 'NoLiveNode' } or { type = 'OwnerLost', node = '', silent_ms = 0 }
    end
    local silent_ms = inc ~= '' and silence(inc, now)
    if silent_ms then return { type = 'OwnerLost', node = name_of(inc), silent_ms = silent_ms } end
    return nobody_lives and inc == '' and { type = 'NoLiveNode' } or nil
  end

  for i = 3, #args, 2 do
    local id, group = args[i], args[i + 1]
    local payload = told_before(id)
    if not payload then
      local inc = whereabouts(id, group)
      local report = loss(inc)
      if report then
        payload = id .. ' error 0 0 0 - ' .. cjson.encode(report)
        call('SET', K.withdrawn .. id, payload, 'PX', keep_ms)
        call('DEL', K.job .. id)
        if inc and inc ~= '' then call('ZREM', K.open .. inc, id) end
      end
    end
    told[#told + 1] = payload or ''
  end
  return told
end

registered_for_full('fence', fence)
registered_for_full('withdraw', withdraw)
