-- Who lives: leases, members, the epoch.
--
-- MARK stands in K.leases with the score 0 while route must look closer: some id is suspected, or some
-- caller's name is fenced. So the one look that route takes at the leases tells it that too.
local MARK = '!'

local function is_live(inc) return call('ZSCORE', K.leases, inc) ~= false end
local function is_member(inc) return call('ZSCORE', K.members, inc) ~= false end
local function epoch() return tonumber(call('GET', K.epoch) or 0) end

local function live()
  local found = {}
  for _, inc in ipairs(call('ZRANGE', K.leases, 0, -1)) do
    if inc ~= MARK then found[#found + 1] = inc end
  end
  return found
end

local function names_of(incs)
  local names = {}
  for i, inc in ipairs(incs) do names[i] = name_of(inc) end
  return names
end

-- The members have changed: slots are dealt anew, if there are any. What is routed from now on lies
-- behind a mark in the queue of whoever it is routed to: a node that comes to it knows that it must ask
-- who the members are, before it serves what lies behind. `joined`: the one that has just joined, which
-- is told without that.
local function epoch_changed(by, joined)
  call('INCRBY', K.epoch, by)
  deal()
  for _, inc in ipairs(call('ZRANGE', K.members, 0, -1)) do
    if inc ~= joined then call('RPUSH', queue_of(inc), EPOCH_MARK) end
  end
end

-- Nothing that has been claimed by now is an entry any more: of a resource, or of all with ''. Those that
-- are kept are not looked at: a node learns of it as it learns of members, since what is routed from now
-- on lies behind a mark in its queue:
--   1. 42 is found at a, which answers.   2. All is flushed: a mark lies in a's queue.
--   3. The caller is told. Whoever asks for 42 from now on is queued behind the mark.
--   4. a comes to the mark, asks, and is told the token. Its entries up to it are none any more, and
--      nobody joins a run that was claimed before, nor is its value kept.
-- A node that is no member any more may be sent calls of what it still runs, so it has a mark too.
local MOST_FLUSHED = 1000

local function flush(resource)
  if resource == '' or call('ZCARD', K.flushed) >= MOST_FLUSHED then
    call('DEL', K.flushed)
    resource = ''
  end
  call('ZADD', K.flushed, call('GET', K.token), resource)
  call('INCRBY', K.epoch, 1)
  for _, inc in ipairs(live()) do call('RPUSH', queue_of(inc), EPOCH_MARK) end
end

-- The node that has a call; '' where it waits for one, nil where nobody has it. `group`: what it was
-- sent with, or ''. Returns besides what is open there for it: the call itself, or its group.
local function whereabouts(id, group)
  if call('EXISTS', K.job .. id) == 1 then
    for _, inc in ipairs(live()) do
      if call('ZSCORE', K.open .. inc, id) then return inc, id end
    end
    return '', id
  end
  local place, address = string.match(id, '_(%d+)%-(.*)$')
  if group == '' or not place then return nil end
  local part = ' ' .. place .. ' ' .. address .. ' '
  local flat = call('HGETALL', K.job .. group)
  for i = 1, #flat, 2 do
    if string.find(' ' .. flat[i + 1] .. ' ', part, 1, true) then return flat[i], group end
  end
  return nil
end
