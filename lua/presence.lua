-- Stores the number of people who watch an auction. Not a fact: no seq, nothing for the log.
-- KEYS  1 state
-- ARGV  1 people
-- Returns 1 if the auction has a state, else 0 (and creates none).
local state_key, people = KEYS[1], ARGV[1]
if redis.call('EXISTS', state_key) == 0 then
  return 0
end
redis.call('HSET', state_key, 'participant_count', people)
return 1
