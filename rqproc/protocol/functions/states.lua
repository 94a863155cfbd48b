-- What stateful ids leave behind: the state of an id whose object is closed, for the next one.
--
--   K.state .. address  hash: token, of the latest run that took or kept the state; state, as JSON, if
--                       there is any; no ttl with it, else FENCE_MS
--
-- An object stays at its node from call to call, so it holds its address like a run that goes on:
--   1. a has an object of 42     2. b joins and is the owner of 42 by now
--   3. a call of 42 comes to b, whose claim finds a's hold: the call is queued at a
--   4. a closes its object, keeps the state, and ends the hold     5. b claims the call, and takes it
-- The id of that hold is '~TOKEN-ADDRESS', the token of the run that made the object: see is_of_object.
--
-- The token is the fence (Kleppmann, 2016), for what a hold cannot keep apart:
--   1. a has an object of 42, and is paused past its lease     2. b takes the state: the fence is b's
--   3. a goes on, closes its object, and keeps its state: refused, b's is newer.
-- Where nobody has taken it meanwhile, a's state is the newest there is, and is kept.
local FENCE_MS = 86400000

-- take_state: gives a node what was kept of an id, and holds the id for the object that it makes.
--
-- args  2 incarnation  3 address  4 token of the run that takes it  5 token of the run that makes the
--       object, the same unless the object is made again
-- returns {1, state or ''}
--         {0}    it is another's by now: no lease, another holds the id, or a later run has taken it
local function take_state(args)
  local inc, address, token, made = args[2], args[3], tonumber(args[4]), args[5]
  reap((clock()))
  local holder, count = holder_of(address)
  if not is_live(inc) or holder and holder ~= inc then return { 0 } end
  local key = K.state .. address
  local kept = call('HMGET', key, 'token', 'state')
  if token < tonumber(kept[1] or 0) then return { 0 } end
  hold(inc, '~' .. made .. '-' .. address, address, tonumber(made), count)
  call('HSET', key, 'token', args[4])
  if not kept[2] then call('PEXPIRE', key, FENCE_MS) end
  return { 1, kept[2] or '' }
end

-- keep_state: keeps the state of an id, in the place of an older one.
--
-- args  2 incarnation that took it  3 address  4 token of the latest run of the object
--       5 the state, '' for none
-- returns 1, or 0 where a later run has taken it. Where that is forgotten, only who lives may keep it,
-- if no other holds the id.
local function keep_state(args)
  local inc, address, token, state = args[2], args[3], tonumber(args[4]), args[5]
  reap((clock()))
  local key = K.state .. address
  local fence = call('HGET', key, 'token')
  if not fence and (not is_live(inc) or (holder_of(address) or inc) ~= inc) then return 0 end
  if token < tonumber(fence or 0) then return 0 end
  call('HSET', key, 'token', args[4])
  if state == '' then
    call('HDEL', key, 'state')
    call('PEXPIRE', key, FENCE_MS)
  else
    call('HSET', key, 'state', state)
    call('PERSIST', key)
  end
  return 1
end

registered('take_state', take_state)
registered('keep_state', keep_state)
