/**
 * A host's own auctions: running and past ones, and the way to a new one.
 */

import { el, fill, icon, keyed, show, setText } from '../dom.js';
import { empty } from '../shell.js';
import { failureText, t } from '../text.js';
import { countdowns, lotCard, repeating, serverClock, skeletons } from './parts.js';

const REFRESH_MS = 5_000;
/** Own auctions that are shown. */
const SHOWN = 100;

/** @param {import('../main.js').App} app */
export function sellView(app) {
  const times = countdowns(serverClock(app.api));
  const create = el('a', { class: 'button primary', href: '#/sell/new' }, icon('plus'), t('sell.new'));
  const heading = el('h1', { tabindex: -1, text: t('sell.title') });
  const notice = el('div', { class: 'notice', hidden: true });
  const running = el('ul', { class: 'cards' });
  const past = el('ul', { class: 'cards' });
  const runningTitle = el('h2', { text: t('sell.running') });
  const pastTitle = el('h2', { text: t('sell.past') });
  const top = el('div', { class: 'title-row' }, heading, create);
  const node = el('div', { class: 'wide' }, top, notice, runningTitle, running, pastTitle, past);
  show(pastTitle, false);
  skeletons(running, 4);

  const load = async (/** @type {() => boolean} */ isCurrent) => {
    try {
      const host = app.session.user?.id ?? '';
      const { auctions } = await app.api.get(`/auctions?host=${host}&limit=${SHOWN}`, { isPublic: true });
      if (isCurrent()) draw(auctions);
    } catch (/** @type {any} */ error) {
      if (!isCurrent()) return;
      show(notice, true);
      fill(notice, el('p', { class: 'field-error', text: failureText(error) }));
    }
  };

  const draw = (/** @type {any[]} */ auctions) => {
    if (running.querySelector('.bones')) fill(running);
    times.clear();
    const isRunning = (/** @type {any} */ one) => !['closed', 'cancelled'].includes(one.status);
    const lists = [
      { list: running, title: runningTitle, own: auctions.filter(isRunning) },
      { list: past, title: pastTitle, own: auctions.filter((one) => !isRunning(one)) },
    ];
    for (const { list, title, own } of lists) {
      show(title, own.length > 0);
      const make = (/** @type {any} */ one) => {
        return lotCard(one, isRunning(one) ? `#/sell/${one.auction_id}` : `#/lot/${one.auction_id}`, times);
      };
      keyed(
        list,
        own,
        (one) => one.auction_id,
        make,
        (card, one) => card.update(one),
      );
    }
    times.draw();
    setText(heading, t('sell.title'));
    show(notice, auctions.length === 0);
    const first = el('a', { class: 'button primary', href: '#/sell/new', text: t('sell.new') });
    if (auctions.length === 0) fill(notice, empty(t('sell.none'), t('sell.none.text'), first));
    show(create, auctions.length > 0);
  };
  const loading = repeating(load, REFRESH_MS);
  return {
    node,
    title: t('sell.title'),
    close() {
      loading.stop();
      times.stop();
    },
  };
}
