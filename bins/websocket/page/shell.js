/**
 * The frame of every view: header, messages, live regions, and dialogs.
 */

import { alertChoices, choose } from './alerts.js';
import { el, fill, icon, said, setAttribute, setText, show } from './dom.js';
import { t } from './text.js';

/** Least time between two polite announcements, in milliseconds. The newest replaces the ones that wait. */
const SAY_EVERY_MS = 4_000;
/** Time for which a message is shown, in milliseconds, and the number shown at once. */
const TOAST_MS = 8_000;
const MAX_TOASTS = 3;

const polite = el('div', { class: 'unseen', role: 'status' });
const assertive = el('div', { class: 'unseen', role: 'alert' });
const toasts = el('section', { class: 'toasts', 'aria-label': t('toast.label') });
let saidAt = -Infinity;
/** @type {any} */
let waiting = null;

/**
 * Announces a change that is no surprise, such as a new price.
 * @param {string} text
 */
export function say(text) {
  clearTimeout(waiting);
  const speak = () => {
    saidAt = performance.now();
    setText(polite, text);
  };
  const pause = saidAt + SAY_EVERY_MS - performance.now();
  if (pause <= 0) speak();
  else waiting = setTimeout(speak, pause);
}

/**
 * Announces at once what must not be missed.
 * @param {string} text
 */
export function alarm(text) {
  setText(assertive, '');
  setTimeout(() => setText(assertive, text), 50);
}

/**
 * Shows a message for a while.
 * @param {string} text
 * @param {{tone?: 'plain' | 'good' | 'bad', href?: string, action?: string, isSilent?: boolean,
 *   isLasting?: boolean}} [options] a link with its text; whether it is not announced; whether it stays until closed
 */
export function toast(text, { tone = 'plain', href, action, isSilent = false, isLasting = false } = {}) {
  const remove = () => note.remove();
  const note = el(
    'div',
    { class: 'toast', data: { tone } },
    el('p', {}, said(text)),
    href && el('a', { href, text: action, onclick: remove }),
    el('button', { class: 'quiet', type: 'button', 'aria-label': t('toast.close'), onclick: remove }, icon('close')),
  );
  toasts.append(note);
  while (toasts.children.length > MAX_TOASTS) toasts.firstElementChild?.remove();
  if (!isLasting) setTimeout(remove, TOAST_MS);
  if (!isSilent) say(text);
}

/**
 * Opens a modal dialog; it is removed when it closes.
 * @param {string} title
 * @param {...any} content
 */
export function openDialog(title, ...content) {
  const close = el(
    'button',
    { class: 'quiet', type: 'button', 'aria-label': t('dialog.close'), onclick: () => dialog.close() },
    icon('close'),
  );
  const heading = el('h2', { id: 'dialog-title', text: title });
  const dialog = el(
    'dialog',
    { class: 'sheet', 'aria-labelledby': 'dialog-title' },
    el('div', { class: 'sheet-head' }, heading, close),
    ...content,
  );
  // A press beside the dialog closes it.
  dialog.addEventListener('click', (/** @type {Event} */ event) => event.target === dialog && dialog.close());
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** The dialog with the alerts that may be turned on. */
function openAlerts() {
  const rows = Object.entries(alertChoices()).map(([kind, { isOn, isPossible }]) => {
    const box = el('input', { type: 'checkbox', role: 'switch', checked: isOn, disabled: !isPossible });
    box.addEventListener('change', async () => {
      const wanted = box.checked;
      box.checked = await choose(/** @type {any} */ (kind), wanted);
      setText(hint, wanted && !box.checked ? t('alerts.refused') : '');
    });
    const note = isPossible ? t(`alerts.${kind}.note`) : t('alerts.impossible');
    return el(
      'label',
      { class: 'switch' },
      el('span', {}, el('strong', { text: t(`alerts.${kind}`) }), el('small', { text: note })),
      box,
    );
  });
  const hint = el('p', { class: 'hint', role: 'status' });
  openDialog(t('alerts.title'), el('p', { class: 'hint', text: t('alerts.intro') }), ...rows, hint);
}

/**
 * Builds the page around the views.
 * @param {{session: import('./session.js').Session}} app
 * @param {HTMLElement} main the element that views are shown in
 */
export function buildShell(app, main) {
  const links = [
    ['#/', 'nav.lots'],
    ['#/mine', 'nav.mine'],
    ['#/sell', 'nav.sell'],
  ].map(([href, key]) => el('a', { href, text: t(key) }));
  const account = el('div', { class: 'account' });
  const bell = el(
    'button',
    { class: 'quiet', type: 'button', 'aria-label': t('alerts.open'), onclick: openAlerts },
    icon('bell'),
  );
  const brand = el('a', { class: 'brand', href: '#/', 'aria-label': t('app.name') }, icon('flash'));
  brand.append(el('span', { text: t('app.short') }));
  const nav = el('nav', { 'aria-label': t('nav.label') }, ...links);
  const header = el('header', { class: 'top' }, el('div', { class: 'wide' }, brand, nav, bell, account));
  const skip = el('a', { class: 'skip', href: '#main', text: t('nav.skip') });
  skip.addEventListener('click', (/** @type {Event} */ event) => {
    event.preventDefault();
    const controls = [...main.querySelectorAll('.prebid :is(button, input), .bid-button')];
    const first = controls.find((control) => !control.closest('[hidden]')) ?? main.querySelector('h1');
    /** @type {HTMLElement | null} */ (first)?.focus();
  });
  document.querySelector('header')?.remove();
  document.body.prepend(skip, header);
  document.body.append(toasts, polite, assertive);

  const drawAccount = () => {
    const user = app.session.user;
    show(bell, user !== null);
    if (!user) {
      const signIn = el('button', { class: 'small', type: 'button', text: t('account.signin') });
      signIn.addEventListener('click', () => signInOrExplain(app.session));
      return fill(account, signIn);
    }
    const open = () => {
      const leave = el('button', { type: 'button', text: t('account.signout') });
      leave.addEventListener('click', () => {
        dialog.close();
        app.session.signOut();
      });
      const dialog = openDialog(
        t('account.title'),
        el('p', {}, t('account.as'), ' ', said(user.name, 'strong')),
        leave,
      );
    };
    const label = t('account.open', { name: user.name });
    fill(account, el('button', { class: 'quiet', type: 'button', 'aria-label': label, onclick: open }, icon('person')));
  };
  drawAccount();
  app.session.addEventListener('change', drawAccount);

  return {
    /** Marks the link of the present view. @param {string} hash */
    mark(hash) {
      for (const link of links) {
        const href = link.getAttribute('href') ?? '';
        const isCurrent = href === '#/' ? hash === '#/' || hash.startsWith('#/?') : hash.startsWith(href);
        setAttribute(link, 'aria-current', isCurrent ? 'page' : null);
      }
    },
  };
}

/**
 * Starts the sign-in, or says that this server has none.
 * @param {import('./session.js').Session} session
 */
export function signInOrExplain(session) {
  if (session.isPossible) void session.signIn();
  else toast(t('account.impossible'), { tone: 'bad' });
}

/**
 * A place that stands for a list or view without content.
 * @param {string} title
 * @param {string} text
 * @param {...any} actions
 */
export function empty(title, text, ...actions) {
  return el('div', { class: 'empty' }, el('h2', { text: title }), el('p', { text }), ...actions);
}
