-- The server's own clock: what others than this library read goes by it.
--
-- returns milliseconds, and microseconds
local function server_time()
  local time = call('TIME')
  local seconds, micros = tonumber(time[1]), tonumber(time[2])
  return seconds * 1000 + math.floor(micros / 1000), seconds * 1000000 + micros
end
