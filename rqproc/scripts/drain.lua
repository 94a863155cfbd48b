-- Takes a node out of the members but leaves it its lease: it finishes what it holds.
--
-- ARGV  1 name
-- returns 1, or 0 where no such node is alive. Repeated, it changes nothing.
local name = ARGV[1]
reap(now_ms())
if not call('HGET', NODES, name) then return 0 end
if call('ZREM', MEMBERS, name) == 1 then
  call('INCR', EPOCH)
  call('HSET', NODE .. name, 'draining', 1)
  place_all_again(QUEUE .. name)
end
return 1
