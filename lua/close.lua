-- Closes a live auction whose end has passed, or at once when its host asks. Repeatable.
-- KEYS  1 state  2 top_bids  3 bids  4 outbox  5 recent
-- ARGV  1 reason ('ended' or 'host')  2 user id of the person who asked, or empty  3 seconds until the keys expire
-- Returns {'closed' | 'already' | 'early' | 'not_live' | 'not_host', seq, head, end_time},
-- or nil when the state is missing.
local keys = { state = KEYS[1], outbox = KEYS[4] }
local reason, by, seconds = ARGV[1], ARGV[2], ARGV[3]

local status, seq, head, last_now, end_time, leader_id, leader_username, high_bid, host_user_id =
  unpack(redis.call('HMGET', keys.state, 'status', 'seq', 'head', 'last_now', 'end_time',
    'high_bidder_id', 'high_bidder_username', 'high_bid_cents', 'host_user_id'))
if not status then
  return nil
end
seq, end_time = tonumber(seq), tonumber(end_time)
if reason == 'host' and by ~= host_user_id then
  return { 'not_host', seq, head, end_time }
end
if status == 'closed' or status == 'cancelled' then
  return { 'already', seq, head, end_time }
end
if status ~= 'live' then
  return { 'not_live', seq, head, end_time }
end
local now = clock(last_now)
if reason ~= 'host' and now < end_time then
  return { 'early', seq, head, end_time }
end

local outcome = leader_id == '' and 'unsold' or 'sold'
seq = seq + 1
local next_head = chain(head, table.concat({ whole(seq), 'closed', whole(now), reason, by,
  outcome, leader_id, high_bid }, '\n'))
redis.call('HSET', keys.state, 'status', 'closed', 'seq', whole(seq), 'head', next_head,
  'last_now', whole(now), 'ended_at', whole(now), 'reason', reason, 'outcome', outcome,
  'winner_id', leader_id, 'winner_username', leader_username, 'winning_bid_cents', high_bid)
append(keys, 'closed', head, now, by, '[]')
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, seconds)
end
return { 'closed', seq, next_head, end_time }
