-- Decides whether a person may send a chat message now, and counts the message if so. Not a fact: no seq, nothing for
-- the log.
-- KEYS  1 chat (hash: slow_mode_seconds)  2 mute of this person  3 last message of this person
--       4 messages of the room in this second
-- ARGV  1 milliseconds between two messages of a person without slow mode  2 messages of a room in a second
--       3 role of the person: 'host' (neither a mute nor the pause applies) or 'guest'
-- Returns {'yes', 0}, {'muted', ms left} or {'fast', ms until the next message is allowed}. A rejection writes nothing.
local keys = { chat = KEYS[1], mute = KEYS[2], last = KEYS[3], room = KEYS[4] }
local pause, room_limit, role = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

if role ~= 'host' then
  local muted = redis.call('PTTL', keys.mute)
  if muted > 0 then
    return { 'muted', muted }
  end
  local wait = redis.call('PTTL', keys.last)
  if wait > 0 then
    return { 'fast', wait }
  end
end
if (tonumber(redis.call('GET', keys.room)) or 0) >= room_limit then
  return { 'fast', math.max(redis.call('PTTL', keys.room), 1) }
end

local slow = tonumber(redis.call('HGET', keys.chat, 'slow_mode_seconds')) or 0
redis.call('SET', keys.last, '1', 'PX', math.max(slow * 1000, pause))
if redis.call('INCR', keys.room) == 1 then
  redis.call('PEXPIRE', keys.room, 1000)
end
return { 'yes', 0 }
