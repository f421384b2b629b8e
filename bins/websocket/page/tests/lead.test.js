// Taking and losing the lead: each change is reported once, and nothing that is no news.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LeadWatch } from '../lead.js';

const live = (/** @type {string | null} */ leader) => ({ status: 'live', high_bidder_id: leader });
const closed = (/** @type {string | null} */ winner) => {
  return { status: 'closed', outcome: winner ? 'sold' : 'unsold', high_bidder_id: winner, winner_id: winner };
};

/** @param {any[]} states */
function turns(states, me = 'me') {
  const watch = new LeadWatch();
  return states.map((state) => watch.see(state, me));
}

test('each change of the lead is reported once', () => {
  const states = [
    live(null),
    live('me'),
    live('me'),
    live('ben'),
    live('cleo'),
    live('me'),
    closed('me'),
    closed('me'),
  ];
  assert.deepEqual(turns(states), [null, 'leading', null, 'outbid', null, 'leading', 'won', null]);
});

test('a loser is informed once, a watcher never', () => {
  assert.deepEqual(turns([live(null), live('me'), live('ben'), closed('ben')]), [null, 'leading', 'outbid', 'lost']);
  assert.deepEqual(turns([live(null), live('ben'), closed('ben')]), [null, null, null]);
});

test('a reload is no news', () => {
  assert.deepEqual(turns([live('ben')]), [null]);
  assert.deepEqual(turns([live('me'), live('ben')]), [null, 'outbid']);
  assert.deepEqual(turns([closed('me')]), [null]);
});

test('a last tick without a result is neither won nor lost', () => {
  const tick = { status: 'closed', outcome: null, high_bidder_id: 'me', winner_id: null };
  assert.deepEqual(turns([live('me'), tick, closed('me')]), [null, null, 'won']);
});

test('a cancelled auction is neither won nor lost', () => {
  assert.deepEqual(turns([live('me'), { status: 'cancelled', outcome: 'cancelled', high_bidder_id: 'me' }]), [
    null,
    null,
  ]);
});

test('an earlier bid makes a loser', () => {
  const watch = new LeadWatch();
  watch.see(live('ben'), 'me');
  watch.learn([{ user_id: 'ben' }, { user_id: 'me' }], 'me');
  assert.equal(watch.hasBid, true);
  assert.equal(watch.see(closed('ben'), 'me'), 'lost');
});

test('a maximum that waits for the opening leads or is outbid there', () => {
  const scheduled = { status: 'scheduled', high_bidder_id: null };
  /** @type {[string, (string | null)[]][]} */
  const cases = [
    ['ben', [null, 'outbid', null, 'lost']],
    ['me', [null, 'leading', null, 'won']],
  ];
  for (const [leader, expected] of cases) {
    const watch = new LeadWatch();
    watch.expect();
    // The bids come first, then the opening.
    const states = [scheduled, { ...scheduled, high_bidder_id: leader }, live(leader), closed(leader)];
    assert.deepEqual(
      states.map((state) => watch.see(state, 'me')),
      expected,
    );
  }
});

test('no one signed in, nothing reported', () => {
  const watch = new LeadWatch();
  watch.learn([{ user_id: 'ben' }], null);
  assert.equal(watch.see(live('ben'), null), null);
  assert.equal(watch.hasBid, false);
});
