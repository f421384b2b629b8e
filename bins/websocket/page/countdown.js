/**
 * The countdown: texts, urgency, spoken marks, and the server's clock. Pure; the present time is an argument.
 */

/** Time left from which the countdown is marked as soon over, and from which it shows tenths, in milliseconds. */
export const SOON_MS = 60_000;
export const LAST_MS = 10_000;
/** Times left that are spoken by screen readers, in seconds. */
const MARKS = [60, 30, 10];
/** Samples of the clock that are kept, and the jump that makes older ones worthless, in milliseconds. */
const SAMPLES = 16;
const JUMP_MS = 5_000;

/**
 * The time left as text: `2 d 4 h`, `1:04:09`, `4:09`, and `9.4` at the end. Rounded up, so that 0 means over.
 * @param {number} ms
 */
export function countdownText(ms) {
  if (ms <= 0) return '0.0';
  if (ms <= LAST_MS) return (Math.ceil(ms / 100) / 10).toFixed(1);
  const seconds = Math.ceil(ms / 1000);
  const two = (/** @type {number} */ value) => String(value).padStart(2, '0');
  const [days, hours] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3_600) % 24];
  const minutes = Math.floor(seconds / 60) % 60;
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours}:${two(minutes)}:${two(seconds % 60)}`;
  return `${minutes}:${two(seconds % 60)}`;
}

/**
 * The time until the text changes, in milliseconds.
 * @param {number} ms
 */
export function nextChangeIn(ms) {
  if (ms <= 0) return 1_000;
  if (ms <= LAST_MS) return ms % 100 || 100;
  return ms % 1_000 || 1_000;
}

/**
 * @param {number} ms
 * @returns {'calm' | 'soon' | 'last'}
 */
export function urgency(ms) {
  if (ms <= LAST_MS) return 'last';
  return ms <= SOON_MS ? 'soon' : 'calm';
}

/** Decides when the time left is spoken: at each mark once, and again if the end has moved. */
export class Marks {
  /** @type {number | null} */
  #last = null;

  /**
   * @param {number} ms time left
   * @returns {number | null} the mark in seconds that has just been passed
   */
  see(ms) {
    const last = this.#last;
    this.#last = ms;
    if (last === null) return null;
    return MARKS.findLast((mark) => ms <= mark * 1000 && last > mark * 1000) ?? null;
  }
}

/**
 * The server's clock, from the `server_time` of frames. A frame is never received before it was sent, so that the
 * largest difference is the best one.
 */
export class Clock {
  /** @type {number[]} */
  #offsets = [];

  /**
   * @param {number} serverTime
   * @param {number} now this machine's clock at the receipt
   */
  see(serverTime, now) {
    const offset = serverTime - now;
    if (this.#offsets.length > 0 && Math.abs(offset - this.offset()) > JUMP_MS) this.#offsets = [];
    this.#offsets.push(offset);
    if (this.#offsets.length > SAMPLES) this.#offsets.shift();
  }

  /** Milliseconds that the server is ahead of this machine; 0 while unknown. */
  offset() {
    return this.#offsets.length === 0 ? 0 : Math.max(...this.#offsets);
  }

  get isKnown() {
    return this.#offsets.length > 0;
  }
}
