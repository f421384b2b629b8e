-- Creates an auction, scheduled to start now. Repeatable: the same id never makes a second one.
-- KEYS  1 state  2 outbox
-- ARGV  1 auction_id  2 host_user_id  3 host_username  4 starting_bid_cents  5 increment_cents
--       6 duration_ms  7 anti_snipe_mode  8 anti_snipe_window_ms  9 anti_snipe_extension_ms
--       10 anti_snipe_max_extensions  11 valid_until
-- Returns {'created' | 'exists' | 'late', seq, head}; 'late' when valid_until has passed.
local keys = { state = KEYS[1], outbox = KEYS[2] }

local present = redis.call('HMGET', keys.state, 'seq', 'head')
if present[1] then
  return { 'exists', tonumber(present[1]), present[2] }
end
local now = clock(0)
if now > tonumber(ARGV[11]) then
  return { 'late', 0, '' }
end

local genesis = '0000000000000000'
local fact = table.concat({ '1', 'created', whole(now), ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5],
  ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], whole(now) }, '\n')
local head = chain(genesis, fact)
redis.call('HSET', keys.state,
  'status', 'scheduled', 'seq', '1', 'head', head, 'last_now', whole(now),
  'host_user_id', ARGV[2], 'host_username', ARGV[3],
  'starting_bid_cents', ARGV[4], 'increment_cents', ARGV[5], 'duration_ms', ARGV[6],
  'anti_snipe_mode', ARGV[7], 'anti_snipe_window_ms', ARGV[8],
  'anti_snipe_extension_ms', ARGV[9], 'anti_snipe_max_extensions', ARGV[10],
  'created_at', whole(now), 'starts_at', whole(now), 'end_time', whole(now + tonumber(ARGV[6])),
  'extension_count', '0', 'bid_count', '0', 'participant_count', '0',
  'high_bid_cents', '', 'current_high_bid', '', 'high_bidder_id', '', 'high_bidder_username', '',
  'top', '[]')
append(keys, 'created', genesis, now, ARGV[2], '[]')
return { 'created', 1, head }
