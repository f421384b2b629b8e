-- Opens a scheduled auction whose start has come; its duration counts from here. Repeatable.
-- KEYS  1 state  2 outbox
-- ARGV  none
-- Returns {'opened' | 'already' | 'early', seq, head}, or nil when the state is missing.
local keys = { state = KEYS[1], outbox = KEYS[2] }

local state = redis.call('HMGET', keys.state, 'status', 'seq', 'head', 'last_now', 'starts_at', 'duration_ms')
if not state[1] then
  return nil
end
local seq, head = tonumber(state[2]), state[3]
if state[1] ~= 'scheduled' then
  return { 'already', seq, head }
end
local now = clock(state[4])
if now < tonumber(state[5]) then
  return { 'early', seq, head }
end

local end_time = whole(now + tonumber(state[6]))
seq = seq + 1
local next_head = chain(head, table.concat({ whole(seq), 'opened', whole(now), end_time }, '\n'))
redis.call('HSET', keys.state, 'status', 'live', 'seq', whole(seq), 'head', next_head,
  'last_now', whole(now), 'end_time', end_time)
append(keys, 'opened', head, now, '', '[]')
return { 'opened', seq, next_head }
