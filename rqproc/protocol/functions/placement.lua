-- Who an id's calls go to, and how they get there.

-- members[slot % count], as an incarnation; or who has the address's hash slot. fmod, since Lua's own %
-- divides first and is off by one near 2^53.
local function owner_of(address)
  local count = call('ZCOUNT', K.members, 0, 0)
  if count == 0 then return call('HGET', K.slots, hash_slot_of(address)) or nil end
  local rank = math.fmod(tonumber(string.match(address, '^%d+')), count)
  return call('ZRANGE', K.members, rank, rank)[1]
end

-- The owners of many addresses: of each argument from the first on, `step` apart, by its place. nil where
-- nobody lives.
local function owners_of(args, first, step)
  local members, owners = call('ZRANGEBYSCORE', K.members, 0, 0), {}
  if #members == 0 then
    local slots = {}
    for i = first, #args, step do slots[#slots + 1] = hash_slot_of(args[i]) end
    for place, inc in ipairs(call('HMGET', K.slots, unpack(slots))) do
      owners[first + (place - 1) * step] = inc
    end
    return owners[first] and owners or nil
  end
  for i = first, #args, step do
    local address = args[i]
    owners[i] = members[math.fmod(tonumber(string.match(address, '^%d+')), #members) + 1]
  end
  return owners
end

-- The incarnation that runs an address, and how much of it; nil, 0 where none does. Every holder is
-- live: drop releases what a dead node held.
local function holder_of(address)
  local held = call('HGET', K.holders, address)
  if not held then return nil, 0 end
  local inc, count = string.match(held, '^(%S+) (%d+)$')
  return inc, tonumber(count)
end

local function release(address, inc)
  local holder, count = holder_of(address)
  if holder ~= inc then return end
  if count > 1 then
    call('HSET', K.holders, address, inc .. ' ' .. (count - 1))
  else
    call('HDEL', K.holders, address)
  end
end

-- Queues a call or job at a node: open there from now on. Returns the length of its queue.
local function put(inc, id, moment)
  local keys = K.of[inc]
  if not keys then
    keys = { open = K.open .. inc, queue = queue_of(inc) }
    K.of[inc] = keys
  end
  call('ZADD', keys.open, moment, id)
  return call('RPUSH', keys.queue, id)
end

-- Queues it where it belongs: at its holder, else its owner; else it waits for a node to join, a job in
-- RQ's list.
local function place(id, address, moment)
  local inc = holder_of(address) or owner_of(address)
  if inc then
    put(inc, id, moment)
  elseif address_of_call(id) then
    call('RPUSH', K.waiting, id)
  end
end

-- The calls of a group at one node: 'PLACE ADDRESS PLACE ADDRESS ...', in the group's hash under its
-- incarnation ('' for those that wait for one); what is no address was written there by someone else.
local function parts_of(text)
  local places, addresses = {}, {}
  for place, address in string.gmatch(text, '(%d+) (%S+)') do
    if address_in(address) then
      places[#places + 1], addresses[#addresses + 1] = place, address
    end
  end
  return places, addresses
end

-- Adds calls of a group to those at a node; queues the group there where it is not.
local function put_parts(inc, group, text, moment)
  local before = call('HGET', K.job .. group, inc)
  call('HSET', K.job .. group, inc, before and before .. ' ' .. text or text)
  if inc == '' then
    if not before then call('RPUSH', K.waiting, group) end
  elseif not before then
    put(inc, group, moment)
  end
end

local GROUP_FIELDS = 6 -- status, created_at, origin, data, rqproc_kind, rqproc_deadline

-- A node has nothing of a group any more: with the last node the group is gone.
local function end_parts(inc, group)
  local job = K.job .. group
  if call('HDEL', job, inc) == 1 and call('HLEN', job) <= GROUP_FIELDS then call('DEL', job) end
end

-- Sends those calls of a group on that are at a node.
local function place_parts_again(inc, group, moment)
  local text = redis.pcall('HGET', K.job .. group, inc)
  if type(text) ~= 'string' then return end
  call('HDEL', K.job .. group, inc)
  local places, addresses = parts_of(text)
  for i, address in ipairs(addresses) do
    local target = holder_of(address) or owner_of(address) or ''
    put_parts(target, group, places[i] .. ' ' .. address, moment)
  end
end

-- Sends on what is queued at a node ('' for what waits for one). What is neither call nor job of ours
-- goes where such jobs are looked into.
local function place_again(inc, id, moment)
  if is_group(id) then
    place_parts_again(inc, id, moment)
    return
  end
  local found = redis.pcall('HMGET', K.job .. id, 'rqproc_address', 'status')
  if found.err or not found[2] then return end
  local address = address_in(address_of_call(id) or found[1])
  if address then
    place(id, address, moment)
  elseif found[2] == 'queued' then
    put_on(id)
  end
end
