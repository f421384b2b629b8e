-- Opens a scheduled auction whose start has come; its duration counts from now. Repeatable.
-- KEYS  those of opening.lua
-- ARGV  1 seconds until the keys expire, should pre-bids buy
-- Returns {'opened' | 'already' | 'early', seq, head}, or nil when the state is missing.
local keys = { state = KEYS[1], top = KEYS[2], outbox = KEYS[4], recent = KEYS[5], prebids = KEYS[6] }
local seconds = ARGV[1]

local status, seq, head, last_now, starts_at = unpack(redis.call('HMGET', keys.state,
  'status', 'seq', 'head', 'last_now', 'starts_at'))
if not status then
  return nil
end
if status ~= 'scheduled' then
  return { 'already', tonumber(seq), head }
end
local now = clock(last_now)
if now < tonumber(starts_at) then
  return { 'early', tonumber(seq), head }
end

seq, head = open_auction(keys, now, '', seconds)
return { 'opened', seq, head }
