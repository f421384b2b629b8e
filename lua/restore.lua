-- Puts an auction back to where the log says it is, after Redis has lost it or gone back in time.
-- KEYS  1 state  2 top_bids  3 bids  4 outbox  5 recent  6 rebuilt (answers by bid id, made before)
-- ARGV  1 seq seen  2 head seen (both empty when the state was missing)
--       3 seconds the keys live on (0: the auction is not over)
--       4 top as JSON  5 how many recent bids, then each as JSON, newest first
--       then the fields of the state, each followed by its value
-- Returns 'restored', or 'moved' when the auction has another (seq, head) than was seen: look again.
-- Answers are replaced whole: those of bids that the log does not have must go. What stood in the
-- outbox does not continue the log and never will, or the caller would not have come here.
local state_key, top_key, bids_key, outbox_key, recent_key, rebuilt_key =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local seconds = tonumber(ARGV[3])

local present = redis.call('HMGET', state_key, 'seq', 'head', 'participant_count')
if (present[1] or '') ~= ARGV[1] or (present[2] or '') ~= ARGV[2] then
  return 'moved'
end

redis.call('DEL', state_key, top_key, outbox_key, recent_key)
local first_field = 6 + tonumber(ARGV[5])
redis.call('HSET', state_key, 'participant_count', present[3] or '0', 'top', ARGV[4])
for at = first_field, #ARGV, 2 do
  redis.call('HSET', state_key, ARGV[at], ARGV[at + 1])
end
for _, standing in ipairs(cjson.decode(ARGV[4])) do
  redis.call('ZADD', top_key, decimal(tonumber(standing[3])), standing[1] .. ':' .. standing[2])
end
for at = 6, first_field - 1 do
  redis.call('RPUSH', recent_key, ARGV[at])
end
if redis.call('EXISTS', rebuilt_key) == 1 then
  redis.call('RENAME', rebuilt_key, bids_key)
  redis.call('PERSIST', bids_key)
else
  redis.call('DEL', bids_key)
end
if seconds > 0 then
  for at = 1, 5 do
    redis.call('EXPIRE', KEYS[at], seconds)
  end
end
return 'restored'
