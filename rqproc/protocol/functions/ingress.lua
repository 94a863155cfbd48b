-- inspect: reads what jobs ask for, whatever stands at their keys.
--
-- args  2... job ids
-- returns the data of each, '' where there is none
local function inspect(args)
  local found = {}
  for i = 2, #args do
    local data = redis.pcall('HGET', K.job .. args[i], 'data')
    found[i - 1] = type(data) == 'string' and data or ''
  end
  return found
end

-- adopt: moves a job of the ingress queue, which any application may fill, to its owner.
--
-- args  2 id  3 address, '' to refuse the job  4 report  5 text of the refusal, as RQ keeps it
--       6 time as RQ writes it
-- returns 1, or 0 where another node has dealt with it
--
-- Every node may do this for every job of the intermediate list at any time: the first one that takes
-- the id off the list is the one that acts. Where nobody lives the job waits.
local function adopt(args)
  local id, address = args[2], args[3]
  local now, moment = clock()
  reap(now)
  if call('LREM', K.ingress_queue .. ':intermediate', 0, id) == 0 then return 0 end
  local job = K.job .. id
  local status = redis.pcall('HGET', job, 'status')
  if status ~= 'queued' then return 0 end
  if address == '' then
    conclude(id, false, args[5], args[4], '', args[6])
    return 1
  end
  local left = call('PTTL', job) -- of the ttl that RQ gives a job to be started in
  call('PERSIST', job)
  -- It may have failed and been requeued by someone who knows why.
  if call('HDEL', job, 'rqproc_lost') == 1 then call('HDEL', K.suspects, address) end
  call('HSET', job, 'rqproc_address', address, 'rqproc_deadline', left > 0 and now + left or 0)
  place(id, address, moment)
  return 1
end

registered('inspect', inspect)
registered('adopt', adopt)
