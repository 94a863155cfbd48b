-- What is told of the cluster at one instant.

local function slot_counts()
  local flat, counts, found = call('HGETALL', K.slots), {}, {}
  if #flat == 0 then return nil end
  for i = 2, #flat, 2 do counts[flat[i]] = (counts[flat[i]] or 0) + 1 end
  for inc, count in pairs(counts) do found[#found + 1], found[#found + 2] = inc, count end
  return found
end

-- survey: the whole membership.
--
-- returns {epoch, members, nodes}; a node is {name, incarnation, state, lease left in ms, queued,
--   held, stuck, entries, hits, joined, misses, pid, host}, sorted by name; with slots, how many each
--   member has follows: {incarnation, count, incarnation, ...}
local function survey()
  local now = clock()
  reap(now)
  local nodes = {}
  for _, inc in ipairs(live()) do
    local name = name_of(inc)
    local about = call('HMGET', K.node .. name, 'stuck', 'entries', 'hits', 'joined', 'misses', 'pid',
      'host')
    local queue = K.queue .. name
    local queued = call('LLEN', queue) - #call('LPOS', queue, EPOCH_MARK, 'COUNT', 0)
    nodes[#nodes + 1] = { name, inc, is_member(inc) and 'member' or 'draining',
      tonumber(call('ZSCORE', K.leases, inc)) - now, queued,
      math.max(call('ZCARD', K.open .. inc) - queued, call('HLEN', K.claims .. inc)), unpack(about) }
  end
  table.sort(nodes, function(a, b) return a[1] < b[1] end)
  return { epoch(), names_of(call('ZRANGE', K.members, 0, -1)), nodes, slot_counts() }
end

-- stats: what the nodes that live have published of their work, each with its last heartbeat.
--
-- returns {now in ms, {incarnation, when it was published in ms, JSON, of the next node ...}}
local function stats()
  local now = clock()
  reap(now)
  local found = {}
  for _, inc in ipairs(live()) do
    local text = call('GET', K.stats .. name_of(inc)) or ''
    local published_by, at, json = string.match(text, '^(%S+) (%d+) (.*)$')
    if published_by == inc then
      found[#found + 1], found[#found + 2], found[#found + 3] = inc, tonumber(at), json
    end
  end
  return { now, found }
end

-- locate: who owns addresses and who holds them.
--
-- args  2... addresses
-- returns {epoch, members, {owner or '', holder or ''} for each address}; with slots, 'slots' follows
local function locate(args)
  reap((clock()))
  local found = {}
  for i = 2, #args do
    local owner, holder = owner_of(args[i]), holder_of(args[i])
    found[i - 1] = { owner and name_of(owner) or '', holder and name_of(holder) or '' }
  end
  return { epoch(), names_of(call('ZRANGE', K.members, 0, -1)), found, placement() }
end

registered_for_full('survey', survey)
registered_for_full('stats', stats)
registered_for_full('locate', locate)
