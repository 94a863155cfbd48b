-- claim: gives a node the right to run calls and jobs: each is held from then on, so that its id is
-- run in no other place.
--
-- args  2 incarnation  3 session  4 epoch that the node last saw  5 time as RQ writes it
--       6 how many of the ids are jobs whose turn has come: the first  7 how many others may be started
--       then ids
-- returns {1, now in ms, epoch, members, claims}   members: names, empty where the epoch is the one seen;
--         with slots, which of them are this node's follows, see slots_of
--         {0}    this incarnation has no lease
--         {-1}   a newer session of this node took over: a packet that arrived late claims nothing
--         {-2, ms}   nothing is given out for so long: see reconcile
--   a claim is {id, what, address, token, deadline in ms or 0, data, ms since it was queued}; what is
--     'call', 'job'   run it
--     'waits'         a job that is not claimed: its turn has not come, or nothing can be started
--     'first'         the same, of one that was enqueued at the front
--     'lost'          too many nodes have died on it (deadline: how many): answer so
--     'gone'          it is not for this node any more: answered, withdrawn, expired, or moved
--
-- Holds are what keeps an id in one place:
--   1. node a claims 42 and runs it     2. b joins and is the owner of 42 by now
--   3. a call of 42 comes to b, whose claim finds a's hold: the call is queued at a, and joins there
--   4. a finishes: what comes next is claimed by b.
-- A call is held while it waits in its lane, since another node must send it nobody's; a job is claimed
-- when it is started. Until then RQ's list says whether it may be, see jobs.lua.
-- A call that came to a node which is not the owner any more is sent to the owner likewise. One of an
-- id that a draining node runs goes back to its queue, which is emptied when that run ends.
local function gone(id) return { id, 'gone', '', 0, 0, '', 0 } end

-- What is not open at a node and lies in its queue was put there by anyone, or was answered before. A
-- job that waits is looked into like any other.
local function stray(id)
  if id == EPOCH_MARK or not is_id_of_job(id) then return gone(id) end
  if redis.pcall('HGET', K.job .. id, 'status') == 'queued' then put_on(id) end
  return gone(id)
end

-- Another claim of the same id by the same node is answered as the first.
local function hold(inc, id, address, token, count)
  if call('HSETNX', K.claims .. inc, id, string.format('%d %s', token, address)) == 1 then
    call('HSET', K.holders, address, inc .. ' ' .. (count + 1))
    return token
  end
  return tonumber(string.match(call('HGET', K.claims .. inc, id), '^%d+'))
end

-- `starts`: of a job, 'turn' or 'free' where it may be started: at its turn, or if nothing of its id is
-- under way here.
local function claim_one(inc, id, now, token, at, has_marks, starts)
  local moment = call('ZSCORE', K.open .. inc, id)
  if not moment then return stray(id) end
  local fields = redis.pcall('HMGET', K.job .. id, 'rqproc_deadline', 'data', 'rqproc_address',
    'status', 'rqproc_lost', 'rqproc_front')
  local address, status = address_of_call(id), fields[4]
  local is_job = not address
  if fields.err or not status or is_job and status ~= 'queued' and status ~= 'started' then
    call('ZREM', K.open .. inc, id)
    return gone(id)
  end
  address = address_in(address or fields[3])
  if not address then -- who wrote the id, or the job, is no client of ours
    if not is_job then
      discard(inc, id, false)
      return gone(id)
    end
    call('ZREM', K.open .. inc, id)
    return stray(id)
  end
  local deadline = deadline_in(fields[1])
  if not fields[2] or deadline > 0 and deadline <= now then
    discard(inc, id, is_job)
    return gone(id)
  end
  local holder, count = holder_of(address)
  local new = holder == inc and call('HEXISTS', K.claims .. inc, id) == 0
  if (holder or owner_of(address)) ~= inc or new and not is_member(inc) then
    call('ZREM', K.open .. inc, id)
    place(id, address, moment)
    return gone(id)
  end
  local lost = tonumber(fields[5] or '') or 0
  local deaths = lost >= MAX_ATTEMPTS and lost or has_marks and killer(address, now)
  local waited = math.max(0, now - math.floor(moment / 1000))
  if deaths then return { id, 'lost', address, 0, deaths, '', waited } end
  if is_job and (holder ~= inc or new) then
    if are_suspended() then
      call('ZREM', K.open .. inc, id)
      return gone(id)
    end
    if starts ~= 'turn' and (holder == inc or starts ~= 'free') then
      return { id, fields[6] and 'first' or 'waits', address, 0, deadline, fields[2], waited }
    end
    if not take_off(id) then
      call('ZREM', K.open .. inc, id)
      return gone(id)
    end
  end
  token = hold(inc, id, address, token, count)
  if is_job then
    -- `at` is when the node began to wait: a job that came later was started when it came.
    local queued_at = call('HGET', K.job .. id, 'enqueued_at') or at
    show_execution(inc, id, token, queued_at > at and queued_at or at)
  end
  return { id, is_job and 'job' or 'call', address, token, deadline, fields[2], waited }
end

-- Whether a node may be given anything now: nil, or what is returned where it may not.
local function refusal(inc, session, now)
  local own = call('HMGET', K.node .. name_of(inc), 'inc', 'session')
  if own[1] ~= inc then return { 0 } end
  if own[2] ~= session then return { -1 } end
  local settling = call('GET', K.settling)
  local settles_at = settling and tonumber(string.match(settling, '^%d+')) or 0
  return now < settles_at and { -2, settles_at - now } or nil
end

local function view(inc, now, seen, claims)
  local current = epoch()
  if current == tonumber(seen) then return { 1, now, current, {}, claims } end
  local members = names_of(call('ZRANGE', K.members, 0, -1))
  local flushed = call('ZRANGE', K.flushed, 0, -1, 'WITHSCORES')
  return { 1, now, current, members, claims, slots_of(inc) or '', flushed }
end

local function claim(args)
  local inc, seen, at = args[2], args[4], args[5]
  local now = clock()
  local has_marks = reap(now)
  local refused = refusal(inc, args[3], now)
  if refused then return refused end
  local claims, count = {}, #args - 7
  local turns, room = tonumber(args[6]), tonumber(args[7])
  local token = count > 0 and call('INCRBY', K.token, count) - count or 0
  for i = 1, count do
    local starts = i <= turns and 'turn' or room > 0 and 'free' or 'not'
    claims[i] = claim_one(inc, args[7 + i], now, token + i, at, has_marks, starts)
    if i > turns and claims[i][2] == 'job' then room = room - 1 end
  end
  return view(inc, now, seen, claims)
end

-- settle: answers those calls of a group that a node has entries for, and claims the others, which are
-- calls of their own from then on.
--
-- args  2 incarnation  3 session  4 epoch that the node last saw  5 time as RQ writes it
--       6 id of the group  7 length of the text that named its calls  8 answers, '' for none
--       then for each call that must be run: its id, data
-- returns as claim does
--
-- Calls that have come to the node since it looked are queued there anew.
local function settle(args)
  local inc, seen, at, group, length = args[2], args[4], args[5], args[6], tonumber(args[7])
  local now = clock()
  local has_marks = reap(now)
  local refused = refusal(inc, args[3], now)
  if refused then return refused end
  local job = K.job .. group
  local moment = call('ZSCORE', K.open .. inc, group)
  local about = redis.pcall('HMGET', job, inc, 'rqproc_deadline', 'created_at')
  if not moment or about.err or not about[1] then
    call('ZREM', K.open .. inc, group)
    return view(inc, now, seen, {})
  end
  if #args == 8 and args[8] == '' and #about[1] == length then -- nothing of it can be read
    end_group_here(inc, group, about[1], #about[1])
    return view(inc, now, seen, {})
  end
  if not begins_with(about[1], length, args[8], args[9]) then return view(inc, now, seen, {}) end

  local claims, deadline = {}, deadline_in(about[2])
  local count = (#args - 8) / 2
  local token = count > 0 and call('INCRBY', K.token, count) - count or 0
  for i = 1, count do
    local id, data = args[7 + 2 * i], args[8 + 2 * i]
    if deadline > now and call('EXISTS', K.withdrawn .. id) == 0 then
      call('HSET', K.job .. id, 'status', 'queued', 'created_at', about[3] or at, 'origin', K.ingress,
        'data', data, 'rqproc_deadline', deadline)
      call('PEXPIRE', K.job .. id, deadline - now + KEEP_MS)
      call('ZADD', K.open .. inc, moment, id)
      claims[#claims + 1] = claim_one(inc, id, now, token + i, at, has_marks)
    end
  end
  if args[8] ~= '' then publish(group, args[8], K.answer .. group .. '/' .. inc) end
  end_group_here(inc, group, about[1], length)
  return view(inc, now, seen, claims)
end

registered_for_full('claim', claim)
registered_for_full('settle', settle)
