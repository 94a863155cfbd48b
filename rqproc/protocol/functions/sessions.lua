-- reconcile: opens a new session of a node. After a broken connection it cannot know which of its last
-- packets the server has carried out, nor what it was sent and did not get.
--
-- args  2 incarnation  3 session, higher than any before  4 the server's run id, '' if unknown
--       5 1 where this process was a member before under another incarnation, else 0
--       6 1 where it found a server without functions, else 0
--       then what the node has taken and not ended: id, token, address; the token is 0 where it has not
--       claimed it. The id of a run for which nobody is answered any more is '~' and its token: no other
--       run of its address may meet it.
-- returns as claim does, with the members in any case and no claims
--
-- What it holds here and does not say that it runs is released: it has not heard of that claim, or has
-- ended that run. What is open at the node, and neither known to it nor in its queue, is queued there
-- anew: it was lost on its way. So is what a pop of an older session takes that comes late: see beat,
-- which tells how much the node must know of.
--
-- Another run id means another server process, which may have lost the last writes of the one before,
-- claims among them. So nothing is given out at first:
--   1. a claims 42 and runs it; the server dies, and its successor knows nothing of that claim
--   2. 42 is asked again, and comes to b, who would run it too: but claim gives out nothing while
--      K.settling stands
--   3. a says here that it runs 42, holds it again, and has it open; when all that are known to live
--      have spoken, or after a lease where nobody knows who they were, claims go on.
-- Fencing tokens and the epoch are raised above all that may have been lost.
local function forgetful(server, rejoined, bare, now)
  local known = call('GET', K.server)
  if server == '' or (known == server and not bare) then return end
  call('SET', K.server, server)
  if not known and not rejoined and not bare then return end -- the first of all
  raise_tokens(now)
  epoch_changed(1000)
  local longest_ms = 0
  for _, inc in ipairs(live()) do
    longest_ms = math.max(longest_ms, tonumber(call('HGET', K.node .. name_of(inc), 'lease')))
    if bare then call('HDEL', K.node .. name_of(inc), 'server') end
  end
  call('SET', K.settling, string.format('%d %s', now + longest_ms, known and 'known' or 'unknown'),
    'PX', longest_ms + 60000)
end

-- Takes a claim from a node that does not run it.
local function unclaim(inc, id, claimed)
  call('HDEL', K.claims .. inc, id)
  release(string.match(claimed, ' (.*)$'), inc)
  if is_id_of_job(id) then
    hide_execution(inc, id, claimed)
    wait_again(id)
  end
end

-- Whether all that a node holds of an address was claimed before a token: it has ended since, but the
-- server has forgotten that. It is released.
local function is_outdated(holder, address, token)
  local flat, outdated = call('HGETALL', K.claims .. holder), {}
  for i = 1, #flat, 2 do
    local number, of = string.match(flat[i + 1], '^(%d+) (.*)$')
    if of == address then
      if tonumber(number) > tonumber(token) then return false end
      outdated[flat[i]] = flat[i + 1]
    end
  end
  for id, claimed in pairs(outdated) do unclaim(holder, id, claimed) end
  return true
end

-- Has a call or job that is held again open where it is held. To this server it may still be open at
-- another node, or a job lie in RQ's list alone: then the end of the run would end nothing, and the job,
-- started and off the list, would be lost with either node:
--   1. a job is open at b   2. a copy is written   3. b drains: a claims the job, and runs it
--   4. the server dies, its successor has the copy   5. a says that it runs the job: it is open at a.
local function open_again(inc, id, address, now, moment)
  local at = whereabouts(id, '')
  if at == inc then return end
  if at ~= '' then
    moment = call('ZSCORE', K.open .. at, id)
    call('ZREM', K.open .. at, id)
    call('LREM', queue_of(at), 0, id)
  elseif address_of_call(id) then
    call('LREM', K.waiting, 0, id)
  elseif call('HEXISTS', K.job .. id, 'rqproc_address') == 0 then
    make_ours(id, address, now)
  end
  call('ZADD', K.open .. inc, moment, id)
end

-- Holds what the node says it runs and the server has forgotten, unless another holds it by now.
local function hold_again(inc, id, token, address, now, moment)
  local holder, count = holder_of(address)
  if holder and holder ~= inc then
    if not is_outdated(holder, address, token) then return end
    count = 0
  end
  local status = redis.pcall('HGET', K.job .. id, 'status')
  if type(status) == 'string' and status ~= 'queued' and status ~= 'started' then return end
  if call('HSETNX', K.claims .. inc, id, token .. ' ' .. address) == 0 then return end
  call('HSET', K.holders, address, inc .. ' ' .. (count + 1))
  if type(status) ~= 'string' then return end
  open_again(inc, id, address, now, moment)
  if not address_of_call(id) then
    take_off(id)
    local at = call('HGET', K.job .. id, 'started_at') or call('HGET', K.job .. id, 'created_at') or ''
    show_execution(inc, id, tonumber(token), at)
  end
end

local function all_have_told(server)
  for _, inc in ipairs(live()) do
    if call('HGET', K.node .. name_of(inc), 'server') ~= server then return false end
  end
  return true
end

-- Releases what the node has claimed and does not run.
local function release_lost(inc, runs)
  local flat = call('HGETALL', K.claims .. inc)
  for i = 1, #flat, 2 do
    if not runs[flat[i]] then unclaim(inc, flat[i], flat[i + 1]) end
  end
end

-- Queues what was lost on its way to the node, before all else.
local function queue_lost(inc, known)
  local queue = queue_of(inc)
  for _, id in ipairs(call('LRANGE', queue, 0, -1)) do known[id] = true end
  local lost = {}
  for _, id in ipairs(call('ZRANGE', K.open .. inc, 0, -1)) do
    if not known[id] then lost[#lost + 1] = id end
  end
  for i = #lost, 1, -1 do call('LPUSH', queue, lost[i]) end
end

local function reconcile(args)
  local inc, session, server = args[2], tonumber(args[3]), args[4]
  local now, moment = clock()
  reap(now)
  if not is_live(inc) then return { 0 } end
  local about = K.node .. name_of(inc)
  if session < tonumber(call('HGET', about, 'session')) then return { -1 } end -- it came late
  call('HSET', about, 'session', session)
  forgetful(server, args[5] == '1', args[6] == '1', now)
  local forgot, known, runs = call('HGET', about, 'server') ~= server, {}, {}
  for i = 7, #args, 3 do
    local id, token = args[i], args[i + 1]
    known[id], runs[id] = true, token ~= '0'
    -- To the same server it is said only of runs without an answer: what is not held is answered.
    if token ~= '0' and (forgot or string.sub(id, 1, 1) == '~') then
      hold_again(inc, id, token, args[i + 2], now, moment + i)
    end
  end
  release_lost(inc, runs)
  call('HSET', about, 'server', server)
  if string.find(call('GET', K.settling) or '', ' known') and all_have_told(server) then
    call('DEL', K.settling)
  end
  queue_lost(inc, known)
  return view(inc, now, '-1', {})
end

registered_for_full('reconcile', reconcile)
