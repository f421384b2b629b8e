-- Shared by every script: put in front of each of them when the program is built.
-- All keys of one auction share a slot (hash tag); no script touches another auction.
--
-- The state is a hash of strings. Money is whole cents in fields ending _cents, except current_high_bid,
-- which is a decimal for people to read. Times are milliseconds since 1970.

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

-- The head after a fact. libs/domain/src/chain.rs computes the same.
local function chain(head, fact)
  return string.sub(redis.sha1hex(head .. '\n' .. fact), 1, 16)
end

-- Appends this call's facts, and the whole state after them, to the outbox. The entry's id is the
-- seq of its last fact, so that the committer can cut by number what the log already has. Returns the state as JSON.
local function append(keys, kind, prev, now, by, bids)
  local state = redis.call('HGETALL', keys.state)
  local mark = redis.call('HMGET', keys.state, 'seq', 'head')
  local encoded = cjson.encode(state)
  redis.call('XADD', keys.outbox, mark[1] .. '-0', 'type', kind, 'prev', prev, 'head', mark[2],
    'time', whole(now), 'by', by, 'bids', bids, 'state', encoded)
  return encoded
end
