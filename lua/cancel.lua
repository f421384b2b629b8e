-- Cancels an auction that is not over, in the name of its host: there is no winner, whatever was bid. Repeatable.
-- KEYS  1 state  2 top_bids  3 bids  4 outbox  5 recent  6 prebids
-- ARGV  1 user id of the host  2 seconds until the keys expire  3 reason ('host' or 'restored')
-- Returns {'cancelled' | 'already' | 'not_host', seq, head, end_time}, or nil when the state is missing.
local keys = { state = KEYS[1], outbox = KEYS[4] }
local by, seconds, reason = ARGV[1], ARGV[2], ARGV[3]

local status, seq, head, last_now, end_time, host_user_id = unpack(redis.call('HMGET', keys.state,
  'status', 'seq', 'head', 'last_now', 'end_time', 'host_user_id'))
if not status then
  return nil
end
seq, end_time = tonumber(seq), tonumber(end_time)
if by ~= host_user_id then
  return { 'not_host', seq, head, end_time }
end
if status == 'closed' or status == 'cancelled' then
  return { 'already', seq, head, end_time }
end

local now = clock(last_now)
seq = seq + 1
local next_head = chain(head, table.concat({ whole(seq), 'cancelled', whole(now), by }, '\n'))
redis.call('HSET', keys.state, 'status', 'cancelled', 'seq', whole(seq), 'head', next_head,
  'last_now', whole(now), 'ended_at', whole(now), 'reason', reason, 'outcome', 'cancelled',
  'winner_id', '', 'winner_username', '', 'winning_bid_cents', '')
append(keys, 'cancelled', head, now, by, '[]')
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, seconds)
end
return { 'cancelled', seq, next_head, end_time }
