/**
 * Before the opening: the state of the form for a maximum, and the amounts that it takes. Pure.
 */

import { parseMoney } from './money.js';

/**
 * @typedef {object} Facts
 * @property {any} auction
 * @property {string} status of the auction
 * @property {boolean} isSignedIn
 * @property {boolean} isHost
 * @property {number | null} maximum what is kept for this person, in cents
 * @property {boolean} isChanging the person has asked to change it
 */

/**
 * Whether a maximum can be set now that is bid at the opening.
 * @param {any} auction
 * @param {string} status
 */
export function keepsMaximums(auction, status) {
  return status === 'scheduled' && Boolean(auction?.allow_prebids);
}

/**
 * `none`: the form does not apply. `form`: a maximum can be typed. `kept`: the standing one is shown.
 * @param {Facts} facts
 * @returns {'none' | 'signin' | 'form' | 'kept'}
 */
export function prebidKind(facts) {
  if (!keepsMaximums(facts.auction, facts.status) || facts.isHost) return 'none';
  if (!facts.isSignedIn) return 'signin';
  return facts.maximum === null || facts.isChanging ? 'form' : 'kept';
}

/**
 * Reads a maximum that a person typed.
 * @param {string} text
 * @param {number} least the starting price, in cents
 * @returns {{cents: number} | {fault: 'amount.invalid' | 'prebid.low'}} the fault is the key of its text
 */
export function readMaximum(text, least) {
  const cents = parseMoney(text);
  if (cents === null) return { fault: 'amount.invalid' };
  return cents < least ? { fault: 'prebid.low' } : { cents };
}
