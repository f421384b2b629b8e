-- Cancels an auction that is not over, for its host: nobody wins, whatever was bid. Repeatable.
-- KEYS  1 state  2 top_bids  3 bids  4 outbox  5 recent
-- ARGV  1 who asked (user id)  2 seconds the keys live on
-- Returns {'cancelled' | 'already' | 'not_host', seq, head, end_time}, or nil when the state is missing.
local keys = { state = KEYS[1], outbox = KEYS[4] }
local by, seconds = ARGV[1], ARGV[2]

local state = redis.call('HMGET', keys.state, 'status', 'seq', 'head', 'last_now', 'end_time', 'host_user_id')
local status = state[1]
if not status then
  return nil
end
local seq, head, end_time = tonumber(state[2]), state[3], tonumber(state[5])
if by ~= state[6] then
  return { 'not_host', seq, head, end_time }
end
if status == 'closed' or status == 'cancelled' then
  return { 'already', seq, head, end_time }
end

local now = clock(state[4])
seq = seq + 1
local next_head = chain(head, table.concat({ whole(seq), 'cancelled', whole(now), by }, '\n'))
redis.call('HSET', keys.state, 'status', 'cancelled', 'seq', whole(seq), 'head', next_head,
  'last_now', whole(now), 'ended_at', whole(now), 'reason', 'host', 'outcome', 'cancelled',
  'winner_id', '', 'winner_username', '', 'winning_bid_cents', '')
append(keys, 'cancelled', head, now, by, '[]')
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, seconds)
end
return { 'cancelled', seq, next_head, end_time }
