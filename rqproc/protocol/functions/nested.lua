-- Handlers that ask for other ids wait for them, and those handlers may wait in turn. Whom an
-- address's run waits for stands in K.waits .. ADDRESS, by the call that asks, with its deadline: until
-- then, or until that call is answered. (A coroutine that is cancelled while it waits leaves its wait
-- behind until the deadline.) A call that would close a circle is refused:
--   1. the run of A asks for B       2. the run of B asks for A: that is behind the run of A, which
--   is behind the run of B. Neither would ever end.

-- The address that a run still waits for; one that it does not is forgotten.
local function awaited(from, id, wait, now)
  local due, target = string.match(wait, '^(%d+) (.*)$')
  if tonumber(due) > now and call('EXISTS', K.job .. id) == 1 then return target end
  call('HDEL', K.waits .. from, id)
  return nil
end

-- The way, over those who wait, from an address to the parent; nil if there is none.
local function way_back(parent, from, seen, now)
  if from == parent then return { from } end
  if seen[from] then return nil end
  seen[from] = true
  local flat = call('HGETALL', K.waits .. from)
  for i = 1, #flat, 2 do
    local target = awaited(from, flat[i], flat[i + 1], now)
    local way = target and way_back(parent, target, seen, now)
    if way then
      table.insert(way, 1, from)
      return way
    end
  end
  return nil
end

-- Notes whom the parent waits for; returns the way that leads back to it, where there is one.
local function wait_for(parent, id, address, deadline, timeout_ms, now)
  local waits = K.waits .. parent
  if call('HLEN', waits) > 64 then
    local flat = call('HGETALL', waits)
    for i = 1, #flat, 2 do awaited(parent, flat[i], flat[i + 1], now) end
  end
  local way = way_back(parent, address, {}, now)
  if way then return way end
  call('HSET', waits, id, string.format('%d %s', deadline, address))
  if call('PTTL', waits) < timeout_ms then call('PEXPIRE', waits, timeout_ms) end
  return nil
end
