-- Decides bids on one auction, in their order, all at one moment.
-- KEYS  1 state  2 top_bids  3 bids (answers by bid id)  4 outbox  5 recent  6 prebids (by user id)
-- ARGV  1 seq up to which the log has the facts: the outbox is cut there when something is appended to it
--       2 seconds until the keys expire, should a bid end the auction
--       3 people whose pre-bids are kept  4 pre-bids of one person
--       5 number of bids, then for each: bid_id  user_id  username  offer
--       and the 16 bytes each of bid_id and user_id, which keep the stored answers short. An offer is amount_cents, or
--       'amount_cents:max_cents:sealed' with a maximum, the amount empty for the least that is needed, or
--       'amount_cents::sealed' for an amount that is kept if the auction is not open
-- Returns {seq, head, entry, verdict, …}: the mark that all verdicts rest on, then what was appended to the outbox as
--   {prev, time, bids, state}, so that the committer need not read it, then one verdict a bid. It is {} if nothing but one
--   entry of bids was appended: no bid was accepted, or one reached the buy-now price and the closing is a second entry,
--   or a leader changed the maximum, or a bid is kept until the opening.
--   {'accepted' | 'found', answer}   answer = 'user_id amount seq timestamp minimum end extended extensions', and then
--     with a maximum, the bidder's or another's: ' price leads given max sealed' (given 0 for the least, max 0 for none,
--     price 0 before the opening)
--   {code, seq, high_bid_cents or '', minimum_bid_cents}
-- or nil when the state is missing: this script never creates an auction.
-- Stores under the 16 bytes of the bid id: the 16 bytes of the user id, then
--   'amount seq timestamp left extended extensions' (left: milliseconds from timestamp to the end), then as above;
--   libs/hotstate/src/restore.rs writes the same. At most 160 bytes of memory an answer without a maximum.
-- Stores a pre-bid under the user id: 'seq limit_cents set bid_id sealed username' (set: how often, so far).
-- Nothing is written before a leader changes the maximum or a bid is kept, which is an entry of its own, or all bids are
-- decided.
-- domain::Auction::place is the model of this script.
local keys = { state = KEYS[1], outbox = KEYS[4] }
local top_key, bids_key, recent_key, prebids_key = KEYS[2], KEYS[3], KEYS[5], KEYS[6]
local committed, seconds = tonumber(ARGV[1]), ARGV[2]
local max_prebidders, max_prebids_of_one, bid_total = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local status, seq, head, last_now, host, starting_bid, increment, end_time,
  mode, window, extension, max_extensions, extensions, bid_count,
  high_bid, leader, leader_username, top,
  rules, increments, price, ranking, self_raise, buy_now, blocked, prebids = unpack(redis.call('HMGET', keys.state,
    'status', 'seq', 'head', 'last_now', 'host_user_id', 'starting_bid_cents', 'increment_cents', 'end_time',
    'anti_snipe_mode', 'anti_snipe_window_ms', 'anti_snipe_extension_ms', 'anti_snipe_max_extensions',
    'extension_count', 'bid_count', 'high_bid_cents', 'high_bidder_id', 'high_bidder_username', 'top',
    'rules', 'increments', 'price_cents', 'ranking', 'self_raise', 'buy_now_cents', 'blocked', 'prebids'))
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
-- Secrets, and the accepted calls so far; nil in an auction without secrets.
local reserve, maximum, maximum_sealed, maximum_bid_id, answers
if rules == '3' then
  names.high_bid = 'standing_cents'
  increment, high_bid, reserve, maximum, maximum_sealed, maximum_bid_id, answers = unpack(redis.call('HMGET',
    keys.state, 'ladder', 'standing_cents', 'reserve_cents', 'maximum_cents', 'maximum_sealed', 'maximum_bid_id',
    'answers'))
  reserve, maximum, answers = tonumber(reserve), tonumber(maximum), tonumber(answers)
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

-- The answer with these parts, and those of a maximum if there is one. Times and amounts are texts.
local function answer_text(user_id, amount, number, time, left, extended, extended_so_far, proxy)
  local price = tonumber(proxy ~= '' and string.match(proxy, '^%d+') or amount)
  local next_minimum = price == 0 and starting_bid or capped(price + step(price), buy_now)
  local parts = { user_id, amount, number, time, whole(next_minimum),
    whole(tonumber(time) + tonumber(left)), extended, extended_so_far }
  if proxy ~= '' then
    parts[9] = proxy
  end
  return table.concat(parts, ' ')
end

local function find(bid_key, user_key, user_id, given, given_maximum)
  local answer = earlier_in_call[bid_key] or redis.call('HGET', bids_key, bid_key)
  if not answer then
    return nil
  end
  local amount, number, time, left, extended, extended_so_far, proxy =
    string.match(string.sub(answer, 17), '^(%d+) (%d+) (%d+) (%d+) (%d) (%d+) ?(.*)$')
  local stored, stored_maximum = amount, '0'
  if proxy ~= '' then
    stored, stored_maximum = string.match(proxy, '^%d+ %d (%d+) (%d+)')
  end
  if string.sub(answer, 1, 16) ~= user_key or stored ~= given or stored_maximum ~= given_maximum then
    return refused('bid_id_reused')
  end
  return { 'found', answer_text(user_id, amount, number, time, left, extended, extended_so_far, proxy) }
end

local function is_blocked(user_id)
  return blocked and string.find(blocked, user_id, 1, true)
end

-- Whether a bidder may not bid at all now.
local function objection(user_id)
  if status == 'scheduled' then
    -- Once the pre-bids were bid, nothing more is kept, though Redis may have lost the opening that followed.
    if not prebids or high_bid then
      return 'auction_not_started'
    end
  elseif status == 'paused' then
    return 'auction_paused'
  elseif status ~= 'live' or now >= end_time or is_bought() then
    return 'auction_closed'
  end
  if user_id == host then
    return 'host_cannot_bid'
  elseif is_blocked(user_id) then
    return 'bidder_blocked'
  end
  return nil
end

-- Whether an amount is refused in an auction without secrets.
local function too_low(user_id, amount)
  if user_id == leader and self_raise ~= '1' then
    return 'already_leading'
  elseif amount >= minimum() then
    return nil
  end
  return 'bid_too_low'
end

-- Resolves an offer where there are maximums or a reserve. Returns the code of a refusal, or nil and the bidder's bid (nil if
-- only the maximum changes), and the counter-bid of the leader's maximum, if it answers. domain::Auction::effect.
local function resolve(user_id, given, given_maximum)
  local limit = given_maximum or given
  local reached = reserve and limit >= reserve and (high_bid or 0) < reserve and reserve
  if user_id == leader then
    if given_maximum and given_maximum < high_bid then
      return 'bid_too_low'
    elseif given_maximum then
      return nil, reached or nil
    elseif self_raise ~= '1' then
      return 'already_leading'
    end
  end
  local least = minimum()
  if limit < least then
    return 'bid_too_low'
  end
  local amount = math.max(given or least, least, reached or 0)
  -- A blocked leader keeps the bid that stands, and makes no further ones.
  if user_id == leader or (buy_now and amount >= buy_now) or not maximum or is_blocked(leader) then
    return nil, amount
  elseif limit <= maximum then
    return nil, amount, math.min(maximum, limit + step(limit))
  end
  return nil, math.max(amount, math.min(limit, maximum + step(maximum)))
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

local function count_answer(given_maximum)
  if answers or given_maximum then
    -- Before the first maximum every bid was a call of its own.
    answers = (answers or bid_count) + 1
  end
end

local function store(bid_key, user_key, parts)
  local answer = user_key .. table.concat(parts, ' ')
  stored[#stored + 1] = bid_key
  stored[#stored + 1] = answer
  earlier_in_call[bid_key] = answer
end

-- Takes a bid into the auction. `offer` is nil where neither the bid nor the auction has a maximum.
local function accept(bid_id, user_id, username, amount, bid_key, user_key, offer)
  local extended = '0'
  local moved = moved_end(offer and offer.counter or amount)
  if moved > end_time then
    end_time = moved
    extensions = extensions + 1
    extended = '1'
  end
  count_answer(offer and offer.maximum)
  seq = seq + 1
  bid_count = bid_count + 1
  local led, led_username = leader, leader_username
  high_bid, leader, leader_username = amount, user_id, username
  top = risen(top, user_id, username, amount)
  local cents, number, time, left = whole(amount), whole(seq), whole(now), whole(end_time - now)
  local text = { number, 'bid', bid_id, user_id, username, cents, time }
  local fact = { number, bid_id, user_id, username, cents, time }
  local sealed = offer and offer.sealed
  if sealed then
    text[8], fact[7], fact[8] = sealed, 'bid', sealed
  end
  head = chain(head, table.concat(text, '\n'))
  facts[#facts + 1] = fact
  local proxy = ''
  if offer then
    if offer.counter then
      seq = seq + 1
      bid_count = bid_count + 1
      local counter, counter_number = whole(offer.counter), whole(seq)
      local counter_id = own_bid_id(head, counter_number)
      high_bid, leader, leader_username = offer.counter, led, led_username
      top = risen(top, led, led_username, offer.counter)
      head = chain(head, table.concat({ counter_number, 'proxy', counter_id, led, led_username, counter, time }, '\n'))
      facts[#facts + 1] = { counter_number, counter_id, led, led_username, counter, time, 'proxy' }
    elseif sealed or user_id ~= led then
      maximum, maximum_sealed, maximum_bid_id = offer.maximum, sealed or '', sealed and bid_id or ''
    end
    -- An answer without anything of a maximum stays as short as in other auctions.
    if sealed or offer.counter then
      proxy = table.concat({ whole(high_bid), offer.counter and '0' or '1', whole(offer.given or 0),
        whole(offer.maximum or 0), sealed or '-' }, ' ')
    end
  end
  local parts = { cents, number, time, left, extended, whole(extensions) }
  if proxy ~= '' then
    parts[7] = proxy
  end
  store(bid_key, user_key, parts)
  return { 'accepted', answer_text(user_id, cents, number, time, left, extended, whole(extensions), proxy) }
end

-- Writes the state, and what it has of secrets.
local function write_state()
  if answers and rules ~= '3' then
    need_secrets(keys)
    rules, names = '3', { high_bid = 'standing_cents', top = 'ranking' }
  end
  redis.call('HSET', keys.state, 'seq', whole(seq), 'head', head, 'last_now', whole(now),
    'end_time', whole(end_time), 'extension_count', whole(extensions), 'bid_count', whole(bid_count),
    names.high_bid, whole(high_bid), 'current_high_bid', decimal(high_bid),
    'high_bidder_id', leader, 'high_bidder_username', leader_username, names.top, cjson.encode(top))
  if answers then
    redis.call('HSET', keys.state, 'answers', whole(answers), 'maximum_cents', maximum and whole(maximum) or '',
      'maximum_sealed', maximum_sealed or '', 'maximum_bid_id', maximum_bid_id or '')
  end
  redis.call('HSET', bids_key, unpack(stored))
  stored = {}
  redis.call('XTRIM', keys.outbox, 'MINID', whole(committed + 1) .. '-0')
end

-- Writes the bids that are decided so far, if there are any. Returns them as an entry.
local function write_bids()
  if #facts == 0 then
    return {}
  end
  write_state()
  write_lists(top_key, recent_key, top, facts)
  local bids, before = cjson.encode(facts), prev
  facts, prev = {}, head
  return { before, whole(now), bids, append(keys, 'bids', before, now, '', bids) }
end

-- Changes the leader's maximum, and nothing else.
local function change_maximum(bid_id, user_id, bid_key, user_key, offer)
  write_bids()
  count_answer(offer.maximum)
  seq = seq + 1
  maximum, maximum_sealed, maximum_bid_id = offer.maximum, offer.sealed, bid_id
  local cents, number, time, left = whole(high_bid), whole(seq), whole(now), whole(end_time - now)
  head = chain(head, table.concat({ number, 'maximum', time, user_id, bid_id, offer.sealed }, '\n'))
  local proxy = table.concat({ cents, '1', whole(offer.given or 0), whole(offer.maximum), offer.sealed }, ' ')
  store(bid_key, user_key, { cents, number, time, left, '0', whole(extensions), proxy })
  write_state()
  append(keys, 'maximum', prev, now, user_id, '[]')
  prev = head
  return { 'accepted', answer_text(user_id, cents, number, time, left, '0', whole(extensions), proxy) }
end

-- Keeps an offer until the opening, in place of the person's earlier one, or refuses it.
local function keep(bid_id, user_id, username, bid_key, user_key, offer)
  local limit = offer.maximum or offer.given
  if not offer.sealed then
    return refused('auction_not_started')
  elseif limit < starting_bid then
    return refused('bid_too_low')
  end
  local earlier = redis.call('HGET', prebids_key, user_id)
  local set = earlier and tonumber(string.match(earlier, '^%d+ %d+ (%d+)')) or 0
  if earlier and set >= max_prebids_of_one or not earlier and redis.call('HLEN', prebids_key) >= max_prebidders then
    return refused('prebids_full')
  end
  count_answer(limit)
  seq = seq + 1
  local cents, number, time = whole(starting_bid), whole(seq), whole(now)
  local left = whole(math.max(end_time - now, 0))
  head = chain(head, table.concat({ number, 'maximum', time, user_id, bid_id, offer.sealed }, '\n'))
  local proxy = table.concat({ '0', '0', whole(offer.given or 0), whole(offer.maximum or 0), offer.sealed }, ' ')
  store(bid_key, user_key, { cents, number, time, left, '0', whole(extensions), proxy })
  redis.call('HSET', prebids_key, user_id,
    table.concat({ number, whole(limit), whole(set + 1), bid_id, offer.sealed, username }, ' '))
  redis.call('HSET', keys.state, 'seq', number, 'head', head, 'last_now', time, 'answers', whole(answers),
    'prebid_bid_id', bid_id, 'prebid_username', username, 'prebid_sealed', offer.sealed)
  redis.call('HSET', bids_key, unpack(stored))
  stored = {}
  redis.call('XTRIM', keys.outbox, 'MINID', whole(committed + 1) .. '-0')
  append(keys, 'maximum', prev, now, user_id, '[]')
  prev = head
  return { 'accepted', answer_text(user_id, cents, number, time, left, '0', whole(extensions), proxy) }
end

-- Decides an offer where it, or the auction, has a maximum or a reserve.
local function decide(bid_id, user_id, username, bid_key, user_key, offer)
  local code = objection(user_id)
  local amount
  if not code and status == 'scheduled' then
    return keep(bid_id, user_id, username, bid_key, user_key, offer)
  elseif not code then
    code, amount, offer.counter = resolve(user_id, offer.given, offer.maximum)
  end
  if code then
    return refused(code)
  elseif amount then
    return accept(bid_id, user_id, username, amount, bid_key, user_key, offer)
  end
  return change_maximum(bid_id, user_id, bid_key, user_key, offer)
end

-- An offer with a maximum, or one that may be kept: its amounts cut to the buy-now price.
local function read_offer(text)
  local given, given_maximum, sealed = string.match(text, '^(%d*):(%d*):([%w_-]+)$')
  given, given_maximum = tonumber(given), tonumber(given_maximum)
  if not given_maximum and status ~= 'scheduled' then
    sealed = nil
  end
  return { given = given and capped(given, buy_now), maximum = given_maximum and capped(given_maximum, buy_now),
    sealed = sealed }
end

local verdicts, first_head = {}, head
for index = 1, bid_total do
  local at = 6 + (index - 1) * 6
  local bid_id, user_id, username = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local amount = tonumber(ARGV[at + 3])
  local bid_key, user_key = ARGV[at + 4], ARGV[at + 5]
  if amount then
    amount = capped(amount, buy_now)
    local verdict = find(bid_key, user_key, user_id, whole(amount), '0')
    if not verdict and answers then
      verdict = decide(bid_id, user_id, username, bid_key, user_key, { given = amount })
    elseif not verdict then
      local code = objection(user_id) or too_low(user_id, amount)
      verdict = code and refused(code) or accept(bid_id, user_id, username, amount, bid_key, user_key)
    end
    verdicts[index] = verdict
  else
    local offer = read_offer(ARGV[at + 3])
    verdicts[index] = find(bid_key, user_key, user_id, whole(offer.given or 0), whole(offer.maximum or 0))
      or decide(bid_id, user_id, username, bid_key, user_key, offer)
  end
end

local entry = write_bids()
if entry[1] ~= first_head then
  -- Entries were appended before it, which the committer reads from the outbox.
  entry = {}
end
if is_bought() and status == 'live' and first_head ~= head then
  local winner = { id = leader, username = leader_username }
  seq, head = finish(keys, seq, head, now, 'buy_now', '', winner, whole(high_bid), seconds)
  entry = {}
end

local reply = { seq, head, entry }
for index, verdict in ipairs(verdicts) do
  reply[index + 3] = verdict
end
return reply
