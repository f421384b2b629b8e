-- Pauses a live auction for its host: its time is stopped, bids are refused. Repeatable.
-- KEYS  1 state  2 outbox
-- ARGV  1 user id of the person who asks
-- Returns {'done' | 'already' | 'not_host' | 'wrong_state', seq, head}, or nil when the state is missing.
local keys = { state = KEYS[1], outbox = KEYS[2] }
local by = ARGV[1]

local status, seq, head, last_now, host_user_id, end_time, price, standing, buy_now, pauses =
  unpack(redis.call('HMGET', keys.state, 'status', 'seq', 'head', 'last_now', 'host_user_id', 'end_time', 'price_cents',
    'standing_cents', 'buy_now_cents', 'pauses'))
if not status then
  return nil
end
seq, end_time, buy_now = tonumber(seq), tonumber(end_time), tonumber(buy_now)
local now = clock(last_now)
if by ~= host_user_id then
  return { 'not_host', seq, head }
elseif status == 'paused' then
  return { 'already', seq, head }
elseif status ~= 'live' or now >= end_time or (buy_now and (tonumber(price or standing) or 0) >= buy_now) then
  return { 'wrong_state', seq, head }
end

local left = whole(end_time - now)
seq = seq + 1
local next_head = chain(head, table.concat({ whole(seq), 'paused', whole(now), by, left }, '\n'))
need_rules(keys)
redis.call('HSET', keys.state, 'status', 'paused', 'seq', whole(seq), 'head', next_head,
  'last_now', whole(now), 'remaining_ms', left, 'pauses', whole((tonumber(pauses) or 0) + 1))
append(keys, 'paused', head, now, by, '[]')
return { 'done', seq, next_head }
