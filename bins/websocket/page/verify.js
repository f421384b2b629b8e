/**
 * Checks the record of an auction that is over: that its facts form one chain, that the result follows from the bids, and
 * that every bid which this page has seen is in it. Pure.
 *
 * SHA-1 is written out because `crypto.subtle` is missing on pages that were not loaded over TLS.
 */

import { fromWire } from './money.js';

/** The head before the first fact. */
const GENESIS = '0'.repeat(16);
const ENDS = ['closed', 'cancelled'];
const BIDS = ['bid', 'proxy', 'prebid'];

/**
 * SHA-1 by FIPS 180-4.
 * @param {Uint8Array} message
 * @returns {string} hexadecimal digits
 */
export function sha1(message) {
  const padded = new Uint8Array(((message.length + 72) >> 6) << 6);
  padded.set(message);
  padded[message.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 4, message.length * 8);
  const hash = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0];
  const w = new Int32Array(80);
  const turn = (/** @type {number} */ x, /** @type {number} */ by) => (x << by) | (x >>> (32 - by));
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 80; i++) {
      w[i] = i < 16 ? view.getInt32(block + i * 4) : turn(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    }
    let [a, b, c, d, e] = hash;
    for (let i = 0; i < 80; i++) {
      let [mix, constant] = [b ^ c ^ d, i < 40 ? 0x6ed9eba1 : 0xca62c1d6];
      if (i < 20) [mix, constant] = [(b & c) | (~b & d), 0x5a827999];
      else if (i >= 40 && i < 60) [mix, constant] = [(b & c) | (b & d) | (c & d), 0x8f1bbcdc];
      [a, b, c, d, e] = [(turn(a, 5) + mix + e + constant + w[i]) | 0, a, turn(b, 30), c, d];
    }
    [a, b, c, d, e].forEach((value, i) => (hash[i] = (hash[i] + value) | 0));
  }
  return hash.map((value) => (value >>> 0).toString(16).padStart(8, '0')).join('');
}

/**
 * The head of the chain after a fact.
 * @param {string} before
 * @param {string} text
 */
export function headAfter(before, text) {
  return sha1(new TextEncoder().encode(`${before}\n${text}`)).slice(0, 16);
}

/** @typedef {{seq: number, text: string | null, head: string}} Fact */

/**
 * `faults` are the last parts of `verify.fault.…`; `facts`, `bids`, `hidden` and `seen` are counts.
 * @typedef {{faults: string[], facts: number, bids: number, hidden: number, seen: number, head: string}} Findings
 */

/** Takes the facts of one auction page by page. */
export class Verification {
  #head = GENESIS;
  #seq = 0;
  #hidden = 0;
  #highest = 0;
  /** People with their bids, as `user cents`. @type {Set<string>} */
  #offers = new Set();
  /** The bids as they must be shown, by seq. @type {Map<number, string>} */
  #bids = new Map();
  /** @type {string[]} */
  #first = [];
  /** @type {string[]} */
  #last = [];
  /** @type {Set<string>} */
  #faults = new Set();

  get count() {
    return this.#seq;
  }

  /** @param {Fact[]} facts the next ones */
  add(facts) {
    for (const { seq, text, head } of facts) {
      if (seq !== this.#seq + 1) this.#faults.add('order');
      this.#seq = seq;
      // A fact that is not public is taken as its head says.
      if (text === null) this.#hidden++;
      else this.#fact(text, seq, head);
      this.#head = head;
    }
  }

  /**
   * @param {string} text
   * @param {number} seq
   * @param {string} head
   */
  #fact(text, seq, head) {
    if (headAfter(this.#head, text) !== head) this.#faults.add('chain');
    const lines = text.split('\n');
    if (Number(lines[0]) !== seq) this.#faults.add('order');
    if (seq === 1) this.#first = lines;
    this.#last = lines;
    if (!BIDS.includes(lines[1])) return;
    const [, , bid, user, name, cents] = lines;
    this.#bids.set(seq, `${bid} ${user} ${name} ${cents}`);
    this.#offers.add(`${user} ${cents}`);
    this.#highest = Math.max(this.#highest, Number(cents));
  }

  /**
   * @param {any} auction the auction as it is shown
   * @param {any[]} seen bids that the page has seen
   * @returns {Findings}
   */
  finish(auction, seen) {
    const faults = this.#faults;
    if (this.#first[1] !== 'created' || this.#first[3] !== auction.auction_id) faults.add('start');
    if (!ENDS.includes(this.#last[1])) faults.add('end');
    else if (!this.#isResult(auction)) faults.add('result');
    const isIn = (/** @type {any} */ bid) => {
      return this.#bids.get(bid.seq) === `${bid.bid_id} ${bid.user_id} ${bid.username} ${fromWire(bid.amount)}`;
    };
    if (!seen.every(isIn)) faults.add('seen');
    const [facts, bids, hidden, head] = [this.#seq, this.#bids.size, this.#hidden, this.#head];
    return { faults: [...faults], facts, bids, hidden, seen: seen.length, head };
  }

  /** Whether the shown result is that of the last fact, and follows from the bids. @param {any} auction */
  #isResult(auction) {
    if (this.#last[1] === 'cancelled') return auction.outcome === 'cancelled';
    const [, , , , , outcome, winner, cents] = this.#last;
    if (outcome !== auction.outcome) return false;
    if (outcome !== 'sold') return true;
    const isShown = winner === auction.winner_id && Number(cents) === fromWire(auction.winning_bid);
    return isShown && Number(cents) === this.#highest && this.#offers.has(`${winner} ${cents}`);
  }
}
