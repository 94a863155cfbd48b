-- Moves a job of the ingress queue, which any application may fill, to its target.
--
-- ARGV  1 id  2 address, '' to refuse the job  3 report  4 text of the refusal, as RQ keeps it
--       5 time as RQ writes it
-- returns 1, or 0 where another node has dealt with it
--
-- Every node may do this for every job of the intermediate list at any time: the first one that
-- takes the id off the list is the one that acts.
local id, address = ARGV[1], ARGV[2]
reap(now_ms())
if call('LREM', RQ .. 'queue:' .. INGRESS .. ':intermediate', 0, id) == 0 then return 0 end
local job = JOB .. id
local status = redis.pcall('HGET', job, 'status')
if status ~= 'queued' then return 0 end
if address == '' then
  conclude(id, 'job', id, 0, false, ARGV[4], id .. ' error 0 0 0', ARGV[3], '', ARGV[5])
  return 1
end
local left = call('PTTL', job) -- of the ttl that RQ gives a job to be started in
call('PERSIST', job)
-- It may have failed and been requeued by someone who knows why.
if call('HDEL', job, 'rqproc_lost') == 1 then call('HDEL', SUSPECTS, address) end
call('HSET', job, 'rqproc_address', address, 'rqproc_kind', 'job', 'rqproc_reply', id,
  'rqproc_deadline', left > 0 and now_ms() + left or 0)
place(id, address)
return 1
