/** Types of `/client.js`. The data of events and answers is described in CONTRACT.md, Real time. */

export interface Options {
  /**
   * Returns a token that is valid now, or undefined to watch without one; called before each connection and before the
   * present token expires.
   */
  token: () => string | undefined | Promise<string | undefined>;
  /** The address of the edge; by default the one that the module was loaded from. */
  url?: string;
  /** Another implementation than the browser's. */
  WebSocket?: typeof WebSocket;
}

/** A bid as all clients see it. */
export interface Bid {
  seq: number;
  bid_id: string;
  user_id: string;
  /** Maybe an alias, also of the own person: compare ids. */
  username: string;
  amount: number;
  /** Milliseconds since 1970. */
  timestamp: number;
  kind: string;
}

/** The live state of an auction, and the fields of later versions. */
export interface State {
  status: string;
  seq: number;
  /** Milliseconds since 1970; null while there is no end. */
  end_time: number | null;
  [field: string]: any;
}

/** The data of `outbid`: a bid of the person was overtaken. */
export interface Outbid {
  auction_id: string;
  seq: number;
  /** The person's last bid. */
  your_bid: number;
  high_bid: number;
  minimum_bid: number;
}

export type Listener = (data: any) => void;

declare class Emitter {
  /** Listens to an event. Returns a function that stops listening. */
  on(event: string, listener: Listener): () => void;
  emit(event: string, data: any): void;
}

/**
 * One auction that the client has joined. Emits `change` after each change of `state`, `bids` with the new bids (each
 * bid once), `ended` with the last state (once), and every event of the auction by its own name.
 */
export class Lot extends Emitter {
  constructor(client: Client, id: string);
  client: Client;
  id: string;
  /** The newest known state; null before the first answer. */
  state: State | null;
  /** The seq of the last bid that was emitted. */
  seenSeq: number;
  /** The time until the end, by the server's clock; null while there is no end. */
  remaining(): { ms: number; confirming: boolean } | null;
  /** Places a bid, and sends it again with the same id until its outcome is known. */
  bid(amount: string | number, options?: { bid_id?: string }): Promise<any>;
  say(message: string): Promise<any>;
  /** Leaves the auction. */
  leave(): void;
  take(event: string, data: any): void;
}

/**
 * The connection. Emits `connected` (`user_id` is null without a token), `disconnected`, `unauthenticated` (several
 * tokens in a row were rejected, or the server lets no one watch without one: the client is closed then), and `error`.
 * It emits `outbid` of every auction in which the person has bid, joined or not, and of those not joined also
 * `auction_ended` and `auction_cancelled`.
 */
export class Client extends Emitter {
  constructor(options: Options);
  options: Options;
  /** The server's clock, in milliseconds since 1970. */
  serverNow(): number;
  /** Joins an auction, and joins it again after each reconnect. */
  join(id: string): Lot;
  leave(id: string): void;
  /** Closes the connection for good. */
  close(): void;
  /**
   * Shows the server a token that is asked for anew. A connection that watched without one becomes that of the person.
   * Resolves with `expires_at`, or with `code` and `error`.
   */
  renew(): Promise<any>;
  /** Sends a request and resolves with the data of its answer. Rejects if the connection ends first. */
  request(event: string, data: object): Promise<any>;
}

/** Connects, and stays connected until `close()`. */
export function connect(options: Options): Client;
