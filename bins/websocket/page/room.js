/**
 * One auction as the page knows it: live state, bids, chat and people, over the socket or, where the edge takes none
 * from this person, by asking for the state again and again. Emits `change`; draws nothing.
 */

import { LeadWatch } from './lead.js';
import { Clock } from './countdown.js';
import { withMessage, withNewest } from './messages.js';
import { fromWire, toWire } from './money.js';
import { uuid } from './dom.js';

/** Bids and people that are kept: as many as a person scrolls through. */
const MAX_BIDS = 100;
const MAX_PEOPLE = 50;
/** Pause between two questions for the state, in a visible and in a hidden tab, in milliseconds. */
const POLL_MS = 2_000;
const POLL_HIDDEN_MS = 15_000;
/** Time without a connection after which the state is asked for, in milliseconds: a network may block sockets. */
const WITHOUT_SOCKET_MS = 4_000;
/** Pause before a refused join is tried again, in milliseconds. */
const JOIN_AGAIN_MS = 3_000;
/** Difference from the client's clock at which this one is believed, in milliseconds: the client has none yet. */
const CLOCK_DIFFERS_MS = 1_000;
/** Time for which an extension is announced, in milliseconds. */
const EXTENDED_FOR_MS = 6_000;

export class Room extends EventTarget {
  /** The auction object, with what the live state lacks. @type {any} */
  auction = null;
  /** The live state. @type {any} */
  state = null;
  /** Newest first. @type {any[]} */
  bids = [];
  /** Oldest first. @type {any[]} */
  messages = [];
  /** Names by user id, of people that came while this page watched. @type {Map<string, string>} */
  people = new Map();
  /** Code of the failure that keeps the auction from being shown. @type {string | null} */
  failure = null;
  /** The bid that is on its way, in cents. @type {number | null} */
  sending = null;
  /** How far the auction bids for this person, as far as it is known, in cents. @type {number | null} */
  #maximum = null;
  /** The newest extension; its count is 0 for time that an outage has cost. @type {{ms: number, count: number, until: number} | null} */
  extended = null;
  clock = new Clock();
  isViewed = false;
  isPolling = false;
  #lead = new LeadWatch();
  /** @type {import('../src/client.js').Lot | null} */
  #lot = null;
  /** @type {(() => void)[]} */
  #off = [];
  /** @type {any} */ #timer = null;
  /** The person that the lead is watched for. @type {string | null} */
  #person = null;
  #isClosed = false;
  #isStale = true;
  /** @type {any} */ #waiting = null;

  /** @param {string} id @param {import('./live.js').Live} live */
  constructor(id, live) {
    super();
    this.id = id;
    this.live = live;
    void this.load();
  }

  get me() {
    return this.live.session.user?.id ?? null;
  }

  get isHost() {
    const host = this.state?.host_user_id ?? this.auction?.host_user_id;
    return this.me !== null && host === this.me;
  }

  get isLeading() {
    return this.me !== null && this.state?.high_bidder_id === this.me;
  }

  get hasBid() {
    return this.me !== null && this.#lead.hasBid;
  }

  get isOver() {
    return ['closed', 'cancelled'].includes(this.state?.status);
  }

  /** Whether the room stays open when its view is left. */
  get isFollowed() {
    return this.hasBid && !this.isOver;
  }

  /** Whether bids can be placed, on a price that is the newest. */
  get isConnected() {
    return this.live.link === 'connected' && !this.#isStale;
  }

  /** The step, in cents. */
  get step() {
    return fromWire(this.auction?.bid_increment) ?? 100;
  }

  /** How far the auction bids for this person, in cents: while they lead, or when it opens. Null where not known. */
  get maximum() {
    return this.state?.status === 'scheduled' || (this.isLeading && !this.isOver) ? this.#maximum : null;
  }

  /** The lowest allowed bid, in cents. */
  get minimum() {
    return fromWire(this.state?.minimum_bid);
  }

  /** The price now, in cents; null before the first bid. */
  get price() {
    return fromWire(this.state?.current_high_bid);
  }

  /** The price that it was sold for, in cents. */
  get result() {
    return fromWire(this.state?.winning_bid ?? this.auction?.winning_bid);
  }

  /** Whether the host streams; null while that is not known. @returns {boolean | null} */
  get isStreaming() {
    return this.state?.stream_live ?? this.auction?.stream_live ?? null;
  }

  /** The server's clock. */
  now() {
    const own = Date.now() + this.clock.offset();
    const measured = this.live.serverNow();
    if (measured === null || (this.clock.isKnown && Math.abs(measured - own) > CLOCK_DIFFERS_MS)) return own;
    return measured;
  }

  /** As the client's `remaining()`, and while the state is asked for as well. */
  remaining() {
    const { status, end_time: end } = this.state ?? {};
    if (status !== 'live' || typeof end !== 'number') return null;
    const ms = Math.max(0, end - this.now());
    return { ms, isConfirming: ms === 0 };
  }

  /** Time until a scheduled auction opens, in milliseconds; null for another one, or one without a time. */
  untilStart() {
    const { starts_at } = this.auction ?? {};
    if (this.state?.status !== 'scheduled' || !starts_at) return null;
    return Math.max(0, Date.parse(starts_at) - this.now());
  }

  /** Reads a part of the auction, as its host or as anyone. @param {string} path @returns {Promise<any>} */
  #read(path) {
    return this.live.api.get(`/auctions/${this.id}${path}`, { isPublic: !this.isHost });
  }

  /** Reads the auction object. */
  async load() {
    try {
      const wasHost = this.isHost;
      this.auction = await this.#read('');
      this.failure = null;
      // The first answer says who the host is, to whom the next one may show names in place of aliases.
      if (this.isHost && !wasHost) this.auction = await this.#read('');
    } catch (/** @type {any} */ error) {
      // The content that is shown stays, also if a later request fails.
      if (!this.auction) this.failure = error.code;
    }
    this.#changed();
    if (this.failure && this.failure !== 'auction_not_found' && !this.#isClosed) {
      setTimeout(() => !this.#isClosed && this.load(), JOIN_AGAIN_MS);
    }
  }

  /** @param {import('../src/client.js').Client} client */
  attach(client) {
    if (this.#lot?.client === client) return;
    this.#detach();
    const lot = client.join(this.id);
    this.#lot = lot;
    this.#isStale = true;
    // Another person may have signed in: nothing is known of the bids of this one.
    if (this.me !== this.#person) [this.#lead, this.#maximum] = [new LeadWatch(), null];
    this.#person = this.me;
    const events = {
      joined_auction: this.#joined,
      bid_update: this.#priced,
      timer_update: this.#priced,
      auction_started: this.#priced,
      auction_paused: this.#priced,
      auction_resumed: this.#priced,
      auction_ended: this.#ended,
      auction_cancelled: this.#ended,
      chat_message: this.#said,
      chat_deleted: this.#deleted,
      user_joined: this.#came,
      user_left: this.#left,
      presence_update: this.#counted,
      stream_started: () => this.#streams(true),
      stream_ended: () => this.#streams(false),
      bids: this.#bid,
      error: this.#refused,
    };
    for (const [event, take] of Object.entries(events)) this.#off.push(lot.on(event, take.bind(this)));
    this.linkChanged();
  }

  /** The connection came, went, or is not allowed for this person. */
  linkChanged() {
    const { link } = this.live;
    clearTimeout(this.#waiting);
    if (link === 'connected') this.isPolling = false;
    else if (link === 'none') this.#poll();
    else this.#waiting = setTimeout(() => this.#poll(), WITHOUT_SOCKET_MS);
    // Over a new connection the state comes with the answer to the join.
    if (!this.isPolling) this.#isStale = true;
    this.#changed();
  }

  close() {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#waiting);
    this.#lot?.leave();
    this.#detach();
  }

  #detach() {
    for (const off of this.#off.splice(0)) off();
    this.#lot = null;
  }

  /**
   * Places a bid of exactly this amount.
   * @param {number} cents
   * @param {number} [most] own maximum, in cents
   * @returns {Promise<any>} the answer
   */
  async bid(cents, most) {
    const lot = this.#lot;
    if (!lot) return { status: 'rejected', code: 'not_connected' };
    return this.#place(cents, (bid_id) => {
      if (most === undefined) return lot.bid(toWire(cents), { bid_id });
      return this.#post({ amount: toWire(cents), max_amount: toWire(most), bid_id });
    });
  }

  /** Sets the maximum that is bid for this person when the auction opens. @param {number} cents */
  setMaximum(cents) {
    return this.#place(cents, (bid_id) => this.#post({ max_amount: toWire(cents), bid_id }));
  }

  /** @param {object} bid */
  #post(bid) {
    return this.live.api.postSurely('/bids', { auction_id: this.id, ...bid });
  }

  /** @param {number} cents @param {(bid_id: string) => Promise<any>} send */
  async #place(cents, send) {
    if (this.sending !== null) return { status: 'rejected', code: 'not_connected' };
    this.sending = cents;
    this.#changed();
    const wasLeading = this.isLeading;
    try {
      const answer = await send(uuid());
      if (answer.status !== 'accepted') return answer;
      this.#lead.hasBid = true;
      if (answer.your_max_amount !== undefined) this.#own(answer.your_max_amount);
      else if (!wasLeading) this.#maximum = null;
      return answer;
    } catch (/** @type {any} */ error) {
      return { status: 'rejected', code: error.code ?? 'outcome_unknown', ...error.data };
    } finally {
      this.sending = null;
      this.#changed();
    }
  }

  /** @param {any} maximum as the server sends it */
  #own(maximum) {
    this.#maximum = fromWire(maximum);
    if (this.#maximum !== null && this.state?.status === 'scheduled') this.#lead.expect();
  }

  /** @param {string} message */
  say(message) {
    return this.#lot ? this.#lot.say(message).catch(() => ({ code: 'network' })) : Promise.resolve({ code: 'network' });
  }

  /** Sends a request of the host: `chat_delete`, `chat_mute`. @param {string} event @param {object} data */
  moderate(event, data) {
    if (!this.#lot) return Promise.resolve({ code: 'network' });
    return this.#lot.client.request(event, { auction_id: this.id, ...data }).catch(() => ({ code: 'network' }));
  }

  /** Bids before the oldest known one, from the history. */
  async loadOlder() {
    const oldest = this.bids.at(-1)?.seq;
    const query = oldest ? `?limit=50&before_seq=${oldest}` : '?limit=50';
    const { bids } = await this.#read(`/bids${query}`);
    const known = new Set(this.bids.map((bid) => bid.seq));
    this.bids.push(...bids.filter((/** @type {any} */ bid) => !known.has(bid.seq)));
    this.#changed();
    return bids.length;
  }

  #poll() {
    if (this.isPolling) return;
    this.isPolling = true;
    const again = async () => {
      if (this.#isClosed || !this.isPolling) return;
      try {
        const state = await this.#read('/state');
        if (!this.isPolling) return;
        this.#isStale = false;
        this.#joined(state);
      } catch {
        this.#isStale = true;
        this.#changed();
      }
      if (this.isOver) return;
      const pause = document.hidden ? POLL_HIDDEN_MS : POLL_MS;
      this.#timer = setTimeout(again, pause * (0.8 + 0.4 * Math.random()));
    };
    void again();
  }

  /** Whether the prices that are shown may be old. */
  get isStale() {
    return this.#isStale;
  }

  /** @param {any} data a whole live state */
  #joined(data) {
    this.#isStale = false;
    this.failure = null;
    if (data.server_time) this.clock.see(data.server_time, Date.now());
    const { recent_bids = [], chat_messages = [], missed_bids, ...state } = data;
    const before = this.state;
    this.state = { ...before, ...state };
    // A state that was asked for over HTTP does not have it.
    if (data.your_max_amount !== undefined) this.#own(data.your_max_amount);
    this.#remember(recent_bids);
    this.messages = withNewest(this.messages, chat_messages);
    this.#extension(before, this.state);
    this.#turn();
    if (this.isOver && before?.status !== this.state.status) void this.load();
  }

  /** @param {any} data */
  #priced(data) {
    if (data.server_time) this.clock.see(data.server_time, Date.now());
    const before = this.state;
    if (!before || (typeof data.seq === 'number' && data.seq < before.seq)) return;
    const { bids, sync_type, timestamp, high_bid, reason, ...state } = data;
    this.state = { ...before, ...state, ...(high_bid === undefined ? {} : { current_high_bid: high_bid }) };
    if (data.status === undefined && data.end_time && before.status === 'scheduled') this.state.status = 'live';
    this.#extension(before, this.state, reason);
    this.#turn();
    // The final tick may arrive before the end itself; the result comes with the end.
    if (this.isOver && !this.state.outcome) void this.#refresh();
  }

  /** @param {any} data */
  #ended(data) {
    const status = data.outcome === 'cancelled' ? 'cancelled' : 'closed';
    this.state = { ...this.state, ...data, status };
    this.#turn();
    void this.load();
  }

  async #refresh() {
    const state = await this.#read('/state').catch(() => null);
    if (state) this.#joined(state);
  }

  /** @param {any[]} bids oldest first */
  #bid(bids) {
    this.#remember([...bids].reverse());
    this.#changed();
  }

  /** @param {any[]} bids newest first */
  #remember(bids) {
    this.#lead.learn(bids, this.me);
    const newest = this.bids[0]?.seq ?? 0;
    const fresh = bids.filter((bid) => bid.seq > newest).slice(0, MAX_BIDS);
    const oldest = fresh.at(-1)?.seq;
    if (oldest === undefined) return;
    // After a gap the list begins again: the bids in between come from the history, if a person asks for older ones.
    const before = oldest === newest + 1 ? this.bids : [];
    this.bids = [...fresh, ...before].slice(0, MAX_BIDS);
  }

  /** @param {any} data */
  #said(data) {
    this.messages = withMessage(this.messages, data);
    this.#changed();
  }

  /** @param {any} data */
  #deleted({ message_id }) {
    this.messages = this.messages.filter((one) => one.message_id !== message_id);
    this.#changed();
  }

  /** @param {any} data */
  #came(data) {
    this.people.set(data.user_id, data.username);
    if (this.people.size > MAX_PEOPLE) this.people.delete(/** @type {string} */ (this.people.keys().next().value));
    this.#counted(data);
  }

  /** @param {any} data */
  #left(data) {
    this.people.delete(data.user_id);
    this.#counted(data);
  }

  /** @param {any} data */
  #counted({ participant_count }) {
    if (this.state) this.state = { ...this.state, participant_count };
    this.#changed();
  }

  /** @param {boolean} isLive */
  #streams(isLive) {
    this.state = { ...this.state, stream_live: isLive };
    this.#changed();
  }

  /** @param {any} data */
  #refused(data) {
    if (data.code === 'auction_not_found') this.failure = data.code;
    else if (data.code === 'room_full') this.#poll();
    else setTimeout(() => this.#lot?.client.join(this.id), JOIN_AGAIN_MS);
    this.#changed();
  }

  /** @param {any} before @param {any} after @param {string} [reason] why the auction goes on */
  #extension(before, after, reason) {
    const isExtended = before?.status === 'live' && after.extension_count > before.extension_count;
    const isOutage = reason === 'outage';
    const ms = isOutage ? after.time_remaining_ms : isExtended ? after.end_time - before.end_time : 0;
    const count = isOutage ? 0 : after.extension_count;
    if (ms > 0) this.extended = { ms, count, until: Date.now() + EXTENDED_FOR_MS };
  }

  #turn() {
    const turn = this.#lead.see(this.state, this.me);
    if (turn === 'outbid') this.#maximum = null;
    if (turn) this.live.report(this, turn);
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event('change'));
  }
}
