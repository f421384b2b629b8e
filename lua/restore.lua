-- Sets an auction to the state that the log gives, after Redis has lost it or gone back in time.
-- KEYS  1 state  2 top_bids  3 bids  4 outbox  5 recent  6 prebids  7 rebuilt (answers by bid id, written beforehand)
-- ARGV  1 seq seen  2 head seen (both empty when the state was missing)
--       3 number of answers that were written to KEYS[7]
--       4 seconds until the keys expire (0: never, the auction is not over)
--       5 top as JSON  6 number of recent bids  7 number of pre-bids
--       then each recent bid as JSON, newest first; then the user id and the text of each pre-bid
--       then the fields of the state, each followed by its value
-- Returns 'restored', or 'moved' when the auction has another (seq, head) than the one seen, or when KEYS[7] lacks
-- answers because Redis lost data since they were written: nothing has changed, begin again.
-- All answers are replaced: those of bids that the log does not have must go. The outbox is dropped: its facts do
-- not continue the log and never will, or the caller would not restore.
local state_key, top_key, bids_key, outbox_key, recent_key, prebids_key, rebuilt_key =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local seen_seq, seen_head, answer_count, seconds, top, recent_count, prebid_count =
  ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local FIRST_RECENT = 8
local first_prebid = FIRST_RECENT + recent_count
local first_field = first_prebid + 2 * prebid_count

local seq, head, people = unpack(redis.call('HMGET', state_key, 'seq', 'head', 'participant_count'))
if (seq or '') ~= seen_seq or (head or '') ~= seen_head then
  return 'moved'
end
-- An accepted bid without its answer would be accepted again when it is repeated.
if redis.call('HLEN', rebuilt_key) ~= answer_count then
  return 'moved'
end

redis.call('DEL', state_key, top_key, outbox_key, recent_key, prebids_key)
redis.call('HSET', state_key, 'participant_count', people or '0')
for at = first_field, #ARGV, 2 do
  redis.call('HSET', state_key, ARGV[at], ARGV[at + 1])
end
for _, standing in ipairs(cjson.decode(top)) do
  redis.call('ZADD', top_key, decimal(tonumber(standing[3])), standing[1] .. ':' .. standing[2])
end
for at = FIRST_RECENT, first_prebid - 1 do
  redis.call('RPUSH', recent_key, ARGV[at])
end
for at = first_prebid, first_field - 1, 2 do
  redis.call('HSET', prebids_key, ARGV[at], ARGV[at + 1])
end
if answer_count > 0 then
  redis.call('RENAME', rebuilt_key, bids_key)
  redis.call('PERSIST', bids_key)
else
  redis.call('DEL', bids_key)
end
if seconds > 0 then
  for at = 1, 6 do
    redis.call('EXPIRE', KEYS[at], seconds)
  end
end
return 'restored'
