-- What becomes of a node that is gone, and of all that it had.

-- Removes a node's membership, lease and keys; whether it was a member is added to `changes`.
-- Returns what was open there in the order of routing, and what it ran in the order of tokens.
local function remove(inc)
  local name = name_of(inc)
  call('ZREM', K.leases, inc)
  local was_member = call('ZREM', K.members, inc) == 1
  call('HDEL', K.nodes, name)
  call('DEL', K.node .. name, K.stats .. name)
  call('SREM', K.rq .. ':queues', K.queue .. name)
  call('SREM', K.rq .. ':workers', K.worker .. name)
  call('SREM', K.rq .. ':workers:' .. K.names .. name, K.worker .. name)
  call('SREM', K.rq .. ':workers:' .. K.ingress, K.worker .. name)
  call('DEL', K.worker .. name, K.worker .. name .. ':executions')

  local flat, open = call('ZRANGE', K.open .. inc, 0, -1, 'WITHSCORES'), {}
  for i = 1, #flat, 2 do open[#open + 1] = { id = flat[i], moment = flat[i + 1], inc = inc } end
  flat = call('HGETALL', K.claims .. inc)
  local claims = {}
  for i = 1, #flat, 2 do
    local token, address = string.match(flat[i + 1], '^(%d+) (.*)$')
    claims[#claims + 1] = { id = flat[i], token = tonumber(token), address = address }
    if is_id_of_job(flat[i]) then hide_execution(inc, flat[i], flat[i + 1]) end
  end
  call('DEL', K.open .. inc, K.claims .. inc)
  K.of[inc] = nil
  table.sort(claims, function(a, b) return a.token < b.token end)
  return open, claims, was_member
end

-- A node has died on a call or job. Where that is still owed it counts, wherever it is open: what a server
-- has forgotten and is asked for again comes to its owner, while another node runs it.
local function count_death(id)
  local status = redis.pcall('HGET', K.job .. id, 'status')
  if status == 'queued' or status == 'started' then add(K.job .. id, 'rqproc_lost', 1) end
end

-- Releases what a node ran, and counts what may have run where it died: the oldest of each address, in
-- as many lanes as it had. What waited for another id had given back its lane, and an object has none.
local function release_all(claims, lanes, now)
  local seen = {}
  for _, claim in ipairs(claims) do
    local address = claim.address
    if is_of_object(claim.id) then
      call('HDEL', K.holders, address)
    elseif not seen[address] then
      seen[address] = true
      call('HDEL', K.holders, address)
      local waited = call('DEL', K.waits .. address) == 1
      if lanes > 0 then
        count_death(claim.id)
        suspect(address, now)
        if not waited then lanes = lanes - 1 end
      end
    end
  end
end

-- Sends what was open at a node that is gone to where it belongs now. One that too many nodes have
-- died on goes there too: its claim is refused.
local function recover(entry)
  local id = entry.id
  if is_group(id) then
    place_parts_again(entry.inc, id, entry.moment)
    return
  end
  local fields = redis.pcall('HMGET', K.job .. id, 'status', 'rqproc_address')
  if fields.err or not fields[1] then return end
  if fields[2] then
    if fields[1] ~= 'queued' then return end
  end
  local address = address_in(address_of_call(id) or fields[2])
  if not address then return end -- such a job is looked into where any job may lie
  place(id, address, entry.moment)
end

-- Tells the callers of what came to a node on trial that nobody lives, when they ask again: else they
-- would wait for one to join until their time is over. Jobs do wait.
local function refuse(entry)
  local function tell(id)
    local payload = id .. ' error 0 0 0 - ' .. cjson.encode({ type = 'NoLiveNode' })
    call('SET', K.withdrawn .. id, payload, 'PX', KEEP_MS)
  end
  local id, inc = entry.id, entry.inc
  if is_group(id) then
    local text = redis.pcall('HGET', K.job .. id, inc)
    if type(text) ~= 'string' then return end
    local places, addresses = parts_of(text)
    for i, address in ipairs(addresses) do
      tell(string.gsub(id, '-g', '-c', 1) .. '_' .. places[i] .. '-' .. address)
    end
    end_parts(inc, id)
  else
    call('DEL', K.job .. id)
    tell(id)
  end
end

-- Sends on what was open at nodes that are gone, in its order. `since`: when they were put on trial, in
-- ms; what came after that is refused if nobody is left; nil where they were not.
local function send_on(open, since)
  local unserved = since and call('ZCARD', K.members) == 0
  for _, entry in ipairs(open) do
    if unserved and tonumber(entry.moment) >= since * 1000 and not is_id_of_job(entry.id) then
      refuse(entry)
    else
      recover(entry)
    end
  end
end

-- Takes nodes out. First all of them, then what they had goes to who is left, so that nothing is sent
-- from one dead node to the next. `died`: not by their own word, so it counts as an attempt. `since`: as
-- for send_on.
local function drop(incs, died, now, since)
  local open, started, changes, strays = {}, {}, 0, {}
  for _, inc in ipairs(incs) do
    local name = name_of(inc)
    local lanes = died and tonumber(call('HGET', K.node .. name, 'lanes') or 0) or 0
    local entries, claims, was_member = remove(inc)
    if was_member then changes = changes + 1 end
    release_all(claims, lanes, now)
    for _, claim in ipairs(claims) do started[claim.id] = is_id_of_job(claim.id) end
    local known = {}
    for _, entry in ipairs(entries) do
      open[#open + 1] = entry
      known[entry.id] = true
    end
    for _, id in ipairs(call('LRANGE', K.queue .. name, 0, -1)) do
      if not known[id] and id ~= EPOCH_MARK then strays[#strays + 1] = id end
    end
    call('DEL', K.queue .. name)
  end
  if changes > 0 then epoch_changed(changes) end
  table.sort(open, function(a, b) return tonumber(a.moment) < tonumber(b.moment) end)
  for i = #open, 1, -1 do
    if started[open[i].id] then wait_again(open[i].id) end
  end
  send_on(open, since)
  for _, id in ipairs(strays) do
    -- Not open: anyone may have pushed it. A job that is one is looked into like any other.
    local status = redis.pcall('HGET', K.job .. id, 'status')
    if status == 'queued' and is_id_of_job(id) then put_on(id) end
  end
end
