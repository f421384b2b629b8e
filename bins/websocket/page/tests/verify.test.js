// The check of a record: what is whole passes, and each change is found.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Verification, headAfter, sha1 } from '../verify.js';

const AUCTION = '3a3ea00c-fc35-332c-ac92-3c27f0e27cd5';
const GENESIS = '0'.repeat(16);

test('SHA-1 is right at every length around a block', () => {
  for (let length = 0; length < 200; length++) {
    const message = new Uint8Array(length).fill(length);
    assert.equal(sha1(message), createHash('sha1').update(message).digest('hex'), String(length));
  }
});

test('the chain is that of the server', () => {
  // From libs/domain/src/chain.rs.
  const source = readFileSync(new URL('../../../../libs/domain/src/chain.rs', import.meta.url), 'utf8');
  assert.ok(source.includes(`"${headAfter(GENESIS, 'a')}"`));
});

const bidText = (/** @type {number} */ seq, /** @type {string} */ user, /** @type {number} */ cents, kind = 'bid') =>
  `${seq}\n${kind}\nb${seq}\n${user}\n${user} müller\n${cents}\n${1_000 + seq}`;
const bid = (/** @type {number} */ seq, /** @type {string} */ user, /** @type {number} */ amount) => {
  return { seq, bid_id: `b${seq}`, user_id: user, username: `${user} müller`, amount };
};

/** The facts with these texts; a null is one that is not public. @param {(string | null)[]} texts */
function chained(texts) {
  let head = GENESIS;
  return texts.map((text, nth) => {
    head = headAfter(head, text ?? `${nth + 1}\nmaximum\nsecret`);
    return { seq: nth + 1, text, head };
  });
}

const TEXTS = [
  `1\ncreated\n1000\n${AUCTION}\nhost`,
  '2\nopened\n1000\n61000',
  bidText(3, 'anna', 1_000),
  null,
  bidText(5, 'ben', 1_100),
  bidText(6, 'anna', 1_200, 'proxy'),
  '7\nclosed\n61000\nended\n\nsold\nanna\n1200',
];
const SHOWN = { auction_id: AUCTION, outcome: 'sold', winner_id: 'anna', winning_bid: '12.00' };
const SEEN = [bid(6, 'anna', 12), bid(5, 'ben', 11)];

/** @param {any[]} facts */
function check(facts, shown = SHOWN, seen = SEEN) {
  const verification = new Verification();
  // Page by page.
  verification.add(facts.slice(0, 4));
  verification.add(facts.slice(4));
  return verification.finish(shown, seen);
}

test('a record that holds together has no faults', () => {
  const facts = chained(TEXTS);
  const head = facts[6].head;
  assert.deepEqual(check(facts), { faults: [], facts: 7, bids: 3, hidden: 1, seen: 2, head });
  const cancelled = chained([...TEXTS.slice(0, 6), '7\ncancelled\n5000\nhost']);
  assert.deepEqual(check(cancelled, { ...SHOWN, outcome: 'cancelled' }).faults, []);
  const unsold = chained([...TEXTS.slice(0, 6), '7\nclosed\n61000\nended\n\nunsold\n\n']);
  assert.deepEqual(check(unsold, { ...SHOWN, outcome: 'unsold' }).faults, []);
});

test('each change is found', () => {
  const change = (/** @type {(facts: any[]) => any} */ alter) => {
    const facts = chained(TEXTS);
    return alter(facts) ?? facts;
  };
  const texts = (/** @type {number} */ nth, /** @type {string} */ text) => TEXTS.map((one, at) => (at === nth ? text : one));
  /** @type {[string, any[], any, any[], string[]][]} */
  const cases = [
    ['amount', change((facts) => void (facts[4].text = bidText(5, 'ben', 1_101))), SHOWN, [], ['chain']],
    ['head', change((facts) => void (facts[2].head = GENESIS)), SHOWN, SEEN, ['chain']],
    ['missing bid', change((facts) => facts.filter((_, nth) => nth !== 4)), SHOWN, [], ['order', 'chain']],
    ['missing end', change((facts) => facts.slice(0, 6)), SHOWN, SEEN, ['end']],
    ['other auction', chained(texts(0, '1\ncreated\n1000\nother\nhost')), SHOWN, SEEN, ['start']],
    ['other winner', change(() => undefined), { ...SHOWN, winner_id: 'ben' }, SEEN, ['result']],
    ['other price', change(() => undefined), { ...SHOWN, winning_bid: '11.00' }, SEEN, ['result']],
    ['winner without a bid', chained(texts(5, bidText(6, 'cleo', 1_200, 'proxy'))), SHOWN, [], ['result']],
    ['higher bid of a loser', chained(texts(4, bidText(5, 'ben', 1_300))), SHOWN, [], ['result']],
    ['a whole other history', chained(texts(4, bidText(5, 'ben', 1_150))), SHOWN, SEEN, ['seen']],
    ['other name', change(() => undefined), SHOWN, [{ ...bid(5, 'ben', 11), username: 'mallory' }], ['seen']],
  ];
  for (const [name, facts, shown, seen, faults] of cases) assert.deepEqual(check(facts, shown, seen).faults, faults, name);
});
