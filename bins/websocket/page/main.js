/**
 * The start of the page, and its router: views by the address's hash, so that they work from static files.
 */

import { raise, setTitle } from './alerts.js';
import { Api } from './api.js';
import { el, fill, said } from './dom.js';
import { Live } from './live.js';
import { Session } from './session.js';
import { alarm, buildShell, empty, signInOrExplain, toast } from './shell.js';
import { language, money, t } from './text.js';
import { consoleView } from './views/console.js';
import { createView } from './views/create.js';
import { lotView } from './views/lot.js';
import { lotsView } from './views/lots.js';
import { mineView } from './views/mine.js';
import { sellView } from './views/sell.js';

/**
 * @typedef {object} App
 * @property {any} config the content of `/config.json`
 * @property {Session} session
 * @property {Api} api
 * @property {Live} live
 * @property {Set<string>} features what the server can do beyond the first version
 */

/** @typedef {{node: HTMLElement, title: string, close?: () => void}} View */

/**
 * An auction as an announcement needs it.
 * @typedef {{id: string, auction: any, price: number | null, result: number | null, isViewed: boolean}} Announced
 */

/** Characters of a title in announcements. */
const MAX_TITLE = 60;
const UUID = '([0-9a-fA-F-]{36})';
/** Views by address. Those marked `isPersonal` need a person who is signed in. */
const ROUTES = [
  { path: /^#\/$/, view: lotsView },
  { path: new RegExp(`^#/lot/${UUID}$`), view: lotView },
  { path: /^#\/mine$/, view: mineView, isPersonal: true },
  { path: /^#\/sell$/, view: sellView, isPersonal: true },
  { path: /^#\/sell\/new$/, view: createView, isPersonal: true },
  { path: new RegExp(`^#/sell/${UUID}$`), view: consoleView, isPersonal: true },
];

async function start() {
  document.documentElement.lang = language;
  const main = /** @type {HTMLElement} */ (document.querySelector('main'));
  // Without a configuration everything that needs no account works.
  /** @type {any} */
  const config = await fetch('/config.json', { cache: 'no-cache' })
    .then((answer) => (answer.ok ? answer.json() : {}))
    .catch(() => ({}));
  const session = new Session(config);
  const signedIn = await session.finish();
  const api = new Api(session);
  const live = new Live(session, api);
  const app = { config, session, api, live, features: new Set(config.features ?? []) };
  const shell = buildShell(app, main);
  if (signedIn === 'failed') toast(t('account.failed'), { tone: 'bad' });

  /** @type {View | null} */
  let shown = null;
  let isFirst = true;
  const draw = () => {
    const hash = /^#\//.test(location.hash) ? location.hash : '#/';
    shell.mark(hash);
    shown?.close?.();
    shown = viewOf(app, hash);
    fill(main, shown.node);
    setTitle(shown.title);
    scrollTo(0, 0);
    // A new view begins at its heading, for the keyboard and for screen readers; the first one where the page begins.
    if (!isFirst) /** @type {HTMLElement | null} */ (main.querySelector('h1'))?.focus({ preventScroll: true });
    isFirst = false;
  };
  addEventListener('hashchange', draw);
  session.addEventListener('change', () => {
    if (session.isExpired) {
      toast(t('account.expired'), { tone: 'bad', isLasting: true });
      alarm(t('account.expired'));
    }
    draw();
  });
  live.addEventListener('turn', (event) => announce(/** @type {CustomEvent} */ (event).detail));
  draw();
}

/**
 * @param {App} app
 * @param {string} hash
 * @returns {View}
 */
function viewOf(app, hash) {
  for (const { path, view, isPersonal } of ROUTES) {
    const match = path.exec(hash);
    if (!match) continue;
    if (isPersonal && !app.session.user) return signInView(app);
    return view(app, match[1]?.toLowerCase());
  }
  const home = el('a', { class: 'button', href: '#/', text: t('missing.home') });
  return page(t('missing.title'), empty(t('missing.heading'), t('missing.text'), home));
}

/** @param {App} app */
function signInView(app) {
  const button = el('button', { class: 'primary', type: 'button', text: t('account.signin') });
  button.addEventListener('click', () => signInOrExplain(app.session));
  const text = app.session.isExpired ? t('account.expired') : t('account.why');
  return page(t('account.signin'), empty(t('account.needed'), text, button));
}

/**
 * @param {string} title
 * @param {...any} content
 */
function page(title, ...content) {
  const heading = el('h1', { class: 'unseen', tabindex: -1, text: title });
  return { title, node: el('div', { class: 'wide' }, heading, ...content) };
}

/**
 * Announces that the person took the lead, lost it, won or lost, wherever in the page they are.
 * @param {{room: Announced, turn: 'leading' | 'outbid' | 'won' | 'lost'}} news
 */
function announce({ room, turn }) {
  const title = shortened(room.auction?.title ?? t('lot.untitled'));
  const price = money(turn === 'won' || turn === 'lost' ? room.result : room.price, room.auction?.currency);
  const text = t(`turn.${turn}`, { price, title });
  raise(turn, { id: room.id, text, title });
  if (turn === 'leading') return;
  alarm(text);
  if (room.isViewed) return;
  const tone = turn === 'won' ? 'good' : 'bad';
  toast(text, { tone, href: `#/lot/${room.id}`, action: t('turn.open'), isSilent: true });
}

/** @param {string} text */
function shortened(text) {
  return text.length <= MAX_TITLE ? text : `${text.slice(0, MAX_TITLE)}…`;
}

start().catch((error) => {
  const main = document.querySelector('main');
  if (main) fill(main, empty(t('missing.title'), t('error.unknown'), said(error.message)));
});
