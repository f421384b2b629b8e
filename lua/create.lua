-- Creates an auction, scheduled to start. Repeatable: the same id never makes a second one.
-- KEYS  1 state  2 outbox
-- ARGV  1 auction_id  2 host_user_id  3 host_username  4 starting_bid_cents  5 increments
--       6 duration_ms  7 anti_snipe_mode  8 anti_snipe_window_ms  9 anti_snipe_extension_ms
--       10 anti_snipe_max_extensions  11 valid_until
--       12 'plain', or 'rules' if the first version of the scripts does not know them all, or 'secrets'
--       13 '1' if the leader may raise their own bid, or empty  14 buy_now_cents, or empty
--       15 when it starts, or empty for now  16 reserve_cents, or empty  17 the reserve sealed, or empty
--       18 '1' if bids are kept until the opening, or empty
--       19 the auction that it follows, or empty  20 gap_ms, from the end of that one to the opening of this one
--       21 the time that stands for a start that is not known yet
-- Returns {'created' | 'exists' | 'late', seq, head}; 'late' when valid_until has passed.
local keys = { state = KEYS[1], outbox = KEYS[2] }
local auction_id, host_user_id, host_username = ARGV[1], ARGV[2], ARGV[3]
local starting_bid, increments, duration = ARGV[4], ARGV[5], ARGV[6]
local mode, window, extension, max_extensions = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local valid_until, form, self_raise = tonumber(ARGV[11]), ARGV[12], ARGV[13]
local buy_now, wanted_start, reserve, reserve_sealed, prebids = ARGV[14], tonumber(ARGV[15]), ARGV[16], ARGV[17], ARGV[18]
local follows, gap, not_yet = ARGV[19], ARGV[20], tonumber(ARGV[21])

local GENESIS = '0000000000000000'

local seq, head = unpack(redis.call('HMGET', keys.state, 'seq', 'head'))
if seq then
  return { 'exists', tonumber(seq), head }
end
local now = clock(0)
if now > valid_until then
  return { 'late', 0, '' }
end

local start = follows == '' and math.max(now, wanted_start or 0) or not_yet
local starts_at, end_time = whole(start), whole(start + tonumber(duration))
local fact = { '1', 'created', whole(now), auction_id, host_user_id, host_username,
  starting_bid, increments, duration, mode, window, extension, max_extensions, starts_at }
if self_raise ~= '' then
  fact[#fact + 1] = 'self_raise'
end
if buy_now ~= '' then
  fact[#fact + 1] = 'buy_now ' .. buy_now
end
if reserve ~= '' then
  fact[#fact + 1] = 'reserve ' .. reserve_sealed
end
if prebids ~= '' then
  fact[#fact + 1] = 'prebids'
end
if follows ~= '' then
  fact[#fact + 1] = 'follows ' .. follows .. ' ' .. gap
end
head = chain(GENESIS, table.concat(fact, '\n'))
redis.call('HSET', keys.state,
  'status', 'scheduled', 'seq', '1', 'head', head, 'last_now', whole(now),
  'host_user_id', host_user_id, 'host_username', host_username,
  'starting_bid_cents', starting_bid, prebids == '' and 'duration_ms' or 'length_ms', duration,
  'anti_snipe_mode', mode, 'anti_snipe_window_ms', window,
  'anti_snipe_extension_ms', extension, 'anti_snipe_max_extensions', max_extensions,
  'created_at', whole(now), follows == '' and 'starts_at' or 'gap_ms', follows == '' and starts_at or gap,
  'end_time', end_time,
  'extension_count', '0', 'bid_count', '0', 'participant_count', '0',
  'current_high_bid', '', 'high_bidder_id', '', 'high_bidder_username', '')
if form == 'plain' then
  redis.call('HSET', keys.state, 'increment_cents', increments, 'high_bid_cents', '', 'top', '[]')
elseif form == 'secrets' then
  redis.call('HSET', keys.state, 'rules', '3', 'ladder', increments, 'standing_cents', '', 'ranking', '[]',
    'self_raise', self_raise, 'buy_now_cents', buy_now, 'reserve_cents', reserve, 'reserve_sealed', reserve_sealed,
    'maximum_cents', '', 'maximum_sealed', '', 'maximum_bid_id', '', 'answers', '0')
else
  redis.call('HSET', keys.state, 'rules', '2', 'increments', increments, 'price_cents', '', 'ranking', '[]',
    'self_raise', self_raise, 'buy_now_cents', buy_now)
end
if prebids ~= '' then
  redis.call('HSET', keys.state, 'prebids', '1')
end
if follows ~= '' then
  redis.call('HSET', keys.state, 'follows', follows)
end
append(keys, 'created', GENESIS, now, host_user_id, '[]')
return { 'created', 1, head }
