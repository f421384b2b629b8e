-- Closes a live auction whose end has passed or whose high bid is the buy-now price, or at once when its host asks. A
-- closing that comes late because of an outage gives the auction more time instead. Repeatable.
-- KEYS  1 state  2 top_bids  3 bids  4 outbox  5 recent  6 prebids
-- ARGV  1 reason ('ended' or 'host')  2 user id of the person who asked, or empty  3 seconds until the keys expire
-- Returns {'closed' | 'resumed' | 'already' | 'early' | 'not_live' | 'not_host', seq, head, end_time},
-- or nil when the state is missing.
local keys = { state = KEYS[1], outbox = KEYS[4] }
local reason, by, seconds = ARGV[1], ARGV[2], ARGV[3]

local status, seq, head, last_now, end_time, leader_id, leader_username, high_bid, price, host_user_id,
  buy_now, standing, reserve, mode, window, extension, recoveries =
  unpack(redis.call('HMGET', keys.state, 'status', 'seq', 'head', 'last_now', 'end_time',
    'high_bidder_id', 'high_bidder_username', 'high_bid_cents', 'price_cents', 'host_user_id',
    'buy_now_cents', 'standing_cents', 'reserve_cents', 'anti_snipe_mode', 'anti_snipe_window_ms',
    'anti_snipe_extension_ms', 'recoveries'))
if not status then
  return nil
end
high_bid = high_bid or price or standing
seq, end_time = tonumber(seq), tonumber(end_time)
if reason == 'host' and by ~= host_user_id then
  return { 'not_host', seq, head, end_time }
end
if status == 'closed' or status == 'cancelled' then
  return { 'already', seq, head, end_time }
end
if status ~= 'live' and not (status == 'paused' and reason == 'host') then
  return { 'not_live', seq, head, end_time }
end
local now = clock(last_now)
buy_now = tonumber(buy_now)
if reason ~= 'host' and buy_now and (tonumber(high_bid) or 0) >= buy_now then
  -- Redis lost the closing that followed this bid, and has been rebuilt.
  reason = 'buy_now'
elseif reason ~= 'host' and now < end_time then
  return { 'early', seq, head, end_time }
end

local late = late_ms(mode, window, extension)
recoveries = tonumber(recoveries) or 0
if reason == 'ended' and now > end_time + LATE_CLOSING_MS and late > 0 and recoveries < MAX_RECOVERIES then
  end_time = now + late
  local next_head = chain(head, table.concat({ whole(seq + 1), 'resumed', whole(now), '', whole(end_time) }, '\n'))
  redis.call('HSET', keys.state, 'seq', whole(seq + 1), 'head', next_head, 'last_now', whole(now),
    'end_time', whole(end_time), 'recoveries', whole(recoveries + 1))
  append(keys, 'resumed', head, now, '', '[]')
  return { 'resumed', seq + 1, next_head, end_time }
end

local leader = { id = leader_id, username = leader_username }
if tonumber(reserve) and (tonumber(high_bid) or 0) < tonumber(reserve) then
  -- Below the reserve there is no winner.
  leader, high_bid = { id = '', username = '' }, ''
end
seq, head = finish(keys, seq, head, now, reason, by, leader, high_bid, seconds)
return { 'closed', seq, head, end_time }
