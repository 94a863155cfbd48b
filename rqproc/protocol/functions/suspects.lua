-- Ids that nodes die on. A node that dies while it runs an id leaves a note; when three in a row have
-- died on one within ten minutes, its calls are refused for a minute, so that it cannot take the
-- cluster down.
--
-- K.suspects  hash: address -> 'DEATHS FIRST_MS LAST_MS'
local MAX_ATTEMPTS = 3

-- How many nodes have died on an address since one of its runs last ended, where that is so many that
-- it is refused for now; else nil.
local function killer(address, now)
  local found = call('HGET', K.suspects, address)
  if not found then return nil end
  local deaths, last = string.match(found, '^(%d+) %d+ (%d+)$')
  if tonumber(deaths) < MAX_ATTEMPTS or now - tonumber(last) >= 60000 then return nil end
  return tonumber(deaths)
end

local function forget_old_suspects(now)
  local flat = call('HGETALL', K.suspects)
  for i = 1, #flat, 2 do
    local first = tonumber(string.match(flat[i + 1], '^%d+ (%d+)'))
    if now - first > 600000 then call('HDEL', K.suspects, flat[i]) end
  end
end

local function suspect(address, now)
  local found = call('HGET', K.suspects, address) or ''
  local deaths, first = string.match(found, '^(%d+) (%d+) %d+$')
  if not deaths or now - tonumber(first) > 600000 then deaths, first = 0, now end
  if call('HLEN', K.suspects) > 1000 then forget_old_suspects(now) end
  call('HSET', K.suspects, address, string.format('%d %d %d', deaths + 1, first, now))
  call('PEXPIRE', K.suspects, 600000)
end
