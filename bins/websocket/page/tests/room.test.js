// A room fed by hand: the end, extensions, bids with gaps, chat, and the clock.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Room } from '../room.js';

const START = 1_700_000_000_000;

/** A room on a client that does nothing, with a function that sends it an event. */
function opened() {
  /** @type {Map<string, (data: any) => void>} */
  const listeners = new Map();
  const lot = {
    client: null,
    leave() {},
    on: (/** @type {string} */ event, /** @type {any} */ listener) => {
      listeners.set(event, listener);
      return () => listeners.delete(event);
    },
  };
  const client = { join: () => lot };
  lot.client = /** @type {any} */ (client);
  /** @type {string[]} */
  const turns = [];
  const live = {
    link: 'connected',
    session: { user: { id: 'me', name: 'me' } },
    api: { get: async () => ({ bid_increment: 1 }) },
    serverNow: () => null,
    report: (/** @type {any} */ _, /** @type {string} */ turn) => turns.push(turn),
  };
  const room = new Room('lot', /** @type {any} */ (live));
  room.attach(/** @type {any} */ (client));
  const send = (/** @type {string} */ event, /** @type {any} */ data) =>
    listeners.get(event)?.(Array.isArray(data) ? data : { auction_id: 'lot', ...data });
  send('joined_auction', state({}));
  return { room, send, turns };
}

/** @param {any} change */
function state(change) {
  const now = { status: 'live', seq: 2, current_high_bid: null, minimum_bid: 10, high_bidder_id: null, outcome: null };
  const time = { end_time: START + 60_000, server_time: START, extension_count: 0 };
  return { ...now, ...time, recent_bids: [], chat_messages: [], winner_id: null, ...change };
}

const bid = (/** @type {number} */ seq, user_id = 'ben') => ({ seq, bid_id: `b${seq}`, user_id, username: user_id });

test('a bid changes price, leader and lowest bid, and an outbid is reported', () => {
  const { room, send, turns } = opened();
  send('bid_update', {
    seq: 3,
    high_bid: '12.50',
    minimum_bid: '13.50',
    high_bidder_id: 'me',
    end_time: START + 60_000,
  });
  assert.deepEqual([room.price, room.minimum, room.isLeading, room.hasBid], [1_250, 1_350, true, true]);
  send('bid_update', {
    seq: 4,
    high_bid: '14.00',
    minimum_bid: '15.00',
    high_bidder_id: 'ben',
    end_time: START + 60_000,
  });
  assert.deepEqual([room.price, room.isLeading], [1_400, false]);
  assert.deepEqual(turns, ['leading', 'outbid']);
});

test('an old frame changes nothing', () => {
  const { room, send } = opened();
  send('bid_update', { seq: 9, high_bid: 20, minimum_bid: 21, high_bidder_id: 'ben' });
  send('bid_update', { seq: 8, high_bid: 19, minimum_bid: 20, high_bidder_id: 'me' });
  assert.deepEqual([room.price, room.isLeading], [2_000, false]);
});

test('time after an outage over the end is announced, and is no extension', () => {
  const { room, send } = opened();
  const resumed = { seq: 3, status: 'live', end_time: START + 90_000, time_remaining_ms: 30_000 };
  send('timer_update', { ...resumed, sync_type: 'resumed', server_time: START + 60_000, extension_count: 0 });
  assert.equal(room.extended, null);
  send('auction_resumed', { ...resumed, reason: 'outage' });
  assert.deepEqual([room.extended?.ms, room.extended?.count], [30_000, 0]);
  assert.equal(room.state.reason, undefined);
});

test('the auction is over when the server says so, and not when the time is', () => {
  const { room, send, turns } = opened();
  send('bid_update', { seq: 3, high_bid: 10, minimum_bid: 11, high_bidder_id: 'me' });
  send('timer_update', { seq: 3, status: 'live', end_time: START, server_time: START + 500, extension_count: 0 });
  assert.equal(room.remaining()?.isConfirming, true);
  assert.equal(room.isOver, false);
  send('timer_update', { seq: 4, status: 'closed', end_time: START, server_time: START + 600, extension_count: 0 });
  assert.deepEqual(turns, ['leading']);
  send('auction_ended', { seq: 4, outcome: 'sold', winner_id: 'me', winning_bid: '10.00' });
  assert.deepEqual([room.isOver, room.result, turns.at(-1)], [true, 1_000, 'won']);
});

test('an extension is noticed once', () => {
  const { room, send } = opened();
  send('timer_update', { seq: 3, status: 'live', end_time: START + 90_000, server_time: START, extension_count: 1 });
  assert.deepEqual([room.extended?.ms, room.extended?.count], [30_000, 1]);
  const first = room.extended;
  send('timer_update', { seq: 3, status: 'live', end_time: START + 90_000, server_time: START, extension_count: 1 });
  assert.equal(room.extended, first);
});

test('bids are kept once, newest first, bounded, and without silent gaps', () => {
  const { room, send } = opened();
  send('bids', [bid(3), bid(4)]);
  send('bids', [bid(4), bid(5)]);
  assert.deepEqual(
    room.bids.map((one) => one.seq),
    [5, 4, 3],
  );
  send('bids', [bid(90), bid(91)]);
  assert.deepEqual(
    room.bids.map((one) => one.seq),
    [91, 90],
  );
  send(
    'bids',
    Array.from({ length: 500 }, (_, n) => bid(92 + n)),
  );
  assert.equal(room.bids.length, 100);
  assert.equal(room.bids[0].seq, 591);
});

test('messages are kept once, and disappear when they are deleted', () => {
  const { room, send } = opened();
  for (const id of ['1', '2', '2', '3'])
    send('chat_message', { message_id: id, user_id: 'ben', message: id, timestamp: 1 });
  send('chat_deleted', { message_id: '2' });
  assert.deepEqual(
    room.messages.map((one) => one.message_id),
    ['1', '3'],
  );
  for (let n = 10; n < 500; n++) send('chat_message', { message_id: String(n), timestamp: n });
  assert.equal(room.messages.length, 100);
});

test('a message that was deleted during an absence is gone after it', () => {
  const { room, send } = opened();
  for (const n of [1, 2, 3]) send('chat_message', { message_id: String(n), timestamp: n });
  const kept = [1, 3].map((n) => ({ message_id: String(n), timestamp: n }));
  send('joined_auction', state({ chat_messages: kept }));
  assert.deepEqual(
    room.messages.map((one) => one.message_id),
    ['1', '3'],
  );
});

/** A room of a scheduled auction, and what is posted to the server. */
function scheduled() {
  const { room, send, turns } = opened();
  /** @type {any[]} */
  const posted = [];
  /** @type {any} */
  const api = room.live.api;
  api.postSurely = async (/** @type {string} */ path, /** @type {any} */ body) => {
    posted.push([path, body]);
    return { status: 'accepted', is_highest: false, your_max_amount: body.max_amount };
  };
  room.auction = { allow_prebids: true, starts_at: new Date(START + 30_000).toISOString() };
  send('joined_auction', state({ status: 'scheduled', your_max_amount: null, server_time: START }));
  return { room, send, turns, posted };
}

test('a maximum is set before the opening, shown after a reload, and leads or not', async () => {
  const { room, send, turns, posted } = scheduled();
  assert.equal(room.maximum, null);
  assert.ok((room.untilStart() ?? 0) > 29_000, `${room.untilStart()}`);
  await room.setMaximum(30_050);
  assert.deepEqual([posted[0][0], posted[0][1].max_amount, posted[0][1].amount], ['/bids', '300.50', undefined]);
  assert.equal(room.maximum, 30_050);
  send('joined_auction', state({ status: 'scheduled', your_max_amount: 250 }));
  assert.equal(room.maximum, 25_000);
  send('bid_update', { seq: 5, status: 'scheduled', high_bid: 110, minimum_bid: 120, high_bidder_id: 'me' });
  send('auction_started', { seq: 6, end_time: START + 90_000 });
  assert.deepEqual([room.state.status, room.untilStart(), room.maximum], ['live', null, 25_000]);
  send('bid_update', { seq: 7, status: 'live', high_bid: 260, minimum_bid: 270, high_bidder_id: 'ben' });
  assert.deepEqual([room.maximum, turns], [null, ['leading', 'outbid']]);
});

test('a maximum that another one exceeds at the opening is reported as outbid', async () => {
  const { room, send, turns } = scheduled();
  await room.setMaximum(10_000);
  send('bid_update', { seq: 5, status: 'live', high_bid: 110, minimum_bid: 120, high_bidder_id: 'ben' });
  assert.deepEqual([turns, room.maximum, room.hasBid], [['outbid'], null, true]);
});

test('a state that is asked for over HTTP keeps the own maximum', () => {
  const { room, send } = scheduled();
  send('joined_auction', state({ status: 'scheduled', your_max_amount: '40.00' }));
  send('joined_auction', state({ status: 'scheduled' }));
  assert.equal(room.maximum, 4_000);
});

test('the stream of the host is as the server says, and not known without', () => {
  const { room, send } = opened();
  assert.equal(room.isStreaming, null);
  room.auction = { stream_live: false };
  assert.equal(room.isStreaming, false);
  send('stream_started', { timestamp: START });
  assert.deepEqual([room.isStreaming, room.state.status, room.minimum], [true, 'live', 1_000]);
  send('stream_ended', { timestamp: START });
  assert.equal(room.isStreaming, false);
  send('joined_auction', state({ stream_live: true }));
  assert.equal(room.isStreaming, true);
});

test('the host reads with the token, to be shown names where others are shown aliases', async () => {
  const { room } = opened();
  /** @type {any[]} */
  const asked = [];
  room.live.api.get = async (/** @type {string} */ path, /** @type {any} */ { isPublic }) => {
    asked.push([path, isPublic]);
    return { host_user_id: 'me', bids: [] };
  };
  await room.load();
  await room.loadOlder();
  const auction = '/auctions/lot';
  assert.deepEqual(asked, [[auction, true], [auction, false], [`${auction}/bids?limit=50`, false]]);
});
