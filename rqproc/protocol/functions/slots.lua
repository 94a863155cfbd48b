-- Placement by slots: 4096 hash slots, each dealt to a member. Its members have the score 1 in K.members;
-- those of placement by modulo have 0. There are never both, see join. The same arithmetic as in
-- placement.py.
--
--   K.slots   hash: hash slot -> incarnation, there while such members are; dealt anew with each change of
--             the members, in the same step as the epoch
--
-- With every change as few slots move as can: what joins n others takes 1/(n+1) of them, what leaves gives
-- up its own.
local SLOTS = 4096
local FACTOR = 2053
local BY_SLOTS = 1

-- The address's slot in digits of base SLOTS, mixed: a double has them all, and so are the products exact.
local function hash_slot_of(address)
  local rest, found = tonumber(string.match(address, '^%d+')), 0
  repeat
    local digit = rest % SLOTS
    found = (found * FACTOR + digit) % SLOTS
    rest = (rest - digit) / SLOTS
  until rest == 0
  return found
end

-- 'slots' where there are any; nil where the placement is by modulo, or nobody lives.
local function placement() return call('EXISTS', K.slots) == 1 and 'slots' or nil end

-- Who has which slot, as a table from 0 on; and the slots of each of `members`, and those of others.
local function dealt(members)
  local of, have, free, flat = {}, {}, {}, call('HGETALL', K.slots)
  for _, inc in ipairs(members) do have[inc] = {} end
  for i = 1, #flat, 2 do of[tonumber(flat[i])] = flat[i + 1] end
  for slot = 0, SLOTS - 1 do
    local slots = have[of[slot]] or free
    slots[#slots + 1] = slot
  end
  return have, free
end

-- How many slots each member is to have: shares differ by one, and those have more who had most.
local function shares(members, have)
  local ranked, want = {}, {}
  for i = 1, #members do ranked[i] = i end
  table.sort(ranked, function(a, b)
    local more, less = #have[members[a]], #have[members[b]]
    return more > less or more == less and a < b
  end)
  local share, rest = math.floor(SLOTS / #members), math.fmod(SLOTS, #members)
  for place, i in ipairs(ranked) do want[members[i]] = share + (place <= rest and 1 or 0) end
  return want
end

-- Those that are free go round to who lacks some.
local function hand_out(members, have, want, free)
  local flat, turn, lacks = {}, 0, {}
  for _, inc in ipairs(members) do lacks[inc] = want[inc] - #have[inc] end
  table.sort(free)
  for _, slot in ipairs(free) do
    repeat turn = math.fmod(turn, #members) + 1 until lacks[members[turn]] > 0
    lacks[members[turn]] = lacks[members[turn]] - 1
    flat[#flat + 1], flat[#flat + 2] = slot, members[turn]
  end
  for i = 1, #flat, 2000 do call('HSET', K.slots, unpack(flat, i, math.min(i + 1999, #flat))) end
end

-- Deals the slots among those who are members by now.
local function deal()
  local members = call('ZRANGEBYSCORE', K.members, BY_SLOTS, BY_SLOTS)
  if #members == 0 then
    call('DEL', K.slots)
    return
  end
  local have, free = dealt(members)
  local want = shares(members, have)
  for _, inc in ipairs(members) do
    local slots = have[inc]
    local given = #slots - want[inc]
    for number = 0, given - 1 do
      free[#free + 1] = slots[math.floor(number * #slots / given) + 1]
    end
  end
  hand_out(members, have, want, free)
end

-- The slots of a node as bits, the lowest of each byte first; nil where the placement is another.
local function slots_of(inc)
  local flat, bytes = call('HGETALL', K.slots), {}
  if #flat == 0 then return nil end
  for i = 1, SLOTS / 8 do bytes[i] = 0 end
  for i = 1, #flat, 2 do
    if flat[i + 1] == inc then
      local slot = tonumber(flat[i])
      local place = math.floor(slot / 8) + 1
      bytes[place] = bytes[place] + 2 ^ math.fmod(slot, 8)
    end
  end
  return string.char(unpack(bytes))
end
