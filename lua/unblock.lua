-- Takes the bids of a blocked person again, for the host. Repeatable.
-- KEYS  1 state  2 outbox
-- ARGV  1 user id of the person who asks  2 user id of the person to unblock
-- Returns {'done' | 'already' | 'not_host' | 'wrong_state', seq, head}, or nil when the state is missing.
local keys = { state = KEYS[1], outbox = KEYS[2] }
local by, user_id = ARGV[1], ARGV[2]

local status, seq, head, last_now, host_user_id, blocked = unpack(redis.call('HMGET', keys.state,
  'status', 'seq', 'head', 'last_now', 'host_user_id', 'blocked'))
if not status then
  return nil
end
seq, blocked = tonumber(seq), blocked or ''
if by ~= host_user_id then
  return { 'not_host', seq, head }
elseif status == 'closed' or status == 'cancelled' then
  return { 'wrong_state', seq, head }
elseif not string.find(blocked, user_id, 1, true) then
  return { 'already', seq, head }
end

local others = {}
for other in string.gmatch(blocked, '%S+') do
  if other ~= user_id then
    others[#others + 1] = other
  end
end
local now = clock(last_now)
seq = seq + 1
local next_head = chain(head, table.concat({ whole(seq), 'unblocked', whole(now), by, user_id }, '\n'))
redis.call('HSET', keys.state, 'seq', whole(seq), 'head', next_head, 'last_now', whole(now),
  'blocked', table.concat(others, ' '))
append(keys, 'unblocked', head, now, by, '[]', user_id)
return { 'done', seq, next_head }
