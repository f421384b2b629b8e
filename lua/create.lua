-- Creates an auction, scheduled to start now. Repeatable: the same id never makes a second one.
-- KEYS  1 state  2 outbox
-- ARGV  1 auction_id  2 host_user_id  3 host_username  4 starting_bid_cents  5 increment_cents
--       6 duration_ms  7 anti_snipe_mode  8 anti_snipe_window_ms  9 anti_snipe_extension_ms
--       10 anti_snipe_max_extensions  11 valid_until
-- Returns {'created' | 'exists' | 'late', seq, head}; 'late' when valid_until has passed.
local keys = { state = KEYS[1], outbox = KEYS[2] }
local auction_id, host_user_id, host_username = ARGV[1], ARGV[2], ARGV[3]
local starting_bid, increment, duration = ARGV[4], ARGV[5], ARGV[6]
local mode, window, extension, max_extensions = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local valid_until = tonumber(ARGV[11])

local GENESIS = '0000000000000000'

local seq, head = unpack(redis.call('HMGET', keys.state, 'seq', 'head'))
if seq then
  return { 'exists', tonumber(seq), head }
end
local now = clock(0)
if now > valid_until then
  return { 'late', 0, '' }
end

local starts_at = whole(now)
local end_time = whole(now + tonumber(duration))
head = chain(GENESIS, table.concat({ '1', 'created', whole(now), auction_id, host_user_id, host_username,
  starting_bid, increment, duration, mode, window, extension, max_extensions, starts_at }, '\n'))
redis.call('HSET', keys.state,
  'status', 'scheduled', 'seq', '1', 'head', head, 'last_now', whole(now),
  'host_user_id', host_user_id, 'host_username', host_username,
  'starting_bid_cents', starting_bid, 'increment_cents', increment, 'duration_ms', duration,
  'anti_snipe_mode', mode, 'anti_snipe_window_ms', window,
  'anti_snipe_extension_ms', extension, 'anti_snipe_max_extensions', max_extensions,
  'created_at', whole(now), 'starts_at', starts_at, 'end_time', end_time,
  'extension_count', '0', 'bid_count', '0', 'participant_count', '0',
  'high_bid_cents', '', 'current_high_bid', '', 'high_bidder_id', '', 'high_bidder_username', '',
  'top', '[]')
append(keys, 'created', GENESIS, now, host_user_id, '[]')
return { 'created', 1, head }
