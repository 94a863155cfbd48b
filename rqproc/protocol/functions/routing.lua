-- How calls and jobs enter the cluster.
-- Whether what says that it is new must be dropped: its caller has lost the connection that this came
-- over, has asked again for all it sent there, and set a fence for what may come late. `has_marks`:
-- what reap has returned.
local function is_fenced(has_marks, id)
  if not has_marks then return false end
  local reply = string.match(id, '^(r%x+)%-')
  return reply and call('EXISTS', K.fence .. reply) == 1
end

-- Takes back what is over the limit of a node's queue, and returns the report of that; else nil. The
-- limit is looked up where there is a queue, once.
local function refuse_if_full(inc, id, queued)
  local keys = K.of[inc]
  keys.limit = keys.limit or tonumber(call('HGET', K.node .. name_of(inc), 'max_queue'))
  local limit = keys.limit
  if queued <= limit then return nil end
  call('LREM', queue_of(inc), -1, id)
  call('ZREM', K.open .. inc, id)
  return cjson.encode({ type = 'Overloaded', node = name_of(inc), queued = queued - 1, limit = limit })
end

local function no_node_report()
  local others = other_protocols()
  if others then
    return cjson.encode({ type = 'OtherProtocol', mine = tostring(PROTOCOL), others = others })
  end
  return cjson.encode({ type = 'NoLiveNode' })
end

-- What is known of a call that is asked again: '' where it is under way, its answer where that was
-- kept, nil where nothing is. What is open at a node and neither in its queue nor run there may have
-- been lost on its way to it: it is queued once more, and a node that knows it leaves it alone.
local function find_known(id, group)
  local payload = told_before(id)
  if payload then return payload end -- of a group's call, one that was withdrawn still lies there
  local inc, open = whereabouts(id, group)
  if not inc then return nil end
  if inc ~= '' and call('ZSCORE', K.open .. inc, open)
    and call('HEXISTS', K.claims .. inc, open) == 0 and not call('LPOS', queue_of(inc), open) then
    call('RPUSH', queue_of(inc), open)
  end
  return ''
end

-- Notes for whom the run that asks will wait, if a run does; where it would wait for itself, notes
-- nothing and returns the report of that. See nested.lua.
local function note_wait(parent, id, address, deadline, timeout_ms, now)
  local way = parent ~= '' and wait_for(parent, id, address, deadline, timeout_ms, now)
  if not way then return nil end
  for i, waiting in ipairs(way) do way[i] = readable(waiting) end
  return cjson.encode({ type = 'RequestCycle', way = way })
end

-- route: queues calls, each at the one node that its id has at this instant.
--
-- args  2 timeout in ms  3 time as RQ writes it  4 parent: the address whose handler asks, or ''
--       5 'new', or 'again' where they may have been sent before
--       then for each call: id, address, data, group (what it was sent with before, or '')
-- returns nil where all are queued; else for each call '', or the JSON report of why it was not
--   queued, or the answer that it has had, or where that lies: see pushing.lua
--
-- The usual case is one new call: TIME, ZRANGEBYSCORE, ZCOUNT, ZRANGE, HSET, PEXPIRE, ZADD, RPUSH.
local function route(args)
  local timeout_ms, created, parent = tonumber(args[2]), args[3], args[4]
  local again = args[5] == 'again'
  local now, moment = clock()
  local has_marks = reap(now)
  -- All calls of a packet have their caller's name, so the first tells whether it is fenced.
  if not again and is_fenced(has_marks, args[6]) then return nil end
  if not again then has_read(args[6]) end
  local deadline = now + timeout_ms
  local told, said = {}, false

  for i = 6, #args, 4 do
    local id, address, report = args[i], args[i + 1], nil
    if again then report = find_known(id, args[i + 3]) end
    local under_way = report == ''
    if not report then
      local inc = asks_about_id(id) and holder_of(address) or owner_of(address)
      report = inc and note_wait(parent, id, address, deadline, timeout_ms, now)
      if not inc then
        report = no_node_report()
      elseif not report then
        local job = K.job .. id
        call('HSET', job, 'status', 'queued', 'created_at', created, 'origin', K.ingress, 'data',
          args[i + 2], 'rqproc_deadline', deadline)
        call('PEXPIRE', job, timeout_ms + KEEP_MS)
        local queued = put(inc, id, moment + i) -- + i: in the order in which they were asked
        report = queued > 1 and refuse_if_full(inc, id, queued)
        if report then call('DEL', job) end
      end
    end
    told[#told + 1] = report or ''
    said = said or (report and not under_way)
  end
  return said and told or nil
end

-- scatter: queues calls of one resource that are asked together: a group. It is one RQ job, which lies
-- in the queue of each of their owners; its hash says under each incarnation which calls it is to
-- answer.
--
-- args  2 timeout in ms  3 time as RQ writes it  4 id of the group  5 data
--       then for each call its address; its place is the number of those before it
-- returns nil where all are queued; else in turn the place and the report of each that is not
local function scatter(args)
  local timeout_ms, group = tonumber(args[2]), args[4]
  local now, moment = clock()
  if is_fenced(reap(now), group) then return nil end
  has_read(group)
  local owners = owners_of(args, 6, 1)
  local refused = {}
  if not owners then
    local report = no_node_report()
    for i = 6, #args do
      refused[#refused + 1] = i - 6 -- its place
      refused[#refused + 1] = report
    end
    return refused
  end

  local job, of, order = K.job .. group, {}, {}
  for i = 6, #args do
    local address = args[i]
    local inc = owners[i]
    local parts = of[inc]
    if not parts then
      parts = {}
      of[inc] = parts
      order[#order + 1] = inc
    end
    parts[#parts + 1] = i - 6 .. ' ' .. address -- 'PLACE ADDRESS'
  end
  local fields = {}
  for i, inc in ipairs(order) do
    local queued = put(inc, group, moment + i)
    local report = queued > 1 and refuse_if_full(inc, group, queued)
    if report then
      for _, part in ipairs(of[inc]) do
        refused[#refused + 1] = tonumber(string.match(part, '^%d+'))
        refused[#refused + 1] = report
      end
    else
      fields[#fields + 1] = inc
      fields[#fields + 1] = table.concat(of[inc], ' ')
    end
  end
  if #fields > 0 then
    call('HSET', job, 'status', 'queued', 'created_at', args[3], 'origin', K.ingress, 'data', args[5],
      'rqproc_kind', 'many', 'rqproc_deadline', now + timeout_ms, unpack(fields))
    call('PEXPIRE', job, timeout_ms + KEEP_MS)
  end
  return #refused > 0 and refused or nil
end

-- enqueue: queues jobs, whose results anyone may look up by RQ's rules.
--
-- args  2 timeout in ms, 0 for none  3 time as RQ writes it  4 result ttl in s, '' for RQ's own
--       then for each job: id, address, data
-- returns for each job '' or the JSON report of why it was not queued
--
-- Each lies in RQ's list, behind what lies there, and is queued at its owner; where nobody lives, or
-- no node has yet looked into what lies before it, it is left to be found there: see ingress.lua.
local function enqueue(args)
  local timeout_ms, created, ttl = tonumber(args[2]), args[3], args[4]
  local now, moment = clock()
  local has_marks = reap(now)
  local told, owners = {}, owners_of(args, 6, 3) or {}
  local last = call('LINDEX', K.ingress_queue, -1)
  if last and not has_node(last) or are_suspended() then owners = {} end
  call('SADD', K.rq .. ':queues', K.ingress_queue)
  for i = 5, #args, 3 do
    local id, address, report = args[i], args[i + 1], nil
    local job, inc = K.job .. id, owners[i + 1]
    local deaths = has_marks and killer(address, now)
    if deaths then
      report = cjson.encode({ type = 'NodeLost', attempts = deaths })
    elseif call('EXISTS', job, K.results .. id) == 0 then -- else this packet has been here before
      call('HSET', job, 'status', 'queued', 'created_at', created, 'enqueued_at', created, 'origin',
        K.ingress, 'data', args[i + 2], 'description', readable(address), 'timeout', -1,
        'rqproc_address', address, 'rqproc_deadline', timeout_ms > 0 and now + timeout_ms or 0)
      if ttl ~= '' then call('HSET', job, 'result_ttl', ttl) end
      if inc then
        local queued = put(inc, id, moment + i)
        report = queued > 1 and refuse_if_full(inc, id, queued)
        if report then call('DEL', job) end
      end
      if not report then call('RPUSH', K.ingress_queue, id) end
    end
    told[#told + 1] = report or ''
  end
  return told
end

registered('route', route)
registered('scatter', scatter)
registered('enqueue', enqueue)
