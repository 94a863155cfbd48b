-- What ends a call or job.

-- Brings an answer to its caller, who listens now. What is too big to be pushed lies at a key, for its
-- caller to fetch. `lies`: whether it lies there anyway.
local function publish(id, payload, key, lies)
  local caller = string.match(id, '^(r%x+)%-')
  if may_push(caller, #payload) then
    call('PUBLISH', K.reply .. caller, payload)
  else
    if not lies then call('SET', key, payload, 'PX', KEEP_MS) end
    call('PUBLISH', K.reply .. caller, kept_at(id, key, #payload))
  end
end

-- Whether a job may end now: it was started, or is taken off RQ's list for this. One that was canceled
-- or deleted while it ran stays so.
local function may_end(id)
  local status = redis.pcall('HGET', K.job .. id, 'status')
  return status == 'started' or status == 'queued' and take_off(id)
end

-- Takes a call or job out without an answer.
local function discard(inc, id, is_job)
  if call('ZREM', K.open .. inc, id) == 0 then return end
  if is_job then
    if not may_end(id) then return end
    call('HSET', K.job .. id, 'status', 'canceled')
    call('EXPIRE', K.job .. id, 500)
  else
    call('DEL', K.job .. id)
  end
end

-- Whether a group's calls at a node still begin with those that it saw, `length` characters of them: else
-- it has said so before, or they were sent on, and what lies there now is nothing that it has answered.
-- The first of them is the first that it answers, or the first that it runs.
local function begins_with(text, length, payload, run)
  local next_byte = string.byte(text, length + 1)
  if #text < length or next_byte and next_byte ~= 32 then return false end
  local first = string.match(text, '^%d+')
  return first == string.match(payload, '^%S+ %S+ %d+ %d+ %d+ %S+ %[%[(%d+),')
    or run and first == string.match(run, '_(%d+)%-') or false
end

-- A node has answered the calls of a group that it saw, `length` characters of them: with what has come
-- since, the group is queued there anew.
local function end_group_here(inc, group, text, length)
  if #text > length then
    call('HSET', K.job .. group, inc, string.sub(text, length + 2))
    call('RPUSH', queue_of(inc), group)
  else
    call('ZREM', K.open .. inc, group)
    end_parts(inc, group)
  end
end

-- Whether RQ's own code has something to do when a job has ended: others depend on it, or wait for its
-- place under a rate limit.
local function concerns_others(id)
  if call('EXISTS', K.job .. id .. ':dependents') == 1 then return true end
  local limit = call('HGET', K.job .. id, 'rate_limit_key')
  return limit and limit ~= ''
end

-- Ends a job by RQ's rules, or has it run again; false where it may not end, 'retried' where it has not.
--   ok      whether body is a return_value or an exc_string, both in RQ's encoding
--   report  JSON that names the error
--   stopped  by RQ's command
local function conclude(id, ok, body, report, worker, ended_at, stopped)
  local job, results = K.job .. id, K.results .. id
  if not may_end(id) then return false end
  -- What nodes die on is not tried again, nor what no node has run.
  local is_lost = string.find(report, '"NodeLost"', 1, true)
  if not (ok or stopped or is_lost or worker == '') and retries(id, ended_at) then
    return 'retried'
  end
  if ok then
    call('XADD', results, '*', 'type', 1, 'worker_name', worker, 'return_value', body)
  else
    call('XADD', results, '*', 'type', 2, 'worker_name', worker, 'exc_string', body, 'rqproc_error',
      report)
  end
  local status = ok and 'finished' or stopped and 'stopped' or 'failed'
  call('HSET', job, 'status', status, 'ended_at', ended_at)
  if not ok and call('HDEL', job, 'rqproc_lost') == 1 then call('HSET', job, 'rqproc_given_up', 1) end
  if worker ~= '' and call('HSETNX', job, 'started_at', ended_at) == 1 then
    call('HSET', job, 'worker_name', worker) -- it has joined another's run
  end
  local kept = call('HMGET', job, 'origin', ok and 'result_ttl' or 'failure_ttl')
  local ttl = tonumber(kept[2] or '')
  if not ttl or ttl ~= math.floor(ttl) or ttl < -1 or ttl > 2147483647 then
    ttl = ok and 500 or 31536000 -- RQ's defaults: a failure is kept for a year
  end
  local keys = { results, job .. ':dependents', job }
  local pause = ok and repeats_after(id)
  if pause then
    keys[3] = nil
    run_again(id, pause, ended_at, 'RPUSH')
  elseif ttl == 0 and concerns_others(id) then
    ttl = 60 -- it is read first
  end
  if ttl == 0 then
    call('DEL', unpack(keys))
    return true
  end
  for _, key in ipairs(keys) do
    if ttl > 0 then call('EXPIRE', key, ttl) else call('PERSIST', key) end
  end
  local registry = K.rq .. (ok and ':finished:' or ':failed:') .. (kept[1] or K.ingress)
  local now_s = math.floor(server_time() / 1000)
  call('ZREMRANGEBYSCORE', registry, 0, now_s)
  call('ZADD', registry, ttl > 0 and now_s + ttl or '+inf', id)
  return true
end

-- Tells near-caches that an entry was dropped. Returns nil, or the report of why they were not told:
-- then nobody may say that the old value is served no more.
local function tell_drop(what)
  local told = redis.pcall('PUBLISH', K.dropped, what)
  if type(told) == 'number' then return nil end
  local advice = told.err .. ' (the nodes publish on ' .. K.dropped .. ')'
  return cjson.encode({ type = 'HandlerFailed', remote_type = 'NotPublished', message = advice })
end

-- Answers a call that is open here, and keeps its answer: its caller may have to ask for it again.
local function answer_call(inc, id, payload, keep_ms)
  if call('ZREM', K.open .. inc, id) == 0 then return end
  -- Its hash may have expired, where the server's clock was set forward; or its caller has done without.
  if call('DEL', K.job .. id) == 0 and call('EXISTS', K.withdrawn .. id) == 1 then return end
  call('SET', K.answer .. id, payload, 'PX', keep_ms)
  publish(id, payload, K.answer .. id, true)
end

-- answer: ends calls and jobs, and releases what they held.
--
-- args  2 incarnation  3 time as RQ writes it  4 1 where this node is draining, else 0
--       then in turn
--         'hit', id, payload             a call that has not been claimed, answered from an entry
--         'many', id, payload, length    a group all of whose calls are; see settle for `length`
--         OUTCOME, id, address, payload, keep in ms
--                                        a call, claimed or not; the payload is
--                                        'ID SOURCE AGE_MS LEFT_MS TOKEN NODE BODY'
--         OUTCOME, id, address, body, report
--                                        a job: the report is '' where body is a return_value
--       OUTCOME is 'call' or 'job', and
--         ''         it has ended, with a value or an error
--         ':dropped' a call that invalidates: near-caches hear of it before its caller
--         ':flushed', ':flushed-all'
--                    a call that invalidates all entries, of its address's resource or of all
--         ':expired' no answer: nobody waits any more
--         ':stuck'   an answer, but the run goes on, so the hold stays
--         ':ended'   a run has ended that nobody, or a ':stuck', was answered for: it has the answer
--                    of that one, which may have been lost on its way; '' for none
-- returns the ids of those jobs that were ended here whose dependents wait to be enqueued, or that others
--   wait for under a rate limit
--
-- What is not open at this very incarnation is not answered again: it was answered before (the node
-- lost that reply, and is told of the dependents once more), withdrawn, or given to another node.
local function answer(args)
  local inc, at = args[2], args[3]
  local name, dependents = name_of(inc), {}
  local worker = K.names .. name

  -- One that was canceled or deleted while it ran has kept its place under its rate limit for so long.
  local function end_job(id, body, report, stopped, is_limited)
    if call('ZREM', K.open .. inc, id) == 0 then return end
    local how = conclude(id, report == '', body, report, worker, at, stopped)
    if how == true and concerns_others(id) or how ~= true and is_limited then
      dependents[#dependents + 1] = id
    end
  end

  local function tell_again(id)
    local status = concerns_others(id) and call('HGET', K.job .. id, 'status')
    if status == 'finished' or status == 'failed' or status == 'stopped' or status == 'canceled' then
      dependents[#dependents + 1] = id
    end
  end

  local function finish(kind, outcome, id, address, payload, extra)
    local ends, claim = outcome ~= ':stuck', kind == 'job' and call('HGET', K.claims .. inc, id)
    local is_limited = claim and hide_execution(inc, id, claim)
    local ran = ends and call('HDEL', K.claims .. inc, id) == 1
    if ran then
      release(address, inc)
      if outcome == '' or outcome == ':dropped' then call('HDEL', K.suspects, address) end
    end
    if outcome == ':expired' then
      discard(inc, id, kind == 'job')
      if kind == 'job' and (is_limited or concerns_others(id)) then dependents[#dependents + 1] = id end
    elseif payload ~= '' and kind == 'job' then
      if ends and not ran then tell_again(id) end
      end_job(id, payload, extra, outcome == ':stopped', is_limited)
    elseif payload ~= '' then
      local refused = outcome == ':dropped' and tell_drop(address)
      if string.sub(outcome, 1, 8) == ':flushed' and call('ZSCORE', K.open .. inc, id) then
        local resource = outcome == ':flushed' and string.match(address, '^%d+%-([%w_]+)%-') or ''
        flush(resource)
        refused = tell_drop('*' .. resource)
      end
      if refused then payload = id .. ' error 0 0 0 ' .. name .. ' ' .. refused end
      answer_call(inc, id, payload, extra)
    end
  end

  local i = 5
  while i <= #args do
    local how, id = args[i], args[i + 1]
    if how == 'hit' then
      if call('ZREM', K.open .. inc, id) == 1 then
        call('DEL', K.job .. id)
        publish(id, args[i + 2], K.answer .. id)
      end
      i = i + 3
    elseif how == 'many' then
      local text = call('ZSCORE', K.open .. inc, id) and call('HGET', K.job .. id, inc)
      local length = tonumber(args[i + 3])
      if text and begins_with(text, length, args[i + 2]) then
        publish(id, args[i + 2], K.answer .. id .. '/' .. inc)
        end_group_here(inc, id, text, length)
      end
      i = i + 4
    else
      local kind, outcome = string.match(how, '^(%a+)(.*)$')
      finish(kind, outcome, id, args[i + 2], args[i + 3], args[i + 4])
      i = i + 5
    end
  end
  -- A draining node takes nothing new: what waited for a hold of its own goes to the new owner.
  if args[4] == '1' and is_live(inc) then empty_queue(inc) end
  return dependents
end

registered_for_full('answer', answer)
