-- Decides bids on one auction, in their order, all at one moment.
-- KEYS  1 state  2 top_bids  3 bids (answers by bid id)  4 outbox  5 recent
-- ARGV  1 seq up to which the log has the facts: the outbox is cut there when something is appended to it
--       2 seconds until the keys expire, should a bid end the auction
--       3 number of bids, then for each: bid_id  user_id  username  amount_cents
--       and the 16 bytes each of bid_id and user_id, which keep the stored answers short
-- Returns {seq, head, entry, verdict, …}: the mark that all verdicts rest on, then what was appended to the outbox as
--   {prev, time, bids, state}, so that the committer need not read it, then one verdict a bid. It is {} if no bid was
--   accepted, or if one reached the buy-now price: then the closing is a second entry of the outbox.
--   {'accepted' | 'found', answer}   answer = 'user_id amount seq timestamp minimum end extended extensions'
--   {code, seq, high_bid_cents or '', minimum_bid_cents}
-- or nil when the state is missing: this script never creates an auction.
-- Stores under the 16 bytes of the bid id: the 16 bytes of the user id, then
--   'amount seq timestamp left extended extensions' (left: milliseconds from timestamp to the end);
--   libs/hotstate/src/restore.rs writes the same. At most 160 bytes of memory an answer.
-- domain::Auction::place is the model of this script.
local keys = { state = KEYS[1], outbox = KEYS[4] }
local top_key, bids_key, recent_key = KEYS[2], KEYS[3], KEYS[5]
local committed, seconds, bid_total = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

local TOP = 3
local RECENT = 20

local status, seq, head, last_now, host, starting_bid, increment, end_time,
  mode, window, extension, max_extensions, extensions, bid_count,
  high_bid, leader, leader_username, top,
  rules, increments, price, ranking, self_raise, buy_now, blocked = unpack(redis.call('HMGET', keys.state,
    'status', 'seq', 'head', 'last_now', 'host_user_id', 'starting_bid_cents', 'increment_cents', 'end_time',
    'anti_snipe_mode', 'anti_snipe_window_ms', 'anti_snipe_extension_ms', 'anti_snipe_max_extensions',
    'extension_count', 'bid_count', 'high_bid_cents', 'high_bidder_id', 'high_bidder_username', 'top',
    'rules', 'increments', 'price_cents', 'ranking', 'self_raise', 'buy_now_cents', 'blocked'))
if not status then
  return nil
end
seq, bid_count = tonumber(seq), tonumber(bid_count)
starting_bid, end_time = tonumber(starting_bid), tonumber(end_time)
window, extension = tonumber(window), tonumber(extension)
max_extensions, extensions = tonumber(max_extensions), tonumber(extensions)
local names = { high_bid = 'high_bid_cents', top = 'top' }
if rules then
  names = { high_bid = 'price_cents', top = 'ranking' }
  increment, high_bid, top = increments, price, ranking
end
local step = ladder(increment)
buy_now = tonumber(buy_now)
-- nil while there is no bid.
high_bid = tonumber(high_bid)
top = cjson.decode(top)

local now = clock(last_now)
local prev = head
local facts, stored, earlier_in_call = {}, {}, {}

local function minimum()
  if high_bid then
    return capped(high_bid + step(high_bid), buy_now)
  end
  return starting_bid
end

local function is_bought()
  return buy_now and high_bid and high_bid >= buy_now
end

local function refused(code)
  return { code, seq, high_bid and whole(high_bid) or '', whole(minimum()) }
end

local function answer_text(user_id, amount, number, time, left, extended, extended_so_far)
  local next_minimum = capped(amount + step(tonumber(amount)), buy_now)
  return table.concat({ user_id, amount, number, time, whole(next_minimum),
    whole(tonumber(time) + tonumber(left)), extended, extended_so_far }, ' ')
end

local function find(bid_key, user_key, user_id, amount)
  local answer = earlier_in_call[bid_key] or redis.call('HGET', bids_key, bid_key)
  if not answer then
    return nil
  end
  local stored_amount, number, time, left, extended, extended_so_far =
    string.match(string.sub(answer, 17), '^(%d+) (%d+) (%d+) (%d+) (%d) (%d+)$')
  if string.sub(answer, 1, 16) ~= user_key or stored_amount ~= amount then
    return refused('bid_id_reused')
  end
  return { 'found', answer_text(user_id, amount, number, time, left, extended, extended_so_far) }
end

local function objection(user_id, amount)
  if status == 'scheduled' then
    return 'auction_not_started'
  elseif status == 'paused' then
    return 'auction_paused'
  elseif status ~= 'live' or now >= end_time or is_bought() then
    return 'auction_closed'
  elseif user_id == host then
    return 'host_cannot_bid'
  elseif blocked and string.find(blocked, user_id, 1, true) then
    return 'bidder_blocked'
  elseif user_id == leader and self_raise ~= '1' then
    return 'already_leading'
  elseif amount >= minimum() then
    return nil
  end
  return 'bid_too_low'
end

-- Puts an accepted bid first in the top, which holds each person once: the newest accepted bid is the highest.
local function rise(user_id, username, amount)
  local risen = { { user_id, username, whole(amount) } }
  for _, standing in ipairs(top) do
    if standing[1] ~= user_id and #risen < TOP then
      risen[#risen + 1] = standing
    end
  end
  top = risen
end

-- The end after a bid of this amount that is accepted now. Never earlier than before.
local function moved_end(amount)
  if buy_now and amount >= buy_now then
    return end_time
  elseif max_extensions ~= 0 and extensions >= max_extensions then
    return end_time
  elseif mode == 'extend' and end_time - now < window then
    return end_time + extension
  elseif mode == 'reset' then
    return math.max(end_time, now + extension)
  end
  return end_time
end

local function accept(bid_id, user_id, username, amount, bid_key, user_key)
  local extended = '0'
  local moved = moved_end(amount)
  if moved > end_time then
    end_time = moved
    extensions = extensions + 1
    extended = '1'
  end
  seq = seq + 1
  bid_count = bid_count + 1
  high_bid, leader, leader_username = amount, user_id, username
  rise(user_id, username, amount)
  head = chain(head, table.concat({ whole(seq), 'bid', bid_id, user_id, username, whole(amount), whole(now) }, '\n'))
  local cents, number, time, left = whole(amount), whole(seq), whole(now), whole(end_time - now)
  facts[#facts + 1] = { number, bid_id, user_id, username, cents, time }
  local answer = user_key .. table.concat({ cents, number, time, left, extended, whole(extensions) }, ' ')
  stored[#stored + 1] = bid_key
  stored[#stored + 1] = answer
  earlier_in_call[bid_key] = answer
  return { 'accepted', answer_text(user_id, cents, number, time, left, extended, whole(extensions)) }
end

local verdicts = {}
for index = 1, bid_total do
  local at = 4 + (index - 1) * 6
  local bid_id, user_id, username = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local amount = capped(tonumber(ARGV[at + 3]), buy_now)
  local bid_key, user_key = ARGV[at + 4], ARGV[at + 5]
  local verdict = find(bid_key, user_key, user_id, whole(amount))
  if not verdict then
    local code = objection(user_id, amount)
    verdict = code and refused(code) or accept(bid_id, user_id, username, amount, bid_key, user_key)
  end
  verdicts[index] = verdict
end

-- All bids are decided. Only now is anything written, and only if a bid was accepted.
local entry = {}
if #facts > 0 then
  redis.call('HSET', keys.state, 'seq', whole(seq), 'head', head, 'last_now', whole(now),
    'end_time', whole(end_time), 'extension_count', whole(extensions), 'bid_count', whole(bid_count),
    names.high_bid, whole(high_bid), 'current_high_bid', decimal(high_bid),
    'high_bidder_id', leader, 'high_bidder_username', leader_username, names.top, cjson.encode(top))
  redis.call('HSET', bids_key, unpack(stored))
  redis.call('DEL', top_key)
  for _, standing in ipairs(top) do
    redis.call('ZADD', top_key, decimal(tonumber(standing[3])), standing[1] .. ':' .. standing[2])
  end
  for _, fact in ipairs(facts) do
    redis.call('LPUSH', recent_key, cjson.encode(fact))
  end
  redis.call('LTRIM', recent_key, 0, RECENT - 1)
  redis.call('XTRIM', keys.outbox, 'MINID', whole(committed + 1) .. '-0')
  local bids = cjson.encode(facts)
  entry = { prev, whole(now), bids, append(keys, 'bids', prev, now, '', bids) }
  if is_bought() then
    local winner = { id = leader, username = leader_username }
    seq, head = finish(keys, seq, head, now, 'buy_now', '', winner, whole(high_bid), seconds)
    entry = {}
  end
end

local reply = { seq, head, entry }
for index, verdict in ipairs(verdicts) do
  reply[index + 3] = verdict
end
return reply
