-- Says who owns addresses and who holds them.
--
-- ARGV  addresses
-- returns {epoch, members, {owner or '', holder or ''} for each address}
reap(now_ms())
local found = {}
for i, address in ipairs(ARGV) do
  local inc = holder_of(address)
  found[i] = { owner_of(address) or '', inc and name_of(inc) or '' }
end
return { epoch(), call('ZRANGE', MEMBERS, 0, -1), found }
