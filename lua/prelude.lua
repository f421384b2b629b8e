-- Shared by every script: put in front of each of them when the program is built.
-- All keys of one auction share a slot (hash tag); no script touches another auction.
--
-- The state is a hash of strings. Money is whole cents in fields ending _cents, except current_high_bid,
-- which is a decimal for people to read. Times are milliseconds since 1970.
--
-- An auction with options that the first version of these scripts does not know has the field rules. It keeps three
-- fields under other names: increments instead of increment_cents, price_cents instead of high_bid_cents, ranking
-- instead of top. The first version therefore fails on it before its first write, instead of deciding by fewer rules.
--
-- In an auction with secrets (a reserve, or a maximum at any time) rules is 3, and two of these fields have other names
-- again: ladder and standing_cents. So does the second version, which does not know secrets, fail on it.
--
-- An auction that keeps pre-bids has secrets and the field prebids, and length_ms in place of duration_ms: the third
-- version, which does not know pre-bids, fails on it before it opens it.
--
-- An auction that follows another has the fields follows and gap_ms, and no starts_at; opens_at has the time of its
-- opening, once it is open. The fourth version, which does not know sequences, fails on it before it opens it.

-- A whole number as digits: tostring() writes an exponent from 1e14 on.
local function whole(number)
  return string.format('%.0f', number)
end

-- Cents as a decimal number with two places.
local function decimal(cents)
  return string.format('%.0f.%02d', math.floor(cents / 100), cents % 100)
end

-- The server's clock, read once a call, never before the latest time that the auction has seen.
local function clock(last_now)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  return math.max(now, tonumber(last_now) or 0)
end

-- An auction whose closing comes so many milliseconds after its end goes on, at most so many times. libs/domain/src/
-- outage.rs has the reason for both.
local LATE_CLOSING_MS = 2000
local MAX_RECOVERIES = 3

-- Milliseconds before the end in which a bid may move it; 0 if none ever does.
local function late_ms(mode, window, extension)
  if mode == 'extend' then
    return tonumber(window)
  elseif mode == 'reset' then
    return tonumber(extension)
  end
  return 0
end

-- Makes an auction one with rules, before its first fact that the first version does not know.
local function need_rules(keys)
  local rules, increment, price, top = unpack(redis.call('HMGET', keys.state,
    'rules', 'increment_cents', 'high_bid_cents', 'top'))
  if not rules then
    redis.call('HSET', keys.state, 'rules', '2', 'increments', increment, 'price_cents', price, 'ranking', top,
      'self_raise', '', 'buy_now_cents', '')
    redis.call('HDEL', keys.state, 'increment_cents', 'high_bid_cents', 'top')
  end
end

-- Makes an auction one with secrets, before its first fact with a maximum.
local function need_secrets(keys)
  local rules, increment, high_bid, top, increments, price, ranking, self_raise, buy_now = unpack(redis.call('HMGET',
    keys.state, 'rules', 'increment_cents', 'high_bid_cents', 'top', 'increments', 'price_cents', 'ranking',
    'self_raise', 'buy_now_cents'))
  if rules ~= '3' then
    redis.call('HSET', keys.state, 'rules', '3', 'ladder', increments or increment, 'standing_cents', price or high_bid,
      'ranking', ranking or top, 'self_raise', self_raise or '', 'buy_now_cents', buy_now or '',
      'reserve_cents', '', 'reserve_sealed', '')
    redis.call('HDEL', keys.state, 'increment_cents', 'high_bid_cents', 'top', 'increments', 'price_cents')
  end
end

-- Returns a function from a price to the step above it. The text is one step, or 'from:step' for each band.
local function ladder(text)
  local flat = tonumber(text)
  if flat then
    return function()
      return flat
    end
  end
  local bands = {}
  for from, step in string.gmatch(text, '(%d+):(%d+)') do
    bands[#bands + 1] = { from = tonumber(from), step = tonumber(step) }
  end
  return function(price)
    local found = bands[1]
    for _, band in ipairs(bands) do
      if band.from <= price then
        found = band
      end
    end
    return found.step
  end
end

-- Best bids and newest bids that are kept.
local TOP = 3
local RECENT = 20

-- The best bids after a higher one: first in the list, which holds each person once.
local function risen(top, user_id, username, amount)
  local list = { { user_id, username, whole(amount) } }
  for _, standing in ipairs(top) do
    if standing[1] ~= user_id and #list < TOP then
      list[#list + 1] = standing
    end
  end
  return list
end

-- Writes the best bids and the new ones for readers of these keys.
local function write_lists(top_key, recent_key, top, facts)
  redis.call('DEL', top_key)
  for _, standing in ipairs(top) do
    redis.call('ZADD', top_key, decimal(tonumber(standing[3])), standing[1] .. ':' .. standing[2])
  end
  for _, fact in ipairs(facts) do
    redis.call('LPUSH', recent_key, cjson.encode(fact))
  end
  redis.call('LTRIM', recent_key, 0, RECENT - 1)
end

-- The id of the bid that the auction makes as the fact with this number, after this head. BidId::of_counter_bid.
local function own_bid_id(head, number)
  local hex = redis.sha1hex(head .. '\nproxy\n' .. number)
  return table.concat({ string.sub(hex, 1, 8), string.sub(hex, 9, 12), 'f' .. string.sub(hex, 14, 16),
    '8' .. string.sub(hex, 18, 20), string.sub(hex, 21, 32) }, '-')
end

-- The amount, cut to the buy-now price (nil without one).
local function capped(amount, buy_now)
  if buy_now and amount > buy_now then
    return buy_now
  end
  return amount
end

-- The head after a fact. libs/domain/src/chain.rs computes the same.
local function chain(head, fact)
  return string.sub(redis.sha1hex(head .. '\n' .. fact), 1, 16)
end

-- Appends this call's facts, and the whole state after them, to the outbox. The entry's id is the
-- seq of its last fact, so that the committer can cut by number what the log already has. The user id is that of the
-- person the fact is about, if it is about one. Returns the state as JSON.
local function append(keys, kind, prev, now, by, bids, user_id)
  local state = redis.call('HGETALL', keys.state)
  local mark = redis.call('HMGET', keys.state, 'seq', 'head')
  local encoded = cjson.encode(state)
  local entry = { 'type', kind, 'prev', prev, 'head', mark[2],
    'time', whole(now), 'by', by, 'bids', bids, 'state', encoded }
  if user_id then
    entry[#entry + 1] = 'user_id'
    entry[#entry + 1] = user_id
  end
  redis.call('XADD', keys.outbox, mark[1] .. '-0', unpack(entry))
  return encoded
end

-- Closes an auction after the fact with this seq and head; all keys expire after some seconds. Leader and high bid are
-- texts, empty without a bid or below the reserve. Returns the new seq and head.
local function finish(keys, seq, head, now, reason, by, leader, high_bid, seconds)
  local outcome = leader.id == '' and 'unsold' or 'sold'
  local next_head = chain(head, table.concat({ whole(seq + 1), 'closed', whole(now), reason, by,
    outcome, leader.id, high_bid }, '\n'))
  redis.call('HSET', keys.state, 'status', 'closed', 'seq', whole(seq + 1), 'head', next_head,
    'last_now', whole(now), 'ended_at', whole(now), 'reason', reason, 'outcome', outcome,
    'winner_id', leader.id, 'winner_username', leader.username, 'winning_bid_cents', high_bid)
  append(keys, 'closed', head, now, by, '[]')
  for _, key in ipairs(KEYS) do
    redis.call('EXPIRE', key, seconds)
  end
  return seq + 1, next_head
end
