-- Opens a scheduled auction now, for its host; its duration counts from now. Repeatable.
-- KEYS  1 state  2 outbox
-- ARGV  1 user id of the person who asks
-- Returns {'done' | 'already' | 'not_host' | 'wrong_state', seq, head}, or nil when the state is missing.
-- domain::Auction::act is the model of this script, and of pause, resume, block and unblock.
local keys = { state = KEYS[1], outbox = KEYS[2] }
local by = ARGV[1]

local status, seq, head, last_now, host_user_id, duration = unpack(redis.call('HMGET', keys.state,
  'status', 'seq', 'head', 'last_now', 'host_user_id', 'duration_ms'))
if not status then
  return nil
end
seq = tonumber(seq)
if by ~= host_user_id then
  return { 'not_host', seq, head }
elseif status == 'live' or status == 'paused' then
  return { 'already', seq, head }
elseif status ~= 'scheduled' then
  return { 'wrong_state', seq, head }
end

local now = clock(last_now)
local end_time = whole(now + tonumber(duration))
seq = seq + 1
local next_head = chain(head, table.concat({ whole(seq), 'opened', whole(now), end_time, by }, '\n'))
redis.call('HSET', keys.state, 'status', 'live', 'seq', whole(seq), 'head', next_head,
  'last_now', whole(now), 'end_time', end_time)
append(keys, 'opened', head, now, by, '[]')
return { 'done', seq, next_head }
