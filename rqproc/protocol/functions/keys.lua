-- The keys of one namespace, and the words in which callers and nodes speak of calls.
--
-- Every function of the library is called with one key, the prefix of the namespace's own keys
-- ('rqproc:NAMESPACE:2:'), and has RQ's prefix as its first argument. Both are turned into a table of
-- names, `K`, once per namespace; functions run one at a time, so `K` is the table of the one that
-- runs.
--
--   K.members   sorted set: incarnations, in the order of the nodes' names; the score is the same for all,
--               0, or 1 with placement by slots
--   K.slots     hash: hash slot -> incarnation, see slots.lua
--   K.leases    sorted set: incarnation -> end of its lease in ms; and MARK, see members.lua
--   K.nodes     hash: name -> incarnation
--   K.node      prefix of a hash per name: limits, lease, counts
--   K.open      prefix of a sorted set per incarnation: id -> when it was routed, in microseconds
--   K.claims    prefix of a hash per incarnation: id -> 'TOKEN ADDRESS', of what it runs
--   K.holders   hash: address -> 'INCARNATION COUNT', of all that is claimed
--   K.epoch, K.token        integers that only grow
--   K.waiting   list: calls for which there is no member yet
--   K.carrier   string, for a moment: the node that looks into jobs that no node has; see ingress.lua
--   K.pulse     string: when any node last joined or beat, in ms; see membership.lua
--   K.suspects  hash: address -> 'DEATHS FIRST_MS LAST_MS', see suspects.lua
--   K.server    string: run id of the server's process, as it was last told; see sessions.lua
--   K.settling  string: 'MS known' or 'MS unknown', until when nothing is given out; see sessions.lua
--   K.waits     prefix of a hash per address whose run asks: id of the call -> 'DEADLINE_MS ADDRESS';
--               see nested.lua
--   K.fence     prefix of a string per caller's name: what is new under that name is dropped
--   K.fences    string, there while any fence may stand; see callers.lua
--   K.answer    prefix of a string per id: an answer that its caller may ask for again; not below the
--               others, so that an ACL can let callers read there and write elsewhere
--   K.state     prefix of a hash per address: what a stateful id has left, see states.lua; not below the
--               others, so that callers need not reach it
--   K.stats     prefix of a string per name: what a node has published, 'INCARNATION MS JSON'; not below
--               the others, so that callers may delete it and not read it
--   K.entries   prefix of a list per incarnation: what others have kept of ids that are its own by now, see
--               handoff.lua; not below the others, so that callers need not reach it
--   K.withdrawn prefix of a string per id: why its caller took it back, or nobody will answer it
--   K.reply     prefix of a channel per caller: where its answers are published
--   K.flushed   sorted set: resource, '' for all -> the last token of what is no entry any more
--   K.dropped   channel: the address of each id that was invalidated; '*' and a resource, or '*' for all
--   K.protocols sorted set of the namespace, of all protocols: PROTOCOL -> end of its last lease in ms
--   K.first_leases          the leases of protocol 1, which writes nothing into that set
--
-- An incarnation is 'NAME#NUMBER'. '#' comes before all that names are made of, so incarnations sort
-- as their names do.
--
-- An address is 'SLOT-RESOURCE-ID', quoted (see codec.py) so that it may stand in the id of an RQ job.
-- A call is known by 'REPLY-cNUMBER-ADDRESS' ('c': without arguments; 'a': with arguments; 'i': an
-- invalidation; 'e': asks what its node knows of the id, and is answered as a hit is, without a claim);
-- the one at a place in the group 'REPLY-gNUMBER' by 'REPLY-cNUMBER_PLACE-ADDRESS'. Ids of any other
-- form are jobs.
local PROTOCOL = 2
local EPOCH_MARK = 'epoch' -- stands in the queues of all members after each change of members
local KEEP_MS = 60000 -- a call's job, or its answer, outlives its deadline by this much

local spaces = {} -- K.of: the keys of each incarnation that calls were queued at; see clock.lua too
local K

local function space(prefix, rq)
  local namespace = string.match(prefix, '^rqproc:([%w_-]+):%d+:$')
  local queues = 'rqproc.' .. namespace .. '.'
  local ingress = namespace == 'default' and 'rqproc' or 'rqproc.' .. namespace
  return {
    members = prefix .. 'members', slots = prefix .. 'slots', leases = prefix .. 'leases', nodes = prefix .. 'nodes',
    node = prefix .. 'node:', open = prefix .. 'open:', claims = prefix .. 'claims:',
    holders = prefix .. 'holders', epoch = prefix .. 'epoch', token = prefix .. 'token',
    waiting = prefix .. 'waiting', carrier = prefix .. 'carrier', pulse = prefix .. 'pulse', suspects = prefix .. 'suspects',
    server = prefix .. 'server', settling = prefix .. 'settling', waits = prefix .. 'waits:',
    fence = prefix .. 'fence:', fences = prefix .. 'fences', withdrawn = prefix .. 'withdrawn:',
    answer = 'rqproc-answers:' .. string.sub(prefix, 8), state = 'rqproc-states:' .. string.sub(prefix, 8),
    stats = 'rqproc-stats:' .. string.sub(prefix, 8), entries = 'rqproc-entries:' .. string.sub(prefix, 8),
    reply = prefix .. 'reply:', dropped = prefix .. 'dropped', flushed = prefix .. 'flushed',
    protocols = 'rqproc:' .. namespace .. ':protocols',
    first_leases = 'rqproc:' .. namespace .. ':leases',
    rq = rq, job = rq .. ':job:', results = rq .. ':results:',
    queue = rq .. ':queue:' .. queues, worker = rq .. ':worker:' .. queues, names = queues,
    of = {}, unread = {}, unread_of = 0, wip = rq .. ':wip:' .. ingress,
    scheduled = rq .. ':scheduled:' .. ingress, ingress = ingress, ingress_queue = rq .. ':queue:' .. ingress,
  }
end

local call -- redis.call, which is there from the first run of a function on

local function enter(prefix, rq)
  call = redis.call
  K = spaces[prefix]
  if not K or K.rq ~= rq then
    K = space(prefix, rq)
    spaces[prefix] = K
  end
end

local function name_of(inc) return string.match(inc, '^(.*)#') end
local function queue_of(inc) return K.queue .. name_of(inc) end

-- The address in the id of a call; nil where it is no call's.
local function address_of_call(id) return string.match(id, '^r%x+%-[caie][%x_]+%-(%d+%-.+)$') end

-- Whether a call asks about its id: it goes to who runs that, if anyone does.
local function asks_about_id(id) return string.find(id, '^r%x+%-e') ~= nil end

local function is_group(id) return string.find(id, '^r%x+%-g%x+$') ~= nil end

-- Whether an id is a job's: anyone may have queued it, and it is looked into wherever it is found.
local function is_id_of_job(id) return not (address_of_call(id) or is_group(id)) end

-- Whether the id of a claim is that of an object which stays from call to call, and not of a run: see
-- states.lua.
local function is_of_object(id) return string.find(id, '^~%d+%-') ~= nil end

-- What stands as an address in a job that anyone may have written; nil if it is none.
local function address_in(text)
  if type(text) ~= 'string' or #text > 4000 then return nil end
  local digits = string.match(text, '^(%d+)%-[%w_]+%-[%w_]+$')
  return digits and #digits <= 16 and text or nil -- 2^53 has 16; of 400, a number is infinite
end

-- What stands there as a deadline in ms; 0 for none, or if it is none.
local function deadline_in(text)
  local digits = type(text) == 'string' and string.match(text, '^%d+$')
  return digits and #digits <= 15 and tonumber(digits) or 0
end

-- 'RESOURCE:ID', as people write it.
local function readable(address)
  local resource, id = string.match(address, '^%d+%-([%w_]+)%-([%w_]+)$')
  return (string.gsub(resource .. ':' .. id, '_(%x%x)', function(hex)
    return string.char(tonumber(hex, 16))
  end))
end

-- Adds to a number in a job's hash, whatever anyone may have written there.
local function add(key, field, by)
  local sum = redis.pcall('HINCRBY', key, field, by)
  if type(sum) == 'number' then return sum end
  call('HSET', key, field, by)
  return by
end

local function register(name, body, flags)
  redis.register_function {
    function_name = 'rqproc_' .. PROTOCOL .. '_' .. name,
    callback = function(keys, args)
      enter(keys[1], args[1])
      return body(args)
    end,
    flags = flags,
  }
end

local function registered(name, body) register(name, body, {}) end

-- The same for what a server that is out of memory must carry out too: it frees more than it takes.
local function registered_for_full(name, body) register(name, body, { 'allow-oom' }) end
