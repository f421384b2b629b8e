/**
 * The auctions a person has bid in: outbid, winning, won and lost, with a bid button in the row.
 */

import { el, fill, keyed, said, setAttribute, setText, show, uuid } from '../dom.js';
import { fromWire, toWire } from '../money.js';
import { empty, say } from '../shell.js';
import { failureText, money, t } from '../text.js';
import { countdowns, picture, repeating, serverClock, skeletons } from './parts.js';

/** Own bids that are read, and auctions that are asked for where the bids lack their state. */
const BIDS = 100;
const MAX_ASKED = 30;
const REFRESH_MS = 4_000;
/** Sections in the order in which they matter. */
const SECTIONS = ['outbid', 'winning', 'won', 'lost', 'over'];

/**
 * One row for each auction, from its newest own bid.
 * @param {any[]} bids newest first
 */
export function rowsOf(bids) {
  /** @type {Map<string, any>} */
  const rows = new Map();
  for (const bid of bids) if (!rows.has(bid.auction_id)) rows.set(bid.auction_id, bid);
  return [...rows.values()];
}

/** @param {import('../main.js').App} app */
export function mineView(app) {
  const times = countdowns(serverClock(app.api));
  const heading = el('h1', { tabindex: -1, text: t('nav.mine') });
  const notice = el('div', { class: 'notice', hidden: true });
  const sections = SECTIONS.map((name) => {
    const list = el('ul', { class: 'rows' });
    const title = el('h2', {});
    return { name, list, title, node: el('section', { hidden: name !== 'outbid' }, title, list) };
  });
  const node = el('div', { class: 'wide narrow' }, heading, notice, ...sections.map((section) => section.node));
  skeletons(sections[0].list, 3);
  /** @type {Map<string, any>} */
  const auctions = new Map();

  const load = async (/** @type {() => boolean} */ isCurrent) => {
    try {
      const { bids } = await app.api.get(`/bids?limit=${BIDS}`);
      const rows = rowsOf(bids);
      await complete(app, rows, auctions);
      if (isCurrent()) draw(rows);
    } catch (/** @type {any} */ error) {
      if (!isCurrent()) return;
      show(notice, true);
      const again = el('button', { type: 'button', text: t('again'), onclick: () => loading.now() });
      fill(notice, el('p', { class: 'field-error', text: failureText(error) }), again);
      for (const section of sections) section.list.querySelector('.bones') && show(section.node, false);
    }
  };

  const draw = (/** @type {any[]} */ rows) => {
    times.clear();
    for (const { name, list, title, node: section } of sections) {
      const own = rows.filter((row) => sectionOf(row) === name);
      if (list.querySelector('.bones')) fill(list);
      show(section, own.length > 0);
      setText(title, `${t(`mine.${name}`)} · ${own.length}`);
      const create = (/** @type {any} */ row) => bidRow(app, row, name, times, () => loading.now());
      keyed(
        list,
        own,
        (row) => row.auction_id,
        create,
        (item, row) => item.update(row),
      );
    }
    times.draw();
    show(notice, rows.length === 0);
    const home = el('a', { class: 'button', href: '#/', text: t('missing.home') });
    if (rows.length === 0) fill(notice, empty(t('mine.none'), t('mine.none.text'), home));
  };
  const loading = repeating(load, REFRESH_MS);
  return {
    node,
    title: t('nav.mine'),
    close() {
      loading.stop();
      times.stop();
    },
  };
}

/** @param {any} row */
function sectionOf(row) {
  return SECTIONS.includes(row.status) ? row.status : 'over';
}

/**
 * Adds price, end and lowest bid to rows that lack them: servers of the first version send only the bid.
 * @param {import('../main.js').App} app
 * @param {any[]} rows
 * @param {Map<string, any>} known auctions that are over, which do not change
 */
async function complete(app, rows, known) {
  const lacking = rows.filter((row) => row.minimum_bid === undefined).slice(0, MAX_ASKED);
  const ask = async (/** @type {any} */ row) => {
    const found = known.get(row.auction_id) ?? (await auctionOf(app, row.auction_id));
    if (!found) return;
    if (['closed', 'cancelled'].includes(found.status)) known.set(row.auction_id, found);
    const { end_time, minimum_bid, current_high_bid, winning_bid, currency } = found;
    Object.assign(row, { end_time, minimum_bid, current_high_bid, winning_bid, currency });
    row.auction_status = found.status;
  };
  await Promise.all(lacking.map(ask));
}

/**
 * @param {import('../main.js').App} app
 * @param {string} id
 */
function auctionOf(app, id) {
  return app.api.get(`/auctions/${id}`, { isPublic: true }).catch(() => null);
}

/**
 * @param {import('../main.js').App} app
 * @param {any} first
 * @param {string} section
 * @param {ReturnType<typeof countdowns>} times
 * @param {() => Promise<void>} reload
 */
function bidRow(app, first, section, times, reload) {
  let row = first;
  const label = el('span', { class: 'card-label' });
  const price = el('strong', { class: 'card-price' });
  const own = el('span', { class: 'hint' });
  const time = el('span', { class: 'card-time' });
  const button = el('button', { class: 'primary small', type: 'button' });
  const error = el('p', { class: 'field-error', role: 'alert' });
  const link = el('a', { class: 'card-link', href: `#/lot/${row.auction_id}` }, said(row.title ?? row.auction_title));
  const image = picture({ auction_id: row.auction_id, image_url: row.image_url ?? row.auction_image });
  const text = el(
    'div',
    { class: 'row-text' },
    el('h3', {}, link),
    el('p', { class: 'row-price' }, label, price),
    own,
    time,
    error,
  );
  const node = el('li', { class: 'row', data: { section } }, image, text, section === 'outbid' && button);
  let isSending = false;

  button.addEventListener('click', async () => {
    const cents = fromWire(row.minimum_bid);
    if (isSending || cents === null) return;
    isSending = true;
    drawButton();
    try {
      const body = { auction_id: row.auction_id, amount: toWire(cents), bid_id: uuid() };
      await app.api.postSurely('/bids', body);
      say(t('bid.accepted', { price: money(cents, row.currency) }));
    } catch (/** @type {any} */ failure) {
      const minimum = fromWire(failure.data?.minimum_bid);
      if (minimum !== null) row.minimum_bid = failure.data.minimum_bid;
      setText(error, failureText(failure, { price: money(minimum ?? cents, row.currency) }));
    }
    isSending = false;
    await reload();
  });
  const drawButton = () => {
    const shown = money(fromWire(row.minimum_bid), row.currency);
    setText(button, t(isSending ? 'button.sending' : 'button.bid', { price: shown }));
    setAttribute(button, 'aria-disabled', isSending ? 'true' : null);
    setAttribute(button, 'aria-label', t('mine.bid', { price: shown, title: row.title ?? row.auction_title ?? '' }));
  };
  const update = (/** @type {any} */ next) => {
    row = next;
    const isOver = ['closed', 'cancelled'].includes(row.auction_status) || ['won', 'lost'].includes(row.status);
    const now = fromWire(isOver ? (row.winning_bid ?? row.current_high_bid) : row.current_high_bid);
    setText(label, now === null ? '' : t(isOver ? 'price.sold' : 'price.now'));
    setText(price, now === null ? '' : money(now, row.currency));
    setText(own, t('mine.own', { price: money(fromWire(row.amount), row.currency) }));
    const end = typeof row.end_time === 'string' ? Date.parse(row.end_time) : row.end_time;
    times.set(time, isOver || !end ? null : end);
    if (isOver || !end) setText(time, row.auction_status ? t(`status.${row.auction_status}`) : '');
    drawButton();
  };
  update(row);
  return Object.assign(node, { update });
}
