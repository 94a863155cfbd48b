-- Reads the whole membership at one instant.
--
-- returns {epoch, members, nodes}; a node is {name, incarnation, state, lease left in ms, queued,
--   held, stuck, entries, hits, joined, misses, pid, host}, sorted by name
local now = now_ms()
reap(now)
local nodes = {}
for _, inc in ipairs(call('ZRANGE', LEASES, 0, -1)) do
  local name = name_of(inc)
  local about = call('HMGET', NODE .. name, 'stuck', 'entries', 'hits', 'joined', 'misses', 'pid', 'host')
  nodes[#nodes + 1] = { name, inc, is_member(name) and 'member' or 'draining',
    tonumber(call('ZSCORE', LEASES, inc)) - now, call('LLEN', QUEUE .. name),
    call('HLEN', TAKEN .. inc), unpack(about) }
end
table.sort(nodes, function(a, b) return a[1] < b[1] end)
return { epoch(), call('ZRANGE', MEMBERS, 0, -1), nodes }
