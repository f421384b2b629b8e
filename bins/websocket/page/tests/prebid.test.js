// Bidding before the opening: the state of the form, and the amounts that it takes.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { prebidKind, readMaximum } from '../prebid.js';

const FACTS = {
  auction: { allow_prebids: true },
  status: 'scheduled',
  isSignedIn: true,
  isHost: false,
  maximum: null,
  isChanging: false,
};

test('the form follows the auction and the person', () => {
  /** @type {[Partial<typeof FACTS> & {maximum?: any}, string][]} */
  const cases = [
    [{}, 'form'],
    [{ isSignedIn: false }, 'signin'],
    [{ maximum: /** @type {any} */ (30_000) }, 'kept'],
    [{ maximum: /** @type {any} */ (30_000), isChanging: true }, 'form'],
    [{ isHost: true }, 'none'],
    [{ auction: { allow_prebids: false } }, 'none'],
    [{ status: 'live', maximum: /** @type {any} */ (30_000) }, 'none'],
    [{ status: 'cancelled' }, 'none'],
    [{ status: 'of a later version' }, 'none'],
  ];
  for (const [change, kind] of cases) {
    assert.equal(prebidKind({ ...FACTS, ...change }), kind, JSON.stringify(change));
  }
});

test('a maximum is an amount from the starting price up', () => {
  assert.deepEqual(readMaximum(' 12.50 ', 1_000), { cents: 1_250 });
  assert.deepEqual(readMaximum('10', 1_000), { cents: 1_000 });
  assert.deepEqual(readMaximum('9.99', 1_000), { fault: 'prebid.low' });
  for (const text of ['', '1e9', '-7', '<b>']) assert.deepEqual(readMaximum(text, 1), { fault: 'amount.invalid' }, text);
});
