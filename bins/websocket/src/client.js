// @ts-check
/**
 * A client for live auctions: one connection that reconnects by itself, resumes where it was, and never places a bid
 * twice. No dependencies; an ES module for browsers (and for Node, with a WebSocket implementation passed in).
 *
 *     import { connect } from '/client.js';
 *     const client = connect({ token: () => fetchToken() });
 *     const lot = client.join(auctionId);
 *     lot.on('change', () => show(lot.state, lot.remaining()));
 *     const result = await lot.bid('12.50');
 *
 * Time is the server's: `remaining()` counts down to the end that the server sent. The server's clock comes from pings,
 * of which the shortest round trip counts, and from ticks; in between the page's monotonic clock goes on, which no
 * change of the device's time moves. At zero `remaining()` returns `confirming`; only the server decides that the
 * auction is over.
 *
 * @module
 */

/** First and longest pause before another attempt to connect, in milliseconds. The real pause is drawn below it. */
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 10_000;
/** Interval between two measurements of the clock, and the number of measurements that are kept. */
const MEASURE_EVERY_MS = 20_000;
const MEASUREMENTS = 8;
/** Longest round trip of a measurement that is used, in milliseconds. A longer one says little about the clock. */
const LONGEST_ROUND_TRIP_MS = 10_000;
/** Milliseconds by which two measurements of one clock may differ besides their round trips. */
const CLOCK_TOLERANCE_MS = 100;
/** Milliseconds by which a frame may be older than the known clock has it, before the clock is measured again. */
const LATE_FRAME_MS = 2_000;
/** Time for `connected` after the attempt to connect began, in milliseconds. A server that says nothing is given up. */
const CONNECT_WITHIN_MS = 10_000;
/** Codes after which a join is sent again. */
const JOIN_AGAIN = new Set(['unavailable', 'overloaded', 'rate_limited', 'room_full']);
/** Connections rejected in a row with 4401, each with a token that was asked for anew, before the client gives up. */
const MAX_REJECTED_TOKENS = 3;
/** Time for the answer to a request, in milliseconds. Without one the connection is considered dead. */
const ANSWER_WITHIN_MS = 6_000;
/** Time in which a bid of unknown outcome is sent again, and the longest pause before an attempt, in milliseconds. */
const BID_FOR_MS = 30_000;
const BID_AGAIN_MS = 500;
/** Codes of answers after which the same bid is sent again, with the same id. */
const ASK_AGAIN = new Set(['outcome_unknown', 'unavailable', 'overloaded', 'rate_limited']);
/** Close code: the token is missing, bad or expired. */
const UNAUTHENTICATED = 4401;

/**
 * @typedef {object} Options
 * @property {() => string | undefined | Promise<string | undefined>} token Returns a token that is valid now, or
 *   undefined to watch without one; called before each connection and before the present token expires.
 * @property {string} [url] The address of the edge; by default the one this module was loaded from.
 * @property {typeof WebSocket} [WebSocket] Another implementation than the browser's.
 */

/**
 * A bid as all clients see it.
 * @typedef {{seq: number, bid_id: string, user_id: string, username: string, amount: number, timestamp: number,
 *   kind: string}} Bid
 */

/** @typedef {{status: string, seq: number, end_time: number | null, [field: string]: any}} State */

/** @typedef {(data: any) => void} Listener */

class Emitter {
  /** @type {Map<string, Set<Listener>>} */
  #listeners = new Map();

  /**
   * Listens to an event. Returns a function that stops listening.
   * @param {string} event
   * @param {Listener} listener
   * @returns {() => void}
   */
  on(event, listener) {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /**
   * @param {string} event
   * @param {any} data
   */
  emit(event, data) {
    for (const listener of this.#listeners.get(event) ?? []) listener(data);
  }
}

/** The time since the page was opened, in milliseconds, by a clock that only rises. */
const monotonic = () => performance.now();

/**
 * A random UUID. `crypto.randomUUID` is missing on pages without https.
 * @returns {string}
 */
function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return digits.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, '$1-$2-$3-$4-$5');
}

/**
 * A pause with full jitter, in milliseconds: clients that failed together do not try again together.
 * @param {number} attempt counted from 0
 */
const pauseBefore = (attempt) => Math.random() * Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** attempt);

/** @param {number} ms */
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * One auction that the client has joined. Emits `change` after each change of `state`, `bids` with the new bids (each
 * bid once), `ended` with the last state (once), and every event of the auction by its own name.
 */
export class Lot extends Emitter {
  /**
   * @param {Client} client
   * @param {string} id
   */
  constructor(client, id) {
    super();
    this.client = client;
    this.id = id;
    /** The newest known state; null before the first answer. @type {State | null} */
    this.state = null;
    /** The seq of the last bid that was emitted. */
    this.seenSeq = 0;
  }

  #isOver = false;

  /**
   * The time until the end, by the server's clock. `confirming`: no time is left, and the server has not sent the end
   * yet.
   * @returns {{ms: number, confirming: boolean} | null} null while there is no end (not joined, paused, over)
   */
  remaining() {
    if (!this.state || this.state.status !== 'live' || this.state.end_time === null) return null;
    const ms = Math.max(0, this.state.end_time - this.client.serverNow());
    return { ms, confirming: ms === 0 };
  }

  /**
   * Places a bid, and sends it again with the same id until its outcome is known.
   * @param {string | number} amount at most two decimals
   * @param {{bid_id?: string}} [options] the id of an earlier attempt
   * @returns {Promise<any>} the answer, accepted or rejected
   */
  async bid(amount, { bid_id = uuid() } = {}) {
    const until = monotonic() + BID_FOR_MS;
    for (;;) {
      const answer = await this.client.request('place_bid', { auction_id: this.id, amount, bid_id }).catch(() => null);
      if (answer && !ASK_AGAIN.has(answer.code)) return answer;
      if (monotonic() > until) return answer ?? { status: 'rejected', code: 'outcome_unknown', bid_id };
      await sleep(Math.random() * BID_AGAIN_MS);
    }
  }

  /**
   * @param {string} message
   * @returns {Promise<any>}
   */
  say(message) {
    return this.client.request('chat_message', { auction_id: this.id, message });
  }

  /** Leaves the auction. */
  leave() {
    this.client.leave(this.id);
  }

  /**
   * @param {string} event
   * @param {any} data
   */
  take(event, data) {
    // A frame that is older than the known state brings nothing new.
    if (typeof data.seq === 'number' && this.state && data.seq < this.state.seq) return;
    if (event === 'joined_auction') {
      this.state = data;
      this.#give(data.missed_bids ?? [...(data.recent_bids ?? [])].reverse());
    } else if (this.state) {
      const { bids = [], sync_type, ...rest } = data;
      this.state = { ...this.state, ...rest };
      this.#give(bids);
    }
    if (this.state && event === 'auction_ended') this.state.status = 'closed';
    if (this.state && ['auction_started', 'auction_resumed'].includes(event)) this.state.status = 'live';
    if (this.state && event === 'auction_cancelled') this.state.status = 'cancelled';
    this.emit(event, data);
    this.emit('change', this.state);
    // Emitted once, also after a reconnect if the client was away at the end.
    if (!this.#isOver && ['closed', 'cancelled'].includes(this.state?.status ?? '')) {
      this.#isOver = true;
      this.emit('ended', this.state);
    }
  }

  /** @param {Bid[]} bids oldest first */
  #give(bids) {
    const fresh = bids.filter((bid) => bid.seq > this.seenSeq);
    this.seenSeq = Math.max(this.seenSeq, this.state?.seq ?? 0);
    if (fresh.length > 0) this.emit('bids', fresh);
  }
}

/**
 * The connection. Emits `connected` (`user_id` is null without a token), `disconnected`, `unauthenticated` (several
 * tokens in a row were rejected, or the server lets no one watch without one: the client is closed then), and `error`.
 * It emits `outbid` of every auction in which the person has bid, joined or not, and of those not joined also
 * `auction_ended` and `auction_cancelled`.
 */
export class Client extends Emitter {
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {Map<number, {resolve: (data: any) => void, reject: (error: Error) => void, timer: any}>} */
  #asked = new Map();
  /** @type {Map<string, Lot>} */
  #lots = new Map();
  /** @type {{roundTrip: number, offset: number}[]} */
  #clock = [];
  #nextId = 1;
  #attempt = 0;
  #rejectedTokens = 0;
  /** Limits the time until `connected`. @type {any} */
  #connecting = null;
  #isReady = false;
  #isClosed = false;
  /** The reconnect delay that the server asked for, in milliseconds. @type {number | null} */
  #away = null;
  /** @type {any} */
  #measuring = null;

  /** @param {Options} options */
  constructor(options) {
    super();
    this.options = options;
    void this.#connect();
  }

  /** The server's clock, in milliseconds since 1970. */
  serverNow() {
    if (this.#clock.length === 0) return Date.now();
    const best = this.#clock.reduce((best, one) => (one.roundTrip < best.roundTrip ? one : best));
    return monotonic() + best.offset;
  }

  /**
   * Joins an auction, and joins it again after each reconnect.
   * @param {string} id
   * @returns {Lot}
   */
  join(id) {
    const lot = this.#lots.get(id) ?? new Lot(this, id);
    this.#lots.set(id, lot);
    if (this.#isReady) void this.#joinNow(lot);
    return lot;
  }

  /** @param {string} id */
  leave(id) {
    if (this.#lots.delete(id) && this.#isReady) this.request('leave_auction', { auction_id: id }).catch(() => {});
  }

  /** Closes the connection for good. */
  close() {
    this.#isClosed = true;
    this.#socket?.close(1000);
  }

  /**
   * Sends a request and resolves with the data of its answer. Rejects if the connection ends first.
   * @param {string} event
   * @param {object} data
   * @returns {Promise<any>}
   */
  request(event, data) {
    return new Promise((resolve, reject) => {
      const socket = this.#socket;
      if (!this.#isReady || !socket) return reject(new Error('not connected'));
      const id = this.#nextId++;
      // Without an answer in time the connection is dead, even if the browser reports it as open.
      const timer = setTimeout(() => this.#drop(socket), ANSWER_WITHIN_MS);
      this.#asked.set(id, { resolve, reject, timer });
      socket.send(JSON.stringify({ event, data, id }));
    });
  }

  async #connect() {
    let token;
    try {
      token = await this.options.token();
    } catch (error) {
      this.emit('error', error);
      return this.#again();
    }
    if (this.#isClosed) return;
    const base = this.options.url ?? new URL('.', import.meta.url).href;
    const url = base.replace(/^http/, 'ws').replace(/\/$/, '') + '/ws';
    const socket = new (this.options.WebSocket ?? WebSocket)(url);
    this.#socket = socket;
    this.#connecting = setTimeout(() => this.#drop(socket), CONNECT_WITHIN_MS);
    socket.onopen = () => socket.send(JSON.stringify({ event: 'authenticate', data: { token } }));
    socket.onmessage = (message) => this.#take(JSON.parse(message.data));
    // A close follows each error.
    socket.onerror = () => {};
    socket.onclose = (close) => this.#ended(socket, close.code);
  }

  /**
   * @param {WebSocket} socket
   * @param {number} code
   */
  #ended(socket, code) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    const wasReady = this.#isReady;
    this.#isReady = false;
    clearInterval(this.#measuring);
    clearTimeout(this.#connecting);
    for (const { reject, timer } of this.#asked.values()) {
      clearTimeout(timer);
      reject(new Error('the connection ended'));
    }
    this.#asked.clear();
    if (wasReady) this.emit('disconnected', { code });
    if (this.#isClosed) return;
    // The next attempt asks for another token, which the server may accept, as after a change of the issuer's keys.
    if (code === UNAUTHENTICATED && !wasReady && ++this.#rejectedTokens >= MAX_REJECTED_TOKENS) {
      this.#isClosed = true;
      return this.emit('unauthenticated', { code });
    }
    this.#again();
  }

  #again() {
    setTimeout(() => !this.#isClosed && this.#connect(), this.#away ?? pauseBefore(this.#attempt++));
    this.#away = null;
  }

  /**
   * Ends a connection without waiting for the server's close.
   * @param {WebSocket} socket
   */
  #drop(socket) {
    socket.onmessage = null;
    socket.close();
    this.#ended(socket, 1006);
  }

  /**
   * Joins, and tries again while the server cannot let the client in. A new connection joins by itself.
   * @param {Lot} lot
   */
  async #joinNow(lot) {
    const socket = this.#socket;
    for (let attempt = 0; socket === this.#socket && this.#lots.get(lot.id) === lot; attempt++) {
      const last_seq = lot.state?.seq;
      const asked = { auction_id: lot.id, ...(last_seq === undefined ? {} : { last_seq }) };
      const data = await this.request('join_auction', asked).catch(() => null);
      // Without an answer the connection has ended.
      if (!data) return;
      if (!data.code) return lot.take('joined_auction', data);
      lot.emit('error', data);
      if (!JOIN_AGAIN.has(data.code)) return;
      await sleep(FIRST_PAUSE_MS + pauseBefore(attempt));
    }
  }

  async #measure() {
    const sent = monotonic();
    const pong = await this.request('ping', {}).catch(() => null);
    if (pong?.timestamp) this.#note(monotonic() - sent, pong.timestamp - (sent + monotonic()) / 2);
  }

  /**
   * Keeps a measurement of the server's clock against the monotonic one, and forgets those that it contradicts.
   * @param {number} roundTrip
   * @param {number} offset
   */
  #note(roundTrip, offset) {
    if (!Number.isFinite(offset) || roundTrip < 0 || roundTrip > LONGEST_ROUND_TRIP_MS) return;
    this.#clock = this.#clock.filter(
      (one) => Math.abs(one.offset - offset) <= (one.roundTrip + roundTrip) / 2 + CLOCK_TOLERANCE_MS,
    );
    this.#clock.push({ roundTrip, offset });
    if (this.#clock.length > MEASUREMENTS) this.#clock.shift();
  }

  /**
   * A frame was sent at this time of the server. None comes before it was sent: a known clock that has not reached that
   * time is wrong, as after a sleep in which the monotonic clock stood still. A late frame may only have been delayed.
   * @param {number} serverTime
   */
  #heard(serverTime) {
    const ahead = serverTime - this.serverNow();
    if (this.#clock.length === 0 || ahead > LATE_FRAME_MS) {
      this.#clock = [];
      this.#note(LONGEST_ROUND_TRIP_MS, serverTime - monotonic());
    }
    if (Math.abs(ahead) > LATE_FRAME_MS) void this.#measure();
  }

  /**
   * Shows the server a token that is asked for anew. A connection that watched without one becomes that of the person,
   * in all auctions that it has joined. Another person needs another client.
   * @returns {Promise<any>} `expires_at`, or `code` and `error`
   */
  async renew() {
    const token = await this.options.token();
    return this.request('authenticate', { token });
  }

  /** @param {{event: string, data: any, id?: number}} frame */
  #take({ event, data, id }) {
    const asked = id === undefined ? undefined : this.#asked.get(id);
    if (asked && id !== undefined) {
      this.#asked.delete(id);
      clearTimeout(asked.timer);
      return asked.resolve(data);
    }
    if (typeof data?.server_time === 'number') this.#heard(data.server_time);
    switch (event) {
      case 'connected':
        this.#isReady = true;
        this.#attempt = 0;
        this.#rejectedTokens = 0;
        clearTimeout(this.#connecting);
        void this.#measure();
        this.#measuring = setInterval(() => this.#measure(), MEASURE_EVERY_MS);
        for (const lot of this.#lots.values()) void this.#joinNow(lot);
        return this.emit('connected', data);
      case 'token_expiring':
        return void this.renew().catch((error) => this.emit('error', error));
      case 'server_draining':
        this.#away = data.retry_after_ms;
        return this.emit('server_draining', data);
      case 'error':
        return this.emit('error', data);
      case 'outbid':
        return this.#outbid(data);
      default: {
        const lot = this.#lots.get(data?.auction_id);
        return lot ? lot.take(event, data) : this.#elsewhere(event, data);
      }
    }
  }

  /**
   * A bid of the person was overtaken. It is news for the person and changes nothing that a lot knows: the update that
   * shows it follows.
   * @param {any} data
   */
  #outbid(data) {
    const lot = this.#lots.get(data.auction_id);
    if (lot?.state && data.seq < lot.state.seq) return;
    lot?.emit('outbid', data);
    this.emit('outbid', data);
  }

  /**
   * The end of an auction that is not joined, in which the person has bid.
   * @param {string} event
   * @param {any} data
   */
  #elsewhere(event, data) {
    if (['auction_ended', 'auction_cancelled'].includes(event)) this.emit(event, data);
  }
}

/**
 * Connects, and stays connected until `close()`.
 * @param {Options} options
 * @returns {Client}
 */
export function connect(options) {
  return new Client(options);
}
