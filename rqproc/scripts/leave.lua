-- Takes a node out at once: by its own word when it has finished, or by its supervisor's, which has
-- seen the process die. What it had taken goes to the new targets.
--
-- ARGV  1 name  2 incarnation, or ''  3 pid  4 host
--       the node itself gives the first two; its parent the name, pid and host that it knew
-- returns 1, or 0 where that very node is not alive (a successor of its name is left alone)
local name, inc = ARGV[1], ARGV[2]
local now = now_ms()
reap(now)
local present = call('HGET', NODES, name)
if not present then return 0 end
if inc == '' then
  local known = call('HMGET', NODE .. name, 'pid', 'host')
  if known[1] ~= ARGV[3] or known[2] ~= ARGV[4] then return 0 end
elseif inc ~= present then
  return 0
end
drop({ present }, inc == '', now)
return 1
