-- The server's clock: the only one that leases, deadlines and the order of calls go by.
--
-- returns milliseconds, and microseconds for what must be told apart.
local function clock()
  local time = call('TIME')
  local seconds, micros = tonumber(time[1]), tonumber(time[2])
  return seconds * 1000 + math.floor(micros / 1000), seconds * 1000000 + micros
end
