/**
 * Bidding before the opening: a form for a maximum in the place of the bid button, and the maximum that is kept.
 */

import { el, icon, setAttribute, setText, show } from '../dom.js';
import { fromWire, toWire } from '../money.js';
import { prebidKind, readMaximum } from '../prebid.js';
import { say, signInOrExplain, toast } from '../shell.js';
import { failureText, money, t } from '../text.js';

/**
 * `draw` says whether the panel is shown in place of the bid button.
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 */
export function prebidPanel(app, room) {
  const amount = (/** @type {number | null} */ cents) => money(cents, room.auction?.currency);
  const least = () => fromWire(room.auction?.starting_bid) ?? 0;
  const signIn = el('button', { class: 'primary', type: 'button', text: t('prebid.signin') });
  const keptText = el('p', {});
  const change = el('button', { type: 'button', text: t('prebid.change') });
  const kept = el('div', { class: 'prebid-kept' }, icon('check'), keptText, change);
  const input = el('input', {
    id: 'prebid',
    inputmode: 'decimal',
    autocomplete: 'off',
    'aria-describedby': 'prebid-hint prebid-error',
  });
  const hint = el('p', { class: 'hint', id: 'prebid-hint' });
  const error = el('p', { class: 'field-error', id: 'prebid-error', role: 'alert' });
  const submit = el('button', { class: 'primary', type: 'submit' });
  const back = el('button', { type: 'button', text: t('prebid.back') });
  const form = el(
    'form',
    { novalidate: true },
    el('label', { for: 'prebid', text: t('prebid.label') }),
    hint,
    el('div', { class: 'joined' }, input, submit, back),
    error,
  );
  const node = el('section', { class: 'bid-bar prebid', 'aria-label': t('prebid.title') }, signIn, kept, form);
  let isChanging = false;
  let isShown = false;

  const draw = () => {
    const { auction, isHost, maximum } = room;
    const { status } = room.state;
    const kind = prebidKind({ auction, status, isSignedIn: room.me !== null, isHost, maximum, isChanging });
    if (isShown && kind === 'none') leave();
    isShown = kind !== 'none';
    show(node, isShown);
    show(signIn, kind === 'signin');
    show(kept, kind === 'kept');
    show(form, kind === 'form');
    show(back, maximum !== null);
    setText(keptText, t('prebid.kept', { price: amount(maximum) }));
    setText(hint, t('prebid.hint', { price: amount(least()) }));
    const isSending = room.sending !== null;
    setText(submit, t(isSending ? 'prebid.sending' : 'prebid.submit'));
    setAttribute(submit, 'aria-disabled', isSending ? 'true' : null);
    return isShown;
  };

  /** The auction has opened, or was cancelled. A key press that is on its way must not reach the bid button. */
  const leave = () => {
    const read = readMaximum(input.value, least());
    const isUnsent = room.sending === null && !form.hidden && 'cents' in read;
    if (isUnsent && room.state.status === 'live') toast(t('prebid.unsent', { price: amount(read.cents) }), { tone: 'bad' });
    const hasFocus = node.contains(document.activeElement);
    show(node, false);
    if (hasFocus) /** @type {any} */ (document.querySelector('main h1'))?.focus({ preventScroll: true });
  };

  const place = async (/** @type {number} */ cents) => {
    const answer = await room.setMaximum(cents);
    if (answer.status === 'accepted') {
      input.value = '';
      isChanging = false;
      const text = t('prebid.accepted', { price: amount(fromWire(answer.your_max_amount) ?? cents) });
      // The auction may have opened in this moment: then it is a maximum in the running auction.
      if (isShown) say(text);
      else toast(text, { tone: 'good' });
      draw();
      if (isShown) change.focus();
      return;
    }
    const text = failure(answer);
    if (isShown) setText(error, text);
    else toast(text, { tone: 'bad' });
    if (isShown) input.focus();
    if (answer.code === 'unauthenticated' || answer.code === 'token_expired') app.session.expire();
  };
  const failure = (/** @type {any} */ answer) => {
    const price = amount(fromWire(answer.minimum_bid) ?? least());
    const isLow = answer.code === 'bid_too_low' && isShown;
    return isLow ? t('prebid.low', { price }) : failureText(answer, { price });
  };

  signIn.addEventListener('click', () => signInOrExplain(app.session));
  change.addEventListener('click', () => {
    isChanging = true;
    input.value = room.maximum === null ? '' : toWire(room.maximum).replace(/\.00$/, '');
    draw();
    input.focus();
    input.select();
  });
  back.addEventListener('click', () => {
    isChanging = false;
    input.value = '';
    setText(error, '');
    draw();
    change.focus();
  });
  input.addEventListener('input', () => setText(error, ''));
  form.addEventListener('submit', (/** @type {Event} */ event) => {
    event.preventDefault();
    if (room.sending !== null) return;
    const read = readMaximum(input.value, least());
    if ('cents' in read) return void place(read.cents);
    setText(error, t(read.fault, { price: amount(least()) }));
    input.focus();
  });
  return { node, draw };
}
