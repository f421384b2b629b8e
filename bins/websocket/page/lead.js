/**
 * Decides when a person has just taken the lead, lost it, won or lost. Pure.
 */

/**
 * @typedef {'leading' | 'outbid' | 'won' | 'lost' | null} Turn
 */

/** Watches one auction for one person. */
export class LeadWatch {
  /** @type {boolean | null} */
  #wasLeading = null;
  #isOver = false;
  /** Whether a maximum of the person waits for the opening. */
  #isWaiting = false;
  /** Whether the person has placed an accepted bid. */
  hasBid = false;

  /**
   * @param {{status: string, high_bidder_id?: string | null, outcome?: string | null,
   *   winner_id?: string | null}} state
   * @param {string | null} me
   * @returns {Turn} what has changed since the last call
   */
  see(state, me) {
    if (me === null) return null;
    const isFirst = this.#wasLeading === null;
    const wasLeading = this.#wasLeading === true;
    const isLeading = state.high_bidder_id === me;
    this.#wasLeading = isLeading;
    this.hasBid ||= isLeading;
    if (state.status === 'closed' || state.status === 'cancelled') {
      // After a reload the end is shown, but it is not news.
      // The last tick may come before the result: it says that the time is over, and names no winner.
      if (!state.outcome) return null;
      const isNews = !this.#isOver && !isFirst;
      this.#isOver = true;
      if (!isNews || !this.hasBid || state.status === 'cancelled') return null;
      return state.winner_id === me ? 'won' : 'lost';
    }
    // At the opening another maximum may be the higher one: the person has lost a lead that was never shown.
    const isResolved = this.#isWaiting && Boolean(state.high_bidder_id);
    if (isResolved) this.#isWaiting = false;
    if (isResolved && !isLeading) return 'outbid';
    if (isFirst || wasLeading === isLeading) return null;
    return isLeading ? 'leading' : 'outbid';
  }

  /** A maximum of the person is bid when the auction opens. */
  expect() {
    this.#isWaiting = true;
    this.hasBid = true;
  }

  /**
   * Learns from a bid that was accepted earlier, as the history shows it. A bid that was accepted and overtaken in
   * one step never led.
   * @param {{user_id: string}[]} bids
   * @param {string | null} me
   */
  learn(bids, me) {
    this.hasBid ||= me !== null && bids.some((bid) => bid.user_id === me);
  }
}
