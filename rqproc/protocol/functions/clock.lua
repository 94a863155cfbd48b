-- The clock that leases, deadlines and the order of calls go by. It is the server's, but it never runs
-- back: what was given by it would last longer by as much, a dead node's lease above all.
--
--   1. a dies; its lease ends in five seconds    2. the server's clock is set back by an hour
--   3. this clock goes on from where it was: in five seconds a's ids are others'.
--
-- What this process of the server remembers of it, besides keys:
--   K.latest  the last moment told, in ms; before the first one it is K.pulse, since every lease was
--             given at that moment or before
--   K.ahead   ms that this clock is ahead of the server's
--   K.gap     ms between the last two moments; nil where this process has told but one
--   K.half    ms, half of the shortest lease that this process has given

-- returns milliseconds, and microseconds for what must be told apart
local function clock()
  local ms, micros = server_time()
  local before = K.latest
  if not before then before, K.ahead = tonumber(call('GET', K.pulse) or 0), 0 end
  if ms + K.ahead < before then K.ahead = before - ms end
  local now = ms + K.ahead
  K.gap = K.latest and now - before
  K.latest = now
  return now, micros + K.ahead * 1000
end
