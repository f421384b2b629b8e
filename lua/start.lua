-- Opens a scheduled auction now, for its host; its duration counts from now. Repeatable.
-- KEYS  those of opening.lua
-- ARGV  1 user id of the person who asks  2 seconds until the keys expire, should pre-bids buy
-- Returns {'done' | 'already' | 'not_host' | 'wrong_state', seq, head}, or nil when the state is missing.
-- domain::Auction::act is the model of this script, and of pause, resume, block and unblock.
local keys = { state = KEYS[1], top = KEYS[2], outbox = KEYS[4], recent = KEYS[5], prebids = KEYS[6] }
local by, seconds = ARGV[1], ARGV[2]

local status, seq, head, last_now, host_user_id = unpack(redis.call('HMGET', keys.state,
  'status', 'seq', 'head', 'last_now', 'host_user_id'))
if not status then
  return nil
end
if by ~= host_user_id then
  return { 'not_host', tonumber(seq), head }
elseif status == 'live' or status == 'paused' then
  return { 'already', tonumber(seq), head }
elseif status ~= 'scheduled' then
  return { 'wrong_state', tonumber(seq), head }
end

seq, head = open_auction(keys, clock(last_now), by, seconds)
return { 'done', seq, head }
