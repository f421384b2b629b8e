-- Closes a live auction whose end has passed, or at once when its host asks. Repeatable.
-- KEYS  1 state  2 top_bids  3 bids  4 outbox  5 recent
-- ARGV  1 reason ('ended' or 'host')  2 who asked (user id, or empty)  3 seconds the keys live on
-- Returns {'closed' | 'already' | 'early' | 'not_live' | 'not_host', seq, head, end_time},
-- or nil when the state is missing.
local keys = { state = KEYS[1], outbox = KEYS[4] }

local state = redis.call('HMGET', keys.state, 'status', 'seq', 'head', 'last_now', 'end_time',
  'high_bidder_id', 'high_bidder_username', 'high_bid_cents', 'host_user_id')
local status = state[1]
if not status then
  return nil
end
local seq, head, end_time = tonumber(state[2]), state[3], tonumber(state[5])
if ARGV[1] == 'host' and ARGV[2] ~= state[9] then
  return { 'not_host', seq, head, end_time }
end
if status == 'closed' or status == 'cancelled' then
  return { 'already', seq, head, end_time }
end
if status ~= 'live' then
  return { 'not_live', seq, head, end_time }
end
local now = clock(state[4])
if ARGV[1] ~= 'host' and now < end_time then
  return { 'early', seq, head, end_time }
end

local winner_id, winner_username, winning_bid = state[6], state[7], state[8]
local outcome = winner_id == '' and 'unsold' or 'sold'
seq = seq + 1
local next_head = chain(head, table.concat({ whole(seq), 'closed', whole(now), ARGV[1], ARGV[2],
  outcome, winner_id, winning_bid }, '\n'))
redis.call('HSET', keys.state, 'status', 'closed', 'seq', whole(seq), 'head', next_head,
  'last_now', whole(now), 'ended_at', whole(now), 'reason', ARGV[1], 'outcome', outcome,
  'winner_id', winner_id, 'winner_username', winner_username, 'winning_bid_cents', winning_bid)
append(keys, 'closed', head, now, ARGV[2], '[]')
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, ARGV[3])
end
return { 'closed', seq, next_head, end_time }
