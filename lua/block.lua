-- Refuses the bids of one person from now on, for the host. Bids that stand are kept. Repeatable.
-- KEYS  1 state  2 outbox
-- ARGV  1 user id of the person who asks  2 user id of the person to block  3 people that may be blocked at once
-- Returns {'done' | 'already' | 'not_host' | 'wrong_state' | 'full', seq, head}, or nil when the state is missing.
local keys = { state = KEYS[1], outbox = KEYS[2] }
local by, user_id, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])

local ID_CHARACTERS = 36

local status, seq, head, last_now, host_user_id, blocked = unpack(redis.call('HMGET', keys.state,
  'status', 'seq', 'head', 'last_now', 'host_user_id', 'blocked'))
if not status then
  return nil
end
seq, blocked = tonumber(seq), blocked or ''
if by ~= host_user_id then
  return { 'not_host', seq, head }
elseif status == 'closed' or status == 'cancelled' or user_id == host_user_id then
  return { 'wrong_state', seq, head }
elseif string.find(blocked, user_id, 1, true) then
  return { 'already', seq, head }
elseif (#blocked + 1) / (ID_CHARACTERS + 1) >= limit then
  return { 'full', seq, head }
end

local now = clock(last_now)
seq = seq + 1
local next_head = chain(head, table.concat({ whole(seq), 'blocked', whole(now), by, user_id }, '\n'))
need_rules(keys)
redis.call('HSET', keys.state, 'seq', whole(seq), 'head', next_head, 'last_now', whole(now),
  'blocked', blocked == '' and user_id or blocked .. ' ' .. user_id)
append(keys, 'blocked', head, now, by, '[]', user_id)
return { 'done', seq, next_head }
