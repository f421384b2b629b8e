/**
 * The bid button with the messages around it, and the sheet for other amounts and an own maximum.
 */

import { Settling, bidButton } from '../bidbutton.js';
import { el, fill, icon, setAttribute, setText, show } from '../dom.js';
import { isLargeJump, offers, parseMoney, toWire } from '../money.js';
import { openDialog, say, signInOrExplain, toast } from '../shell.js';
import { failureText, money, t } from '../text.js';

/** Time for which the answer to a bid stays below the button, in milliseconds. */
const MESSAGE_MS = 6_000;

/**
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 */
export function bidBar(app, room) {
  const currency = () => room.auction?.currency;
  const note = el('small', {});
  const label = el('span', {});
  const button = el('button', { class: 'bid-button primary', type: 'button' }, note, ' ', label);
  const other = el('button', { class: 'other', type: 'button', text: t('bid.other') });
  const message = el('p', { class: 'bid-message', hidden: true });
  const node = el('section', { class: 'bid-bar', 'aria-label': t('bid.label') }, message, button, other);
  const settling = new Settling();
  /** @type {ReturnType<typeof bidButton>} */
  let now = { kind: 'loading', amount: null, isEnabled: false };
  /** The amount on the button when the press began. @type {number | null} */
  let pressed = null;
  /** @type {any} */
  let settle = null;
  /** @type {any} */
  let clear = null;

  const draw = () => {
    const { state } = room;
    const pause = settling.see(room.minimum, performance.now());
    clearTimeout(settle);
    if (pause > 0) settle = setTimeout(draw, pause);
    const left = room.remaining();
    // The remaining time passes without events.
    if (left && !left.isConfirming && pause === 0) settle = setTimeout(draw, Math.min(left.ms + 20, 2 ** 30));
    now = bidButton({
      status: state.status,
      isSignedIn: room.me !== null,
      isHost: room.isHost,
      isConnected: room.isConnected,
      isConfirming: left?.isConfirming ?? false,
      isLeading: room.isLeading,
      hasBid: room.hasBid,
      isWinner: room.me !== null && (state.winner_id ?? room.auction?.winner_id) === room.me,
      outcome: state.outcome ?? null,
      sending: room.sending,
      minimum: room.minimum,
      isSettling: pause > 0,
    });
    const shown = now.kind === 'leading' ? room.price : now.amount;
    setText(label, t(`button.${now.kind}`, { price: money(shown, currency()) }));
    setText(note, ['outbid', 'leading'].includes(now.kind) ? t(`button.${now.kind}.note`) : '');
    setAttribute(button, 'data-kind', now.kind);
    // Not the attribute "disabled", which would throw the keyboard out of the button.
    setAttribute(button, 'aria-disabled', now.isEnabled ? null : 'true');
    const takesAmounts = ['bid', 'outbid'].includes(now.kind);
    show(other, takesAmounts);
    setAttribute(node, 'data-kind', now.kind);
    // An accepted bid that has been overtaken is no good news any more.
    if (now.kind === 'outbid' && message.dataset.tone === 'good') show(message, false);
  };

  const answerWith = (/** @type {string} */ text, /** @type {string} */ tone) => {
    clearTimeout(clear);
    setText(message, text);
    setAttribute(message, 'data-tone', tone);
    show(message, true);
    say(text);
    clear = setTimeout(() => show(message, false), MESSAGE_MS);
  };

  const place = async (/** @type {number} */ cents, /** @type {number} */ most = NaN) => {
    const answer = await room.bid(cents, Number.isNaN(most) ? undefined : most);
    if (answer.status === 'accepted') {
      if (answer.is_highest === false) answerWith(t('bid.overtaken'), 'bad');
      else answerWith(t('bid.accepted', { price: money(cents, currency()) }), 'good');
      return;
    }
    const isUnknown = !Number.isNaN(most) && /max_amount/.test(answer.error ?? '');
    if (isUnknown) app.features.delete('max_amount');
    const failure = isUnknown ? { code: 'no_maximum' } : answer;
    answerWith(failureText(failure, { price: money(room.minimum, currency()) }), 'bad');
    if (answer.code === 'unauthenticated' || answer.code === 'token_expired') app.session.expire();
  };

  button.addEventListener('pointerdown', () => (pressed = now.amount));
  button.addEventListener('click', (/** @type {MouseEvent} */ event) => {
    if (now.kind === 'signin') return signInOrExplain(app.session);
    if (!now.isEnabled || now.amount === null) return;
    // A press that began on another amount was meant for that one. A key press has no beginning.
    if (event.detail > 0 && pressed !== null && pressed !== now.amount) return answerWith(t('bid.moved'), 'plain');
    void place(now.amount);
  });
  other.addEventListener('click', () => openAmounts(app, room, place));
  return {
    node,
    draw,
    close() {
      clearTimeout(settle);
      clearTimeout(clear);
    },
  };
}

/**
 * The sheet for other amounts.
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 * @param {(cents: number, most?: number) => Promise<void>} place
 */
function openAmounts(app, room, place) {
  const currency = room.auction?.currency;
  const show_ = (/** @type {number} */ cents) => money(cents, currency);
  const input = el('input', {
    id: 'amount',
    inputmode: 'decimal',
    autocomplete: 'off',
    'aria-describedby': 'amount-hint amount-error',
  });
  const hint = el('p', { class: 'hint', id: 'amount-hint' });
  const error = el('p', { class: 'field-error', id: 'amount-error', role: 'alert' });
  const chips = el('div', { class: 'chips' });
  const takesMost = app.features.has('max_amount');
  const exactly = el('input', { type: 'radio', name: 'kind', value: 'exact', checked: true });
  const upTo = el('input', { type: 'radio', name: 'kind', value: 'most' });
  const kinds = el(
    'fieldset',
    { class: 'kinds' },
    el('legend', { text: t('amount.kind') }),
    el('label', {}, exactly, el('span', {}, t('amount.exact'), el('small', { text: t('amount.exact.note') }))),
    el('label', {}, upTo, el('span', {}, t('amount.most'), el('small', { text: t('amount.most.note') }))),
  );
  const submit = el('button', { class: 'primary', type: 'submit' });
  const form = el(
    'form',
    { novalidate: true },
    chips,
    el('label', { for: 'amount', text: t('amount.label') }),
    input,
    hint,
    error,
    takesMost && kinds,
    submit,
  );
  const sure = el('div', { class: 'sure', hidden: true });
  const dialog = openDialog(t('amount.title'), form, sure);

  const draw = () => {
    if (room.minimum === null) return;
    setText(hint, t('amount.hint', { price: show_(room.minimum), step: show_(room.step) }));
    const cents = parseMoney(input.value);
    const key = upTo.checked ? 'amount.submit.most' : 'amount.submit';
    setText(submit, cents === null ? t('amount.submit.empty') : t(key, { price: show_(cents) }));
    const wanted = String(offers(room.minimum, room.step));
    // Under a finger the offers stay as they are; they only ever fill in the field.
    if (chips.dataset.offers === wanted) return;
    chips.dataset.offers = wanted;
    const choose = (/** @type {number} */ cents) => {
      input.value = toWire(cents).replace(/\.00$/, '');
      setText(error, '');
      draw();
    };
    const buttons = offers(room.minimum, room.step).map((cents) =>
      el('button', { type: 'button', class: 'chip', text: show_(cents), onclick: () => choose(cents) }),
    );
    fill(chips, ...buttons);
  };
  const onChange = () => {
    if (room.isOver) dialog.close();
    else draw();
  };
  room.addEventListener('change', onChange);
  dialog.addEventListener('close', () => room.removeEventListener('change', onChange));
  input.addEventListener('input', () => {
    setText(error, '');
    draw();
  });
  for (const kind of [exactly, upTo]) kind.addEventListener('change', draw);

  const send = (/** @type {number} */ cents) => {
    dialog.close();
    if (!room.isConnected) return toast(t('error.not_connected'), { tone: 'bad' });
    if (upTo.checked && room.minimum !== null) void place(room.minimum, cents);
    else void place(cents);
  };
  form.addEventListener('submit', (/** @type {Event} */ event) => {
    event.preventDefault();
    const cents = parseMoney(input.value);
    const minimum = room.minimum ?? 0;
    if (cents === null) setText(error, t('amount.invalid'));
    else if (cents < minimum) setText(error, t('amount.low', { price: show_(minimum) }));
    if (cents === null || cents < minimum) return input.focus();
    if (!isLargeJump(cents, minimum, room.step)) return send(cents);
    show(form, false);
    show(sure, true);
    const yes = el('button', { class: 'primary', type: 'button', text: t('amount.sure.yes', { price: show_(cents) }) });
    const no = el('button', { type: 'button', text: t('amount.sure.no') });
    yes.addEventListener('click', () => send(cents));
    no.addEventListener('click', () => {
      show(sure, false);
      show(form, true);
      input.focus();
    });
    const parts = { price: show_(cents), more: show_(cents - minimum), minimum: show_(minimum) };
    fill(sure, icon('warning'), el('p', { text: t('amount.sure', parts) }), el('div', { class: 'actions' }, no, yes));
    no.focus();
  });
  draw();
  input.focus();
}
