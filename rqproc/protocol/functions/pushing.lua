-- How much is pushed to a caller before it has read it. A server closes the connection of a subscriber
-- for whom too much lies ready (client-output-buffer-limit: 32 MB, or 8 MB for a minute, if it is not
-- told otherwise), however much it was that others sent there. So what is pushed is bounded, and what is
-- beyond that is told of: 'ID kept BYTES KEY'. Its caller fetches it, as much at once as it will.
--
-- What this process of the server remembers of it:
--   K.unread  caller -> bytes that were pushed to it since it last asked for anything new: who does so,
--             reads
--   K.unread_of  how many callers that are
local BIG = 65536 -- answers above this are never pushed
local SHORT = 1024 -- those up to this always: to tell of them takes as much
local UNREAD = 1048576

local function may_push(caller, bytes)
  if bytes <= SHORT then return true end
  local before = K.unread[caller]
  local after = (before or 0) + bytes
  if bytes > BIG or after > UNREAD then return false end
  if not before then
    if K.unread_of == 1000 then K.unread, K.unread_of = {}, 0 end -- most of them are gone
    K.unread_of = K.unread_of + 1
  end
  K.unread[caller] = after
  return true
end

-- Whoever asks for this new call, or group, has read what was pushed to it.
local function has_read(id)
  if K.unread_of > 0 and id then
    local caller = string.match(id, '^(r%x+)%-')
    if caller and K.unread[caller] then K.unread[caller] = 0 end
  end
end

local function kept_at(id, key, bytes) return id .. ' kept ' .. bytes .. ' ' .. key end

-- What a caller that asks again was told, or would be: its answer, where that is kept, or where it lies;
-- why it was withdrawn; false for neither.
local function told_before(id)
  local key = K.answer .. id
  local bytes = call('STRLEN', key)
  if bytes == 0 then return call('GET', K.withdrawn .. id) end
  if may_push(string.match(id, '^r%x+'), bytes) then return call('GET', key) end
  return kept_at(id, key, bytes)
end
