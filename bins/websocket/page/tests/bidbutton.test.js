// The bid button: the state for each situation, and the pause after a change of its amount.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bidButton, OPEN_MS, SETTLE_MS, Settling } from '../bidbutton.js';

const FACTS = {
  status: 'live',
  isSignedIn: true,
  isHost: false,
  isConnected: true,
  isConfirming: false,
  isLeading: false,
  hasBid: false,
  isWinner: false,
  outcome: null,
  sending: null,
  minimum: 15_250,
  isSettling: false,
};

test('the button is the state', () => {
  const cases = [
    [{}, 'bid', 15_250, true],
    [{ hasBid: true }, 'outbid', 15_250, true],
    [{ isSettling: true }, 'bid', 15_250, false],
    [{ hasBid: true, isLeading: true }, 'leading', null, false],
    [{ sending: 15_000 }, 'sending', 15_000, false],
    [{ isSignedIn: false, isConnected: false }, 'signin', null, true],
    [{ isConnected: false }, 'offline', null, false],
    [{ isConnected: false, isLeading: true }, 'offline', null, false],
    [{ isHost: true }, 'host', null, false],
    [{ minimum: null }, 'loading', null, false],
    [{ isConfirming: true }, 'confirming', null, false],
    [{ isConfirming: true, isLeading: true, hasBid: true }, 'confirming', null, false],
    [{ status: 'scheduled' }, 'scheduled', null, false],
    [{ status: 'paused' }, 'paused', null, false],
    [{ status: 'closed', outcome: 'sold', hasBid: true, isWinner: true }, 'won', null, false],
    [{ status: 'closed', outcome: 'sold', hasBid: true }, 'lost', null, false],
    [{ status: 'closed', outcome: 'unsold' }, 'ended', null, false],
    [{ status: 'closed', hasBid: true }, 'confirming', null, false],
    [{ status: 'closed', outcome: 'cancelled', isWinner: true }, 'cancelled', null, false],
    [{ status: 'cancelled', hasBid: true }, 'cancelled', null, false],
    [{ status: 'of a later version' }, 'loading', null, false],
  ];
  for (const [change, kind, amount, isEnabled] of cases) {
    assert.deepEqual(bidButton({ ...FACTS, ...change }), { kind, amount, isEnabled }, JSON.stringify(change));
  }
});

test('never says that the auction has ended before the server did', () => {
  const { kind } = bidButton({ ...FACTS, isConfirming: true });
  assert.equal(kind, 'confirming');
});

test('takes no press for 300 ms after the amount has changed', () => {
  const settling = new Settling();
  assert.equal(settling.see(1_000, 0), 0);
  assert.equal(settling.see(1_000, 5_000), 0);
  assert.equal(settling.see(1_100, 6_000), SETTLE_MS);
  assert.equal(settling.see(1_100, 6_200), 100);
  assert.equal(settling.see(1_100, 6_300), 0);
});

test('stays usable while the price moves twenty times a second', () => {
  const settling = new Settling();
  let open = 0;
  for (let now = 0; now < 10_000; now += 50) if (settling.see(now, now) === 0) open += 50;
  assert.ok(open >= 10_000 * (OPEN_MS / (OPEN_MS + SETTLE_MS)) - 500, `${open} ms`);
});

test('no pause where no amount was shown before', () => {
  const settling = new Settling();
  assert.equal(settling.see(null, 0), 0);
  assert.equal(settling.see(1_000, 10), 0);
});
