/**
 * The bid button: its state, and the short pause after its amount has changed. Pure; the present time is an argument.
 */

/** Time for which the button takes no press after its amount has changed, in milliseconds. */
export const SETTLE_MS = 300;
/** Time for which it takes presses before the next such pause, so that a fast auction can be bid in at all. */
export const OPEN_MS = 700;

/**
 * @typedef {object} Facts
 * @property {string} status of the auction
 * @property {boolean} isSignedIn
 * @property {boolean} isHost
 * @property {boolean} isConnected bids can be placed now, and the price is the newest
 * @property {boolean} isConfirming no time is left, and the server has not sent the end
 * @property {boolean} isLeading
 * @property {boolean} hasBid the person has placed an accepted bid
 * @property {boolean} isWinner
 * @property {string | null} outcome
 * @property {number | null} sending the amount that is on its way, in cents
 * @property {number | null} minimum the lowest allowed bid, in cents
 * @property {boolean} isSettling the amount changed a moment ago
 */

/**
 * The button's state. `kind` names the text (`button.<kind>`) and the look; `amount` is sent if it is pressed.
 * @param {Facts} facts
 * @returns {{kind: string, amount: number | null, isEnabled: boolean}}
 */
export function bidButton(facts) {
  const still = (/** @type {string} */ kind, /** @type {number | null} */ amount = null) => {
    return { kind, amount, isEnabled: false };
  };
  if (facts.status === 'cancelled' || facts.outcome === 'cancelled') return still('cancelled');
  if (facts.status === 'closed') {
    // The last tick may come before the result.
    if (facts.outcome === null) return still('confirming');
    if (facts.isWinner) return still('won');
    return still(facts.hasBid ? 'lost' : 'ended');
  }
  if (facts.isHost) return still('host');
  // The answer to a bid is waited for whatever happens around it.
  if (facts.sending !== null) return still('sending', facts.sending);
  if (facts.status === 'scheduled') return still('scheduled');
  if (facts.status === 'paused') return still('paused');
  if (facts.status !== 'live') return still('loading');
  if (facts.isConfirming) return still('confirming');
  if (!facts.isSignedIn) return { kind: 'signin', amount: null, isEnabled: true };
  if (!facts.isConnected) return still('offline');
  if (facts.isLeading) return still('leading');
  if (facts.minimum === null) return still('loading');
  return { kind: facts.hasBid ? 'outbid' : 'bid', amount: facts.minimum, isEnabled: !facts.isSettling };
}

/** The pause after a change of the amount: a press meant for the old amount must not place the new one. */
export class Settling {
  /** @type {number | null} */
  #amount = null;
  #until = -Infinity;

  /**
   * @param {number | null} amount the amount on the button
   * @param {number} now
   * @returns {number} time until the button takes presses, in milliseconds
   */
  see(amount, now) {
    const moved = this.#amount !== null && amount !== null && amount !== this.#amount;
    if (moved && now >= this.#until + OPEN_MS) this.#until = now + SETTLE_MS;
    this.#amount = amount;
    return Math.max(0, this.#until - now);
  }
}
