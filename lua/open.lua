-- Opens a scheduled auction whose start has come; its duration counts from now. Repeatable.
-- KEYS  those of opening.lua
-- ARGV  1 seconds until the keys expire, should pre-bids buy
--       2 for an auction that follows another: when it is due, or empty while that one has not ended. Only the log knows:
--         the other auction may be in another slot, and its closing counts once it is in the log
-- Returns {'opened' | 'already' | 'early' | 'waits', seq, head}, or nil when the state is missing; 'waits' for an auction
-- that follows another, without a time.
local keys = { state = KEYS[1], top = KEYS[2], outbox = KEYS[4], recent = KEYS[5], prebids = KEYS[6] }
local seconds, due = ARGV[1], tonumber(ARGV[2])

local status, seq, head, last_now, starts_at, follows = unpack(redis.call('HMGET', keys.state,
  'status', 'seq', 'head', 'last_now', 'starts_at', 'follows'))
if not status then
  return nil
end
if status ~= 'scheduled' then
  return { 'already', tonumber(seq), head }
end
if follows and not due then
  return { 'waits', tonumber(seq), head }
end
local now = clock(last_now)
if now < (follows and due or tonumber(starts_at)) then
  return { 'early', tonumber(seq), head }
end

seq, head = open_auction(keys, now, '', seconds)
return { 'opened', seq, head }
