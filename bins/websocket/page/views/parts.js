/**
 * Pieces that several views use: pictures, times that count down, status marks, pages of a list.
 */

import { countdownText, nextChangeIn, urgency } from '../countdown.js';
import { clean, el, icon, said, setAttribute, setText } from '../dom.js';
import { fromWire } from '../money.js';
import { money, t } from '../text.js';

/** Shades of a lot without a picture. */
const SHADES = 5;

/**
 * An address that may be shown as a picture: http or https.
 * @param {any} address
 */
export function pictureAddress(address) {
  const text = clean(address);
  return /^https?:\/\//i.test(text) ? text : null;
}

/**
 * The picture of a lot, or its place.
 * @param {any} auction
 * @param {string} [alt]
 */
export function picture(auction, alt = '') {
  const shade = [...String(auction.auction_id)].reduce((sum, letter) => sum + letter.charCodeAt(0), 0) % SHADES;
  const place = el('div', { class: 'picture', data: { shade } }, icon('image'));
  const address = pictureAddress(auction.image_url ?? auction.title_image ?? auction.images?.[0]);
  if (!address) return place;
  const image = el('img', { src: address, alt, loading: 'lazy', decoding: 'async', referrerpolicy: 'no-referrer' });
  image.addEventListener('error', () => image.remove());
  place.append(image);
  return place;
}

/**
 * Keeps times up to date: one timer for all of them, which runs while the view is shown.
 * @param {() => number} now the server's clock
 */
export function countdowns(now) {
  /** @type {Map<HTMLElement, {end: number, key: string}>} */
  const times = new Map();
  /** @type {any} */
  let timer = null;
  const draw = () => {
    clearTimeout(timer);
    let next = 1_000;
    for (const [node, { end, key }] of times) {
      const left = Math.max(0, end - now());
      const isOver = left === 0;
      setText(node, isOver ? t(`${key}.confirming`) : t(`${key}.left`, { time: countdownText(left) }));
      setAttribute(node, 'data-urgency', isOver ? 'last' : urgency(left));
      if (!isOver) next = Math.min(next, nextChangeIn(left));
    }
    timer = setTimeout(draw, Math.max(100, next));
  };
  draw();
  return {
    draw,
    /**
     * @param {HTMLElement} node
     * @param {number | null} end
     * @param {'time' | 'start'} [key] beginning of the texts: until the end, or until the opening
     */
    set(node, end, key = 'time') {
      if (end === null) times.delete(node);
      else times.set(node, { end, key });
    },
    clear() {
      times.clear();
    },
    stop() {
      clearTimeout(timer);
    },
  };
}

/** The price of an auction as lists show it: with its label. @param {any} auction */
export function priceOf(auction) {
  const sold = fromWire(auction.winning_bid);
  if (auction.status === 'closed') {
    return sold === null ? { label: t('price.unsold'), cents: null } : { label: t('price.sold'), cents: sold };
  }
  const high = fromWire(auction.current_high_bid);
  if (high !== null) return { label: t('price.now'), cents: high };
  return { label: t('price.start'), cents: fromWire(auction.starting_bid) };
}

/**
 * A card of a lot, for lists. `update` brings it to a newer state of the auction.
 * @param {any} auction
 * @param {string} href
 * @param {ReturnType<typeof countdowns>} times
 */
export function lotCard(auction, href, times) {
  const price = el('strong', { class: 'card-price' });
  const label = el('span', { class: 'card-label' });
  const bids = el('span', { class: 'card-bids' });
  const time = el('span', { class: 'card-time' });
  const title = el('h3', {}, el('a', { class: 'card-link', href }, said(auction.title)));
  const node = el(
    'li',
    { class: 'card' },
    picture(auction),
    el('div', { class: 'card-body' }, title, el('p', { class: 'card-row' }, label, price), el('p', {}, time, bids)),
  );
  const update = (/** @type {any} */ next) => {
    const now = priceOf(next);
    setText(label, now.label);
    setText(price, now.cents === null ? '' : money(now.cents, next.currency));
    setText(bids, t('bids.count', { count: next.bid_count ?? 0 }));
    const isLive = next.status === 'live' && next.end_time;
    const isWaiting = next.status === 'scheduled' && next.starts_at;
    if (isWaiting) times.set(time, Date.parse(next.starts_at), 'start');
    else times.set(time, isLive ? Date.parse(next.end_time) : null);
    if (!isLive && !isWaiting) {
      setText(time, t(`status.${next.status}`));
      setAttribute(time, 'data-urgency', null);
    }
  };
  update(auction);
  return Object.assign(node, { update });
}

/** @param {HTMLElement} list @param {number} count */
export function skeletons(list, count) {
  for (let n = 0; n < count; n++) {
    const lines = el('div', { class: 'card-body' }, el('span', { class: 'bone' }), el('span', { class: 'bone short' }));
    list.append(el('li', { class: 'card bones', 'aria-hidden': 'true' }, el('div', { class: 'picture' }), lines));
  }
}

/**
 * The server's clock from `GET /time`; this machine's until it has answered.
 * @param {import('../api.js').Api} api
 */
export function serverClock(api) {
  let offset = 0;
  const sent = Date.now();
  api
    .get('/time', { isPublic: true })
    .then(({ server_time }) => (offset = server_time - (sent + Date.now()) / 2))
    .catch(() => {});
  return () => Date.now() + offset;
}

/**
 * Loads now and again and again, but not in a hidden tab. A newer load makes the answer of an older one worthless.
 * @param {(isCurrent: () => boolean) => Promise<void>} load
 * @param {number} everyMs
 */
export function repeating(load, everyMs) {
  let turn = 0;
  /** @type {any} */
  let timer = null;
  const later = (/** @type {number} */ ms) => {
    clearTimeout(timer);
    timer = setTimeout(() => (document.hidden ? later(ms) : void now()), ms);
  };
  const now = async () => {
    clearTimeout(timer);
    const mine = ++turn;
    await load(() => mine === turn);
    if (mine === turn) later(everyMs);
  };
  void now();
  return {
    now,
    later,
    stop() {
      turn++;
      clearTimeout(timer);
    },
  };
}
