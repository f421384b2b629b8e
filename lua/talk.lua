-- Decides whether a person may send a chat message now, and counts the message if so. Not a fact: no seq, nothing for
-- the log.
-- KEYS  1 chat (hash: slow_mode_seconds)  2 mute of this person  3 last message of this person
--       4 mark of a person who has sent a message lately
--       5 messages in this second: of the room's guests, or of its host
-- ARGV  1 milliseconds between two messages of a person without slow mode  2 messages in a second that KEYS 5 counts
--       3 those of them that are kept for guests who have sent none lately  4 milliseconds that count as lately
--       5 role of the person: 'host' (neither a mute nor the pause applies) or 'guest'
-- Returns {'yes', 0}, {'muted', ms left} or {'fast', ms until the next message is allowed}. A rejection writes nothing.
local keys = { chat = KEYS[1], mute = KEYS[2], last = KEYS[3], lately = KEYS[4], count = KEYS[5] }
local pause, limit, reserved, lately = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local role = ARGV[5]

if role ~= 'host' then
  local muted = redis.call('PTTL', keys.mute)
  if muted > 0 then
    return { 'muted', muted }
  end
  local wait = redis.call('PTTL', keys.last)
  if wait > 0 then
    return { 'fast', wait }
  end
  if redis.call('EXISTS', keys.lately) == 1 then
    limit = limit - reserved
  end
end
if (tonumber(redis.call('GET', keys.count)) or 0) >= limit then
  return { 'fast', math.max(redis.call('PTTL', keys.count), 1) }
end

local slow = tonumber(redis.call('HGET', keys.chat, 'slow_mode_seconds')) or 0
redis.call('SET', keys.last, '1', 'PX', math.max(slow * 1000, pause))
redis.call('SET', keys.lately, '1', 'PX', lately)
if redis.call('INCR', keys.count) == 1 then
  redis.call('PEXPIRE', keys.count, 1000)
end
return { 'yes', 0 }
