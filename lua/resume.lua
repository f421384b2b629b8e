-- Resumes a paused auction for its host, with the time that was left. Repeatable.
-- KEYS  1 state  2 outbox
-- ARGV  1 user id of the person who asks
-- Returns {'done' | 'already' | 'not_host' | 'wrong_state', seq, head}, or nil when the state is missing.
local keys = { state = KEYS[1], outbox = KEYS[2] }
local by = ARGV[1]

local status, seq, head, last_now, host_user_id, left = unpack(redis.call('HMGET', keys.state,
  'status', 'seq', 'head', 'last_now', 'host_user_id', 'remaining_ms'))
if not status then
  return nil
end
seq = tonumber(seq)
if by ~= host_user_id then
  return { 'not_host', seq, head }
elseif status == 'live' then
  return { 'already', seq, head }
elseif status ~= 'paused' then
  return { 'wrong_state', seq, head }
end

local now = clock(last_now)
local end_time = whole(now + tonumber(left))
seq = seq + 1
local next_head = chain(head, table.concat({ whole(seq), 'resumed', whole(now), by, end_time }, '\n'))
redis.call('HSET', keys.state, 'status', 'live', 'seq', whole(seq), 'head', next_head,
  'last_now', whole(now), 'end_time', end_time, 'remaining_ms', '')
append(keys, 'resumed', head, now, by, '[]')
return { 'done', seq, next_head }
