-- Takes a node out of the members but leaves it its lease: it finishes what it holds.
--
-- ARGV  1 name  2 incarnation, or '' for whichever there is
-- returns 1, or 0 where no such node is alive. Repeated, it only sends on what waits for holds that
--   have ended.
local name, inc = ARGV[1], ARGV[2]
reap(now_ms())
local present = call('HGET', NODES, name)
if not present or (inc ~= '' and inc ~= present) then return 0 end
if call('ZREM', MEMBERS, name) == 1 then
  call('INCR', EPOCH)
  call('HSET', NODE .. name, 'draining', 1)
end
place_all_again(QUEUE .. name, name)
return 1
