-- Jobs, as RQ's tools see them.
--
-- A job that waits is 'queued' and its id lies in RQ's own list, K.ingress_queue, wherever it waits:
-- for a node, in a node's queue, or in the lane of an id that is run. It is open at the node that will
-- run it, but the list decides, as it does among RQ's workers: who takes the id off it may run the job,
-- or end it. So whatever RQ does to a job that waits (cancel, delete, empty, another worker) holds.
-- From then on it is 'started', claimed by its node, and has an execution in RQ's registries:
--
--   wip:QUEUE           sorted set: 'JOB:EXECUTION', what is run. Its score is the end of time: whether
--                       a node is dead its lease tells, and no clean-up of RQ's may fail its jobs before
--   executions:JOB      sorted set: executions of a job
--   execution:JOB:EXECUTION, worker:NAME:executions
--
-- The token of its claim names the execution. That of a job with a rate limit of RQ's says so
-- (rqproc_limited): one that is deleted while it runs keeps its place under the limit until it has ended.

-- RQ's workers are suspended: no job is placed or started. Requests are.
local function are_suspended() return call('EXISTS', K.rq .. ':suspended') == 1 end

-- Whether some node is to run a job.
local function has_node(id)
  for _, inc in ipairs(live()) do
    if call('ZSCORE', K.open .. inc, id) then return true end
  end
  return false
end

-- A job of any application has an address from now on, and no other end than ours.
local function make_ours(id, address, now)
  local job = K.job .. id
  local left = call('PTTL', job) -- of the ttl that RQ gives a job to be started in
  call('PERSIST', job)
  if call('HDEL', job, 'rqproc_given_up') == 1 then -- and requeued by someone who knows why
    call('HDEL', K.suspects, address)
  end
  call('HSET', job, 'rqproc_address', address, 'rqproc_deadline', left > 0 and now + left or 0,
    'origin', K.ingress)
end

local function take_off(id) return call('LREM', K.ingress_queue, 1, id) == 1 end

-- Puts a job that was found elsewhere where it is looked into like any other.
local function put_on(id)
  if not call('LPOS', K.ingress_queue, id) then call('RPUSH', K.ingress_queue, id) end
end

local function show_execution(inc, id, token, at)
  local node, run = name_of(inc), string.format('%s:%d', id, token)
  local seconds, worker = string.format('%.3f', server_time() / 1000), K.names .. node
  call('HSET', K.job .. id, 'status', 'started', 'started_at', at, 'last_heartbeat', at,
    'worker_name', worker)
  call('HSET', K.rq .. ':execution:' .. run, 'id', string.format('%d', token), 'job_id', id,
    'created_at', seconds, 'last_heartbeat', seconds, 'worker_name', worker)
  local limit = call('HGET', K.job .. id, 'rate_limit_key')
  if limit and limit ~= '' then call('HSET', K.rq .. ':execution:' .. run, 'rqproc_limited', 1) end
  call('ZADD', K.rq .. ':executions:' .. id, '+inf', string.format('%d', token))
  call('ZADD', K.wip, '+inf', run)
  call('SADD', K.worker .. node .. ':executions', run)
end

-- Returns whether the job had a rate limit. `claim`: as in K.claims, 'TOKEN ADDRESS'.
local function hide_execution(inc, id, claim)
  local token = string.match(claim, '^%d+')
  local run = id .. ':' .. token
  local is_limited = call('HGET', K.rq .. ':execution:' .. run, 'rqproc_limited') == '1'
  call('DEL', K.rq .. ':execution:' .. run)
  call('ZREM', K.rq .. ':executions:' .. id, token)
  call('ZREM', K.wip, run)
  call('SREM', K.worker .. name_of(inc) .. ':executions', run)
  return is_limited
end

-- A job that was started waits again, before all others.
local function wait_again(id)
  if redis.pcall('HGET', K.job .. id, 'status') ~= 'started' then return end
  call('HSET', K.job .. id, 'status', 'queued')
  call('LPUSH', K.ingress_queue, id)
end

-- RQ's pauses between runs, in s; `text` is a JSON array of them.
local function pauses_in(text)
  local fine, found = pcall(cjson.decode, text or '')
  return fine and type(found) == 'table' and found or {}
end

-- Whole seconds; 0 where anyone has written something else there.
local function pause_in(found)
  local pause = type(found) == 'number' and math.floor(found) or 0
  return pause > 0 and pause < 2 ^ 31 and pause or 0
end

-- A job is to run again: at once, or when its time has come, see enqueue_due.
local function run_again(id, pause_s, at, push)
  if pause_s > 0 then
    call('HSET', K.job .. id, 'status', 'scheduled')
    call('ZADD', K.scheduled, math.floor(server_time() / 1000) + pause_s, id)
  else
    call('HSET', K.job .. id, 'status', 'queued', 'enqueued_at', at)
    call(push, K.ingress_queue, id)
  end
end

-- Has a job that has failed run again by RQ's rules; whether it will.
local function retries(id, at)
  local job = K.job .. id
  local about = call('HMGET', job, 'retries_left', 'retry_intervals', 'enqueue_at_front_on_retry')
  local left, pauses = tonumber(about[1] or '') or 0, pauses_in(about[2])
  if left < 1 then return false end
  call('HSET', job, 'retries_left', left - 1)
  local pause = pause_in(pauses[math.max(#pauses - left, 0) + 1])
  run_again(id, pause, at, about[3] == '1' and 'LPUSH' or 'RPUSH')
  return true
end

-- The pause after which a job that has finished runs once more by RQ's rules; nil where it does not.
local function repeats_after(id)
  local job = K.job .. id
  local about = call('HMGET', job, 'repeats_left', 'repeat_intervals')
  local left, pauses = tonumber(about[1] or '') or 0, pauses_in(about[2])
  if left < 1 then return nil end
  call('HSET', job, 'repeats_left', left - 1)
  local pause = pause_in(table.remove(pauses, 1))
  if #pauses > 0 then call('HSET', job, 'repeat_intervals', cjson.encode(pauses)) end
  return pause
end

-- Enqueues jobs whose time has come. Those with a rate limit are left to RQ's own scheduler.
local function enqueue_due(at)
  local now_s = math.floor(server_time() / 1000)
  local due = call('ZRANGEBYSCORE', K.scheduled, '-inf', now_s, 'LIMIT', 0, 100)
  for _, id in ipairs(due) do
    local about = redis.pcall('HMGET', K.job .. id, 'status', 'enqueue_at_front', 'rate_limit_key')
    local is_limited = not about.err and about[3] and about[3] ~= ''
    if not is_limited then
      call('ZREM', K.scheduled, id)
      if not about.err and about[1] == 'scheduled' then
        run_again(id, 0, at, about[2] == '1' and 'LPUSH' or 'RPUSH')
      end
    end
  end
end
