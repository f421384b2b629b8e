-- Notes how many people watch an auction. Not a fact: no seq, nothing for the log.
-- KEYS  1 state
-- ARGV  1 people
-- Returns 1 if the auction's state is there, else 0 (and makes none).
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'participant_count', ARGV[1])
return 1
