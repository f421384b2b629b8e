/**
 * The one connection to the edge that all views share, and the rooms that are open on it.
 */

import { connect } from '/client.js';
import { fromWire } from './money.js';
import { Room } from './room.js';

/** Rooms that are kept open after their view was left, because the person has bid there: the oldest are left first. */
const MAX_KEPT = 20;
/**
 * Time without a connection after which the client is replaced, in milliseconds, and its spread. Longer than the
 * longest pause of the client, which itself waits for a handshake that is never answered.
 */
const REPLACE_AFTER_MS = 15_000;
const REPLACE_SPREAD_MS = 5_000;

export class Live extends EventTarget {
  /** @type {import('../src/client.js').Client | null} */
  #client = null;
  /** @type {Map<string, Room>} */
  #rooms = new Map();
  /** `connecting`, `connected`, `lost`, or `none`: the edge takes no connection from this person. */
  link = 'connecting';
  /** @type {any} */
  #watch = null;
  /** Whether the token was renewed because the edge refused it, and it has taken none since. */
  #isRenewed = false;

  /**
   * @param {import('./session.js').Session} session
   * @param {import('./api.js').Api} api
   */
  constructor(session, api) {
    super();
    this.session = session;
    this.api = api;
    session.addEventListener('change', () => this.#restart());
    // A tab that was asleep, or a network that is back: do not wait for the pause to end.
    addEventListener('online', () => ['lost', 'connecting'].includes(this.link) && this.#restart());
  }

  /** Present time by the client's measurements; null without a connection. */
  serverNow() {
    return this.#client && this.link === 'connected' ? this.#client.serverNow() : null;
  }

  /**
   * Opens the room of an auction, or takes the one that is open.
   * @param {string} id
   */
  open(id) {
    const room = this.#rooms.get(id) ?? new Room(id, this);
    this.#rooms.delete(id);
    this.#rooms.set(id, room);
    room.isViewed = true;
    if (!this.#client) this.#start();
    else room.attach(this.#client);
    return room;
  }

  /**
   * Leaves the view of a room. It stays open while the person takes part in it, so that an outbid is noticed.
   * @param {Room} room
   */
  leave(room) {
    room.isViewed = false;
    const kept = [...this.#rooms.values()].filter((other) => !other.isViewed);
    const over = kept.filter((other) => !other.isFollowed);
    for (const other of [...over, ...kept.filter((one) => one.isFollowed).slice(0, -MAX_KEPT)]) {
      other.close();
      this.#rooms.delete(other.id);
    }
  }

  /** @param {Room} room */
  report(room, /** @type {string} */ turn) {
    this.dispatchEvent(new CustomEvent('turn', { detail: { room, turn } }));
  }

  /**
   * Reports a turn in an auction whose room is not open.
   * @param {'outbid' | 'won' | 'lost'} turn
   * @param {any} data
   */
  async #elsewhere(turn, data) {
    const id = data.auction_id;
    if (this.#rooms.has(id)) return;
    const auction = await this.api.get(`/auctions/${id}`, { isPublic: true }).catch(() => null);
    const [price, result] = [fromWire(data.high_bid), fromWire(data.winning_bid)];
    const room = { id, auction, price, result, isViewed: false };
    if (!this.#rooms.has(id)) this.dispatchEvent(new CustomEvent('turn', { detail: { room, turn } }));
  }

  #start() {
    const client = connect({ token: () => this.session.token() });
    this.#client = client;
    const set = (/** @type {string} */ link) => {
      if (client !== this.#client) return;
      this.link = link;
      if (link === 'lost') this.#replaceLater();
      for (const room of this.#rooms.values()) room.linkChanged();
      this.dispatchEvent(new Event('link'));
    };
    client.on('connected', (data) => {
      for (const room of this.#rooms.values()) room.clock.see(data.server_time, Date.now());
      this.#isRenewed = false;
      set('connected');
    });
    client.on('outbid', (data) => {
      if (client === this.#client) void this.#elsewhere('outbid', data);
    });
    client.on('auction_ended', (data) => {
      if (client === this.#client && data.outcome === 'sold') void this.#elsewhere(data.you_won ? 'won' : 'lost', data);
    });
    client.on('disconnected', () => set('lost'));
    client.on('error', () => this.link === 'connecting' && set('lost'));
    client.on('unauthenticated', () => {
      // Without a token: this edge lets no one watch over a socket who is not signed in. The rooms ask over HTTP.
      if (client !== this.#client) return;
      if (this.session.user) return void this.#renew();
      set('none');
    });
    this.link = 'connecting';
    this.#replaceLater();
    for (const room of this.#rooms.values()) room.attach(client);
  }

  /** The edge refuses the token. It may have ended unnoticed, as after a change of this machine's clock. */
  async #renew() {
    if (this.#isRenewed) return this.session.expire();
    this.#isRenewed = true;
    try {
      await this.session.token(true);
      this.#restart();
    } catch {
      this.#isRenewed = false;
      this.link = 'lost';
      this.#replaceLater();
    }
  }

  #replaceLater() {
    clearTimeout(this.#watch);
    const after = REPLACE_AFTER_MS + REPLACE_SPREAD_MS * Math.random();
    this.#watch = setTimeout(() => {
      if (!['lost', 'connecting'].includes(this.link)) return;
      // A bid that is on its way is sent again by its own client.
      if ([...this.#rooms.values()].some((room) => room.sending !== null)) this.#replaceLater();
      else this.#restart();
    }, after);
  }

  #restart() {
    clearTimeout(this.#watch);
    const before = this.#client;
    this.#client = null;
    before?.close();
    if (this.#rooms.size > 0) this.#start();
  }
}
