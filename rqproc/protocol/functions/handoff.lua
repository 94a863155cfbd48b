-- What nodes have kept of ids that move: given to the next owner, so that it need not make it anew.
--
--   K.entries .. incarnation  list: packets for that node; HANDED_MS
--
-- A packet is the epoch, and for each entry a line: its address, and what the two nodes tell each other
-- of it (see handoff.py). A mark in the owner's queue tells it to look here, behind whoever the members
-- are. What an entry must not be older than is told apart by the epoch, the holds, and the owner:
--   1. a has an entry of 42. b joins, and is the owner in epoch 7.
--   2. All that changes 42 in epoch 7 is claimed by b, or by whoever holds 42. If that is anyone, what
--      is kept of 42 is given to nobody. Else b alone knows: it takes nothing of what it has claimed in
--      epoch 7, be it an invalidation that is over by now.
--   3. In epoch 8 it may have been another's: what was given in epoch 7 is taken by nobody then, and
--      what comes late is refused here.
-- A flush is a new epoch, too. Whatever is lost on its way is lost: it is made anew.
local HANDED_MS = 10000
local MOST_PACKETS = 64 -- that may lie ready for a node

-- hand_over: gives entries to the owners of their ids.
--
-- args  2 incarnation  3 session  4 epoch in which they have moved
--       then for each entry its address, and the rest of its line
-- returns {1, places}  of those, counted from 0, whose owner has too much lying ready: try again later
--         {0}, {-1}, {-2, ms}  as claim does
--         {-3}         this is another epoch: they are worth nothing any more
--
-- A packet that comes twice, or late, gives the same entries again, or none.
local function hand_over(args)
  local inc, at = args[2], args[4]
  local now = clock()
  reap(now)
  local refused = refusal(inc, args[3], now)
  if refused then return refused end
  if epoch() ~= tonumber(at) then return { -3 } end

  local owners, lines, later = owners_of(args, 5, 2) or {}, {}, {}
  for i = 5, #args, 2 do
    local owner = owners[i]
    if owner and owner ~= inc and not holder_of(args[i]) then
      local packet = lines[owner]
      if not packet then
        packet = { at, is_full = call('LLEN', K.entries .. owner) >= MOST_PACKETS }
        lines[owner] = packet
      end
      if packet.is_full then
        later[#later + 1] = (i - 5) / 2
      else
        packet[#packet + 1] = args[i] .. ' ' .. args[i + 1]
      end
    end
  end
  for owner, packet in pairs(lines) do
    if not packet.is_full then
      call('RPUSH', K.entries .. owner, table.concat(packet, '\n'))
      call('PEXPIRE', K.entries .. owner, HANDED_MS)
      call('RPUSH', queue_of(owner), EPOCH_MARK)
    end
  end
  return { 1, later }
end

-- take_over: takes the first packet that lies ready for a node.
--
-- args  2 incarnation
-- returns {now in ms, packet, how many are left}; {now} where there is none
local function take_over(args)
  local now = clock()
  local packet = call('LPOP', K.entries .. args[2])
  return packet and { now, packet, call('LLEN', K.entries .. args[2]) } or { now }
end

registered('hand_over', hand_over)
registered_for_full('take_over', take_over)
