-- Reads what jobs ask for, whatever stands at their keys.
--
-- ARGV  job ids
-- returns the data of each, '' where there is none
local found = {}
for i, id in ipairs(ARGV) do
  local data = redis.pcall('HGET', JOB .. id, 'data')
  found[i] = type(data) == 'string' and data or ''
end
return found
