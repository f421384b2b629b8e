/**
 * The list of lots: search, category, state and order. The server's order and search are asked for, and applied here
 * as well, for servers that do not know them yet.
 */

import { el, fill, icon, keyed, show, setText } from '../dom.js';
import { fromWire } from '../money.js';
import { empty } from '../shell.js';
import { failureText, t } from '../text.js';
import { countdowns, lotCard, repeating, serverClock, skeletons } from './parts.js';

/** Lots asked for at once, the most that are shown, and the pause between two looks, in milliseconds. */
const AT_ONCE = 100;
const MAX_SHOWN = 300;
const REFRESH_MS = 5_000;
/** Pause after a key press before the search is asked for, in milliseconds. */
const TYPING_MS = 250;

const ORDERS = {
  ending: (/** @type {any} */ a, /** @type {any} */ b) => Date.parse(a.end_time) - Date.parse(b.end_time),
  newest: (/** @type {any} */ a, /** @type {any} */ b) => Date.parse(b.created_at) - Date.parse(a.created_at),
  price: (/** @type {any} */ a, /** @type {any} */ b) => priceNow(a) - priceNow(b),
};

/** @param {any} auction */
const priceNow = (auction) => fromWire(auction.current_high_bid ?? auction.starting_bid) ?? 0;

/** When an auction opens; after all others if it waits for something else. @param {any} auction */
const startOf = (auction) => (auction.starts_at ? Date.parse(auction.starts_at) : Number.MAX_SAFE_INTEGER);

/** @param {import('../main.js').App} app */
export function lotsView(app) {
  const times = countdowns(serverClock(app.api));
  const search = el('input', { type: 'search', placeholder: t('lots.search'), 'aria-label': t('lots.search') });
  const category = el('select', { 'aria-label': t('lots.category') }, option('', t('lots.categories')));
  const status = el('select', { 'aria-label': t('lots.status') }, option('live', t('lots.live')));
  status.append(option('scheduled', t('lots.scheduled')), option('closed', t('lots.closed')));
  const order = el('select', { 'aria-label': t('lots.order') });
  for (const key of Object.keys(ORDERS)) order.append(option(key, t(`lots.order.${key}`)));
  const list = el('ul', { class: 'cards' });
  const notice = el('div', { class: 'notice', hidden: true });
  const count = el('p', { class: 'hint', role: 'status' });
  const more = el('button', { type: 'button', text: t('lots.more'), hidden: true });
  const form = el(
    'form',
    { class: 'filters', role: 'search' },
    el('div', { class: 'search' }, icon('search'), search),
    category,
    status,
    order,
  );
  const heading = el('h1', { tabindex: -1, text: t('lots.title') });
  const listTitle = el('h2', { class: 'unseen', text: t('lots.list') });
  const top = el('div', { class: 'title-row' }, heading, count);
  const node = el('div', { class: 'wide' }, top, form, notice, listTitle, list, more);
  skeletons(list, 8);

  /** @type {any[] | null} */
  let auctions = null;
  let total = 0;
  let wanted = AT_ONCE;

  const draw = () => {
    if (!auctions) return;
    const words = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (/** @type {any} */ one) => {
      const text = `${one.title} ${one.description ?? ''} ${one.category ?? ''}`.toLowerCase();
      return words.every((/** @type {string} */ word) => text.includes(word));
    };
    const shown = auctions.filter((one) => matches(one) && (!category.value || one.category === category.value));
    if (status.value === 'closed') shown.sort((a, b) => Date.parse(b.ended_at ?? 0) - Date.parse(a.ended_at ?? 0));
    else if (status.value === 'scheduled') shown.sort((a, b) => startOf(a) - startOf(b));
    else shown.sort(ORDERS[/** @type {keyof typeof ORDERS} */ (order.value)]);
    if (list.querySelector('.bones')) fill(list);
    times.clear();
    const create = (/** @type {any} */ one) => lotCard(one, `#/lot/${one.auction_id}`, times);
    keyed(
      list,
      shown,
      (one) => one.auction_id,
      create,
      (card, one) => card.update(one),
    );
    times.draw();
    show(order, status.value === 'live');
    show(more, total > auctions.length && auctions.length < MAX_SHOWN);
    const isPart = total > auctions.length;
    setText(count, t(isPart ? 'lots.part' : 'lots.count', { count: shown.length, total }));
    drawCategories(category, auctions);
    drawEmpty(shown.length);
  };

  const drawEmpty = (/** @type {number} */ shown) => {
    show(notice, shown === 0);
    if (shown > 0) return;
    const isFiltered = search.value || category.value;
    const sell = el('a', { class: 'button', href: '#/sell/new', text: t('lots.sell') });
    const key = isFiltered ? 'lots.none' : 'lots.empty';
    fill(notice, empty(t(key), t(`${key}.text`), !isFiltered && sell));
  };

  const load = async (/** @type {() => boolean} */ isCurrent) => {
    try {
      const found = [];
      for (let offset = 0; offset < wanted; offset += AT_ONCE) {
        const query = new URLSearchParams({ status: status.value, limit: String(AT_ONCE), offset: String(offset) });
        query.set('sort', order.value);
        if (search.value.trim()) query.set('q', search.value.trim());
        const page = await app.api.get(`/auctions?${query}`, { isPublic: true });
        if (!isCurrent()) return;
        found.push(...page.auctions);
        total = page.total;
        if (page.auctions.length < AT_ONCE) break;
      }
      auctions = found;
      draw();
    } catch (/** @type {any} */ error) {
      if (!isCurrent()) return;
      if (auctions) setText(count, t('lots.stale'));
      else {
        fill(list);
        const again = el('button', { type: 'button', text: t('again'), onclick: () => loading.now() });
        show(notice, true);
        fill(notice, empty(t('lots.failed'), failureText(error), again));
      }
    }
  };

  form.addEventListener('submit', (/** @type {Event} */ event) => event.preventDefault());
  search.addEventListener('input', () => {
    draw();
    loading.later(TYPING_MS);
  });
  category.addEventListener('change', draw);
  order.addEventListener('change', () => {
    draw();
    void loading.now();
  });
  status.addEventListener('change', () => loading.now());
  more.addEventListener('click', () => {
    wanted = Math.min(MAX_SHOWN, wanted + AT_ONCE);
    void loading.now();
  });
  const loading = repeating(load, REFRESH_MS);
  return {
    node,
    title: t('lots.title'),
    close() {
      loading.stop();
      times.stop();
    },
  };
}

/**
 * @param {string} value
 * @param {string} text
 */
function option(value, text) {
  return el('option', { value, text });
}

/**
 * @param {any} select
 * @param {any[]} auctions
 */
function drawCategories(select, auctions) {
  const known = new Set([...select.options].map((/** @type {any} */ one) => one.value));
  const found = new Set(auctions.map((one) => one.category).filter(Boolean));
  for (const name of [...found].sort()) if (!known.has(name)) select.append(option(name, name));
}
