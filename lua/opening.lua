-- Opens a scheduled auction. Put in front of open.lua and start.lua, after the prelude.
-- domain::Auction::bid_prebids and open_at are the model of this file.
-- Their KEYS are  1 state  2 top_bids  3 bids  4 outbox  5 recent  6 prebids

-- The pre-bids of people who are not blocked, in the order in which they were set.
local function kept_prebids(prebids_key, blocked)
  local fields, kept = redis.call('HGETALL', prebids_key), {}
  for at = 1, #fields, 2 do
    local user_id = fields[at]
    local seq, cents, bid_id, sealed, username = string.match(fields[at + 1], '^(%d+) (%d+) %d+ (%S+) (%S+) (.*)$')
    if not (blocked and string.find(blocked, user_id, 1, true)) then
      kept[#kept + 1] = { seq = tonumber(seq), cents = tonumber(cents), bid_id = bid_id, sealed = sealed,
        user_id = user_id, username = username }
    end
  end
  table.sort(kept, function(one, other)
    return one.seq < other.seq
  end)
  return kept
end

-- Returns the highest of them, of equal ones the first, and the limit of the second highest; nil where there is none.
local function two_highest(kept)
  local highest, second
  for _, prebid in ipairs(kept) do
    if not highest or prebid.cents > highest.cents then
      highest, second = prebid, highest and highest.cents
    elseif not second or prebid.cents > second then
      second = prebid.cents
    end
  end
  return highest, second
end

-- Bids what is kept in an auction that keeps pre-bids, as an entry of its own. Returns the new seq and head.
local function bid_prebids(keys, seq, head, now)
  local blocked, starting_bid, increments, reserve, bid_count = unpack(redis.call('HMGET', keys.state,
    'blocked', 'starting_bid_cents', 'ladder', 'reserve_cents', 'bid_count'))
  local kept = kept_prebids(keys.prebids, blocked)
  local highest, second = two_highest(kept)
  redis.call('DEL', keys.prebids)
  redis.call('HDEL', keys.state, 'prebid_bid_id', 'prebid_username', 'prebid_sealed')
  if not highest then
    return seq, head
  end
  starting_bid, reserve = tonumber(starting_bid), tonumber(reserve)
  local price = starting_bid
  if second then
    price = math.max(price, math.min(highest.cents, second + ladder(increments)(second)))
  end
  if reserve and reserve <= highest.cents then
    price = math.max(price, reserve)
  end
  local prev, time, top, facts = head, whole(now), {}, {}
  local function bid(prebid, amount)
    local cents = whole(amount)
    local number = whole(seq + 1)
    local bid_id = own_bid_id(head, number)
    seq = seq + 1
    head = chain(head, table.concat({ number, 'prebid', bid_id, prebid.user_id, prebid.username, cents, time }, '\n'))
    facts[#facts + 1] = { number, bid_id, prebid.user_id, prebid.username, cents, time, 'prebid' }
    top = risen(top, prebid.user_id, prebid.username, amount)
  end
  for _, prebid in ipairs(kept) do
    if prebid ~= highest then
      bid(prebid, starting_bid)
    end
  end
  bid(highest, price)
  redis.call('HSET', keys.state, 'seq', whole(seq), 'head', head, 'last_now', time,
    'bid_count', whole(tonumber(bid_count) + #facts), 'standing_cents', whole(price), 'current_high_bid', decimal(price),
    'high_bidder_id', highest.user_id, 'high_bidder_username', highest.username, 'ranking', cjson.encode(top),
    'maximum_cents', whole(highest.cents), 'maximum_sealed', highest.sealed, 'maximum_bid_id', highest.bid_id)
  write_lists(keys.top, keys.recent, top, facts)
  append(keys, 'bids', prev, now, '', cjson.encode(facts))
  return seq, head
end

-- Opens the auction now, for its host if `by` is not empty, and closes it if the pre-bids have bought; then all keys
-- expire after some seconds. Returns the new seq and head.
local function open_auction(keys, now, by, seconds)
  local seq, head, prebids, duration, length, follows = unpack(redis.call('HMGET', keys.state,
    'seq', 'head', 'prebids', 'duration_ms', 'length_ms', 'follows'))
  seq = tonumber(seq)
  if prebids then
    seq, head = bid_prebids(keys, seq, head, now)
  end
  local prev, end_time = head, whole(now + tonumber(duration or length))
  seq = seq + 1
  local fact = { whole(seq), 'opened', whole(now), end_time }
  if by ~= '' then
    fact[5] = by
  end
  head = chain(head, table.concat(fact, '\n'))
  redis.call('HSET', keys.state, 'status', 'live', 'seq', whole(seq), 'head', head,
    'last_now', whole(now), 'end_time', end_time)
  if follows then
    redis.call('HSET', keys.state, 'opens_at', whole(now))
  end
  append(keys, 'opened', prev, now, by, '[]')
  local price, buy_now, leader, username = unpack(redis.call('HMGET', keys.state,
    'standing_cents', 'buy_now_cents', 'high_bidder_id', 'high_bidder_username'))
  price, buy_now = tonumber(price), tonumber(buy_now)
  if price and buy_now and price >= buy_now then
    return finish(keys, seq, head, now, 'buy_now', '', { id = leader, username = username }, whole(price), seconds)
  end
  return seq, head
end
