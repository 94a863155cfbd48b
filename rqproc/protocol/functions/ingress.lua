-- What any application may enqueue: it lies in RQ's list until a node has looked into it. Nothing is taken
-- off for that, so nothing is lost with the node that looks; a job leaves the list when it is started.
--
-- What no node has lies at one end of the list, behind what was looked into, or before it where it was
-- enqueued at the front. (In between there may be some where a node has gone, or two have pushed at once;
-- these are found when they come to an end.)

-- One node looks at a time: for the others it would be the same work. It is for a moment only, so that
-- another does it soon where that one has gone.
local CARRIES_MS = 100

local function carries(inc, now)
  local carrier, end_ms = string.match(call('GET', K.carrier) or '', '^(%S+) (%d+)$')
  if carrier and carrier ~= inc and now < tonumber(end_ms) then return false end
  call('SET', K.carrier, string.format('%s %d', inc, now + CARRIES_MS), 'PX', CARRIES_MS)
  return true
end

-- Where in the list of `count` what no node has begins, counted from 0; nil where nothing is found.
local function first_without_node(count)
  local function known(place) return has_node(call('LINDEX', K.ingress_queue, place)) end
  if not known(0) then return 0 end
  if known(count - 1) then return nil end
  local before, found = 0, count - 1
  while found - before > 1 do
    local middle = math.floor((before + found) / 2)
    if known(middle) then before = middle else found = middle end
  end
  return found
end

-- What a job wants of its worker that no node does, as '' or names.
local function wants(id)
  local about = redis.pcall('HMGET', K.job .. id, 'success_callback_name', 'failure_callback_name',
    'stopped_callback_name', 'webhooks')
  local found = {}
  for i, name in ipairs({ 'on_success', 'on_failure', 'on_stopped', 'webhooks' }) do
    if not about.err and about[i] and about[i] ~= '' then found[#found + 1] = name end
  end
  return table.concat(found, ', ')
end

-- arrivals: reads jobs that lie in RQ's list and that no node has; before that it enqueues those whose
-- time has come.
--
-- args  2 incarnation  3 how many at most  4 time as RQ writes it
-- returns 'front' or 'back', by where they lie, then of each its id, its data ('' where there is none),
--   and the names of what it wants and no node does, or ''; nil where there is nothing to do
local function arrivals(args)
  local now = clock()
  reap(now)
  if are_suspended() then return nil end
  enqueue_due(args[4])
  local count = call('LLEN', K.ingress_queue)
  if count == 0 or not carries(args[2], now) then return nil end
  local first = first_without_node(count)
  if not first then return nil end
  local found = { 'back' }
  for _, id in ipairs(call('LRANGE', K.ingress_queue, first, first + tonumber(args[3]) - 1)) do
    if has_node(id) then
      found[1] = 'front'
      break
    end
    local data = redis.pcall('HGET', K.job .. id, 'data')
    found[#found + 1] = id
    found[#found + 1] = type(data) == 'string' and data or ''
    found[#found + 1] = wants(id)
  end
  return found
end

-- adopt: queues a job of RQ's list at its owner.
--
-- args  2 id  3 address, '' to refuse the job  4 report  5 text of the refusal, as RQ keeps it
--       6 time as RQ writes it  7 'front' or 'back'
-- returns 1, or 0 where another node has dealt with it
--
-- One that was enqueued at the front is so in the lane of its id. In the node's queue it is behind the
-- marks of the changes of members, as all that is routed after them.
--
-- Any node may do this for any job at any time: once it is open at a node, it changes nothing. What waits
-- no longer is taken off the list. Where nobody lives the job waits there.
local function adopt(args)
  local id, address, is_front = args[2], args[3], args[7] == 'front'
  local now, moment = clock()
  reap(now)
  local job = K.job .. id
  if redis.pcall('HGET', job, 'status') ~= 'queued' then
    take_off(id)
    return 0
  end
  if has_node(id) or are_suspended() then return 0 end
  if address == '' then
    return conclude(id, false, args[5], args[4], '', args[6]) and 1 or 0
  end
  make_ours(id, address, now)
  if is_front then
    call('HSET', job, 'rqproc_front', 1)
  else
    call('HDEL', job, 'rqproc_front')
  end
  place(id, address, moment)
  return 1
end

registered('arrivals', arrivals)
registered('adopt', adopt)
