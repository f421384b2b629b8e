-- Opens a scheduled auction whose start has come; its duration counts from now. Repeatable.
-- KEYS  1 state  2 outbox
-- ARGV  none
-- Returns {'opened' | 'already' | 'early', seq, head}, or nil when the state is missing.
local keys = { state = KEYS[1], outbox = KEYS[2] }

local status, seq, head, last_now, starts_at, duration = unpack(redis.call('HMGET', keys.state,
  'status', 'seq', 'head', 'last_now', 'starts_at', 'duration_ms'))
if not status then
  return nil
end
seq = tonumber(seq)
if status ~= 'scheduled' then
  return { 'already', seq, head }
end
local now = clock(last_now)
if now < tonumber(starts_at) then
  return { 'early', seq, head }
end

local end_time = whole(now + tonumber(duration))
seq = seq + 1
local next_head = chain(head, table.concat({ whole(seq), 'opened', whole(now), end_time }, '\n'))
redis.call('HSET', keys.state, 'status', 'live', 'seq', whole(seq), 'head', next_head,
  'last_now', whole(now), 'end_time', end_time)
append(keys, 'opened', head, now, '', '[]')
return { 'opened', seq, next_head }
