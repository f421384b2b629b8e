/**
 * The form for a new auction. Everything typed is kept on this device until the auction exists.
 */

import { clean, el, fill, icon, setAttribute, setText, show, uuid } from '../dom.js';
import { parseMoney, toWire } from '../money.js';
import { openDialog } from '../shell.js';
import { read, write } from '../store.js';
import { failureText, lengthText, money, t } from '../text.js';
import { pictureAddress, serverClock } from './parts.js';
import { photos } from './photos.js';
import { lotBefore, startFields } from './start.js';

const DRAFT = 'flash.draft';
const AGAIN = 'flash.again';
/** Offered durations in seconds, and steps in whole units of the currency. */
const DURATIONS = [60, 300, 1_800, 3_600, 86_400];
const STEPS = [1, 5, 10, 25];
/** Bounds of the server, by CONTRACT.md, Creating an auction. */
const MOST_SECONDS = 604_800;
const LEAST_SECONDS = 5;
const MAX_TITLE = 500;
const MAX_DESCRIPTION = 20_000;
const MAX_SHORT = 200;
/** Offered rules for late bids. The times are the server's. */
const RULES = { fair: { mode: 'extend' }, fixed: { mode: 'off' } };

/** Beginning of a choice in a draft that is not an offered one. The typed text follows. */
const OTHER = 'other:';

/** @typedef {Record<string, any>} Draft */

/** @returns {Draft} */
function draftNow() {
  const again = read('session', AGAIN);
  write('session', AGAIN, null);
  if (again) return draftOf(again);
  return read('local', DRAFT) ?? {};
}

/** A draft from an earlier auction. @param {any} auction @returns {Draft} */
function draftOf(auction) {
  const { title, description, category, condition, image_url, images, duration } = auction;
  const addresses = [...new Set([image_url, ...(images ?? [])].filter(Boolean))];
  const step = chosenOf(STEPS, Number(auction.bid_increment), String(auction.bid_increment));
  const start = String(auction.starting_bid ?? '');
  const length = chosenOf(DURATIONS, duration, String(duration / 60));
  return { title, description, category, condition, images: addresses, duration: length, start, step };
}

/**
 * The offered value, or another one as it would be typed.
 * @param {number[]} offered
 * @param {number} value
 * @param {string} typed
 */
function chosenOf(offered, value, typed) {
  return offered.includes(value) ? String(value) : OTHER + typed;
}

/** @param {import('../main.js').App} app */
export function createView(app) {
  const draft = draftNow();
  const summary = el('div', { class: 'errors', role: 'alert', tabindex: -1, hidden: true });
  const title = textField('title', { maxlength: MAX_TITLE, required: true, value: draft.title ?? '' });
  const start = textField('start', { inputmode: 'decimal', required: true, value: draft.start ?? '', class: 'amount' });
  const duration = choice('duration', DURATIONS, lengthText, draft.duration ?? '300', t('create.duration.other'));
  const stepText = (/** @type {number} */ units) => money(units * 100, app.config.currency);
  const step = choice('step', STEPS, stepText, draft.step ?? '1', t('create.step.other'));
  const description = textField(
    'description',
    { maxlength: MAX_DESCRIPTION, value: draft.description ?? '' },
    'textarea',
  );
  const category = textField('category', { maxlength: MAX_SHORT, value: draft.category ?? '' });
  const condition = textField('condition', { maxlength: MAX_SHORT, value: draft.condition ?? '' });
  const reserve = textField('reserve', { inputmode: 'decimal', value: draft.reserve ?? '', class: 'amount' });
  const buyNow = textField('buy_now', { inputmode: 'decimal', value: draft.buy_now ?? '', class: 'amount' });
  const pictures = photos(app, (draft.images ?? []).map(pictureAddress).filter(Boolean), keep);
  const rules = radios('rule', Object.keys(RULES), draft.rule ?? 'fair');
  const video = switchRow('video', draft.video ?? true);
  const starts = textField('starts', { type: 'datetime-local', value: draft.starts ?? '' });
  const prebids = switchRow('prebids', draft.prebids ?? true);
  const gap = textField('gap', { inputmode: 'numeric', value: draft.gap ?? '', placeholder: '0', class: 'amount' });
  const before = lotBefore(app, draft.follows ?? '');
  const later = startFields({ starts, gap, prebids }, before, serverClock(app.api));
  const submit = el('button', { class: 'primary', type: 'submit' });
  const discard = el('button', { class: 'quiet small', type: 'button', text: t('create.discard') });
  const more = el('details', {}, el('summary', { text: t('create.more') }), description.node, category.node);
  more.append(condition.node, reserve.node, buyNow.node, later.node, rules.node);
  const optionalFields = [description, category, condition, reserve, buyNow, starts];
  more.open = Boolean(draft.follows) || optionalFields.some((field) => field.input.value !== '');
  const form = el(
    'form',
    { class: 'create', novalidate: true },
    summary,
    title.node,
    pictures.node,
    start.node,
    duration.node,
    step.node,
    video.node,
    more,
    el('div', { class: 'actions' }, submit),
  );
  const title_ = el('h1', { tabindex: -1, text: t('sell.new') });
  const heading = el('div', { class: 'title-row' }, title_, discard);
  const back = el('a', { class: 'back', href: '#/sell' }, icon('back'), t('sell.title'));
  const node = el('div', { class: 'wide narrow' }, back, heading, form);

  const fields = [title, start, duration, step, reserve, buyNow, starts, gap];
  /** The key under which the server knows this auction, and the request that it belongs to. */
  let sent = { key: '', body: '' };
  let isSending = false;

  const drawSubmit = () => {
    setText(submit, t(isSending ? 'create.sending' : later.isLater() ? 'create.submit.later' : 'create.submit'));
    setAttribute(submit, 'aria-disabled', isSending ? 'true' : null);
  };
  drawSubmit();

  function keep() {
    const now = {
      title: title.input.value,
      start: start.input.value,
      duration: duration.chosen(),
      step: step.chosen(),
      description: description.input.value,
      category: category.input.value,
      condition: condition.input.value,
      reserve: reserve.input.value,
      buy_now: buyNow.input.value,
      images: pictures.addresses(),
      rule: rules.value(),
      starts: starts.input.value,
      follows: before.chosen(),
      gap: gap.input.value,
      prebids: prebids.input.checked,
      video: video.input.checked,
    };
    write('local', DRAFT, now);
  }
  form.addEventListener('input', (/** @type {Event} */ event) => {
    keep();
    drawSubmit();
    // A fault that is being corrected is not repeated until the next press.
    for (const field of fields) if (field.node.contains(event.target)) field.fail('');
  });
  form.addEventListener('offered', drawSubmit);
  discard.addEventListener('click', () => {
    const yes = el('button', { class: 'danger', type: 'button', text: t('create.discard') });
    const dialog = openDialog(t('create.discard'), el('p', { text: t('create.discard.sure') }), yes);
    yes.addEventListener('click', () => {
      dialog.close();
      write('local', DRAFT, null);
      node.replaceWith(createView(app).node);
    });
  });

  form.addEventListener('submit', async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (isSending) return;
    const { body, faults } = check();
    drawFaults(faults);
    if (faults.length > 0) return;
    const text = JSON.stringify(body);
    // The same request keeps its key, so that a second press after a lost answer makes no second auction.
    if (sent.body !== text) sent = { key: uuid(), body: text };
    isSending = true;
    drawSubmit();
    try {
      const auction = await app.api.postSurely('/auctions', body, { key: sent.key });
      write('local', DRAFT, null);
      location.hash = `#/sell/${auction.auction_id}`;
    } catch (/** @type {any} */ error) {
      const isVideo = error.code === 'video_quota';
      drawFaults([{ text: isVideo ? t('error.video_quota') : failureText(error), field: null, detail: error.message }]);
    }
    isSending = false;
    drawSubmit();
  });

  /** The request, and what keeps it from being sent. */
  function check() {
    /** @type {{text: string, field: any, detail?: string}[]} */
    const faults = [];
    const fault = (/** @type {any} */ field, /** @type {string} */ key) => faults.push({ field, text: t(key) });
    const name = clean(title.input.value).trim();
    if (!name) fault(title, 'create.title.missing');
    const cents = parseMoney(start.input.value);
    if (cents === null) fault(start, 'create.start.invalid');
    const seconds = duration.isOther() ? Math.round(Number(duration.value()) * 60) : Number(duration.value());
    const isLength = Number.isFinite(seconds) && seconds >= LEAST_SECONDS && seconds <= MOST_SECONDS;
    if (!isLength) fault(duration, 'create.duration.invalid');
    const increment = parseMoney(step.value());
    if (increment === null) fault(step, 'create.step.invalid');
    const least = cents ?? 0;
    const reserved = optionalMoney(reserve, least);
    if (reserved === null) fault(reserve, 'create.reserve.invalid');
    const atOnce = optionalMoney(buyNow, Math.max(least, reserved ?? 0));
    if (atOnce === null) fault(buyNow, 'create.buy_now.invalid');
    if (!later.isPossible()) fault(starts, 'create.starts.invalid');
    if (!later.isGap()) fault(gap, 'create.gap.invalid');
    const images = pictures.addresses();
    if (pictures.isLoading()) fault(pictures, 'create.photos.loading');
    const optional = (/** @type {any} */ field) => clean(field.input.value).trim() || undefined;
    const body = {
      title: name,
      starting_bid: toWire(cents ?? 0),
      duration: seconds,
      minimum_increment: toWire(increment ?? 0),
      reserve_price: reserved ? toWire(reserved) : undefined,
      buy_now_price: atOnce ? toWire(atOnce) : undefined,
      description: optional(description),
      category: optional(category),
      condition: optional(condition),
      image_url: images[0],
      images: images.length > 0 ? images : undefined,
      anti_snipe: RULES[/** @type {keyof typeof RULES} */ (rules.value())],
      ...later.body(),
      video: video.input.checked,
    };
    return { body, faults };
  }

  /** @param {{text: string, field: any, detail?: string}[]} faults */
  function drawFaults(faults) {
    for (const field of [...fields, pictures]) field.fail?.('');
    show(summary, faults.length > 0);
    if (faults.length === 0) return;
    for (const { field, text } of faults) field?.fail?.(text);
    if (faults.some(({ field }) => field && more.contains(field.node))) more.open = true;
    const items = faults.map(({ text, detail }) => {
      return el('li', {}, text, detail && detail !== text ? el('small', { text: detail }) : null);
    });
    fill(summary, el('p', { class: 'strong', text: t('create.failed') }), el('ul', {}, ...items));
    const first = faults.find(({ field }) => field?.input)?.field.input;
    (first ?? summary).focus();
    summary.scrollIntoView({ block: 'nearest' });
  }
  return { node, title: t('sell.new') };
}

/**
 * The amount in a field that may be empty: undefined then, and null for one that is invalid or below `least`.
 * @param {ReturnType<typeof textField>} field
 * @param {number} least
 */
function optionalMoney(field, least) {
  if (field.input.value.trim() === '') return undefined;
  const cents = parseMoney(field.input.value);
  return cents === null || cents < least ? null : cents;
}

/**
 * A labelled field with its place for an error.
 * @param {string} name
 * @param {Record<string, any>} props
 * @param {string} [tag]
 */
function textField(name, props, tag = 'input') {
  const id = `create-${name}`;
  const error = el('p', { class: 'field-error', id: `${id}-error` });
  const { required, ...rest } = props;
  const input = el(tag, { id, 'aria-describedby': `${id}-error`, 'aria-required': required, ...rest });
  const label = el('label', { for: id, text: t(`create.${name}`) });
  if (!required) label.append(' ', el('small', { text: t('create.optional') }));
  return {
    node: el('div', { class: 'field' }, label, input, error),
    input,
    fail(/** @type {string} */ text) {
      setText(error, text);
      setAttribute(input, 'aria-invalid', text ? 'true' : null);
    },
  };
}

/**
 * A labelled switch.
 * @param {string} name
 * @param {boolean} checked
 */
function switchRow(name, checked) {
  const input = el('input', { type: 'checkbox', role: 'switch', checked });
  const text = el('span', {}, el('strong', { text: t(`create.${name}`) }), el('small', { text: t(`create.${name}.note`) }));
  return { node: el('label', { class: 'switch' }, text, input), input };
}

/**
 * Some offered values and a field for another one.
 * @param {string} name
 * @param {number[]} offered
 * @param {(value: number) => string} textOf
 * @param {string} chosen
 * @param {string} otherLabel
 */
function choice(name, offered, textOf, chosen, otherLabel) {
  const isOffered = offered.map(String).includes(chosen);
  const typed = chosen.startsWith(OTHER) ? chosen.slice(OTHER.length) : '';
  const box = (/** @type {string} */ value, /** @type {string} */ text, /** @type {boolean} */ checked) => {
    const input = el('input', { type: 'radio', name, value, checked });
    return { input, node: el('label', { class: 'chip' }, input, el('span', { text })) };
  };
  const boxes = offered.map((value) => box(String(value), textOf(value), String(value) === chosen));
  const other = box('other', t('create.other'), !isOffered);
  const input = el('input', { inputmode: 'decimal', 'aria-label': otherLabel, placeholder: otherLabel, value: typed });
  const error = el('p', { class: 'field-error', id: `create-${name}-error` });
  const isOther = () => other.input.checked;
  const chips = el('div', { class: 'chips' }, ...boxes.map((one) => one.node), other.node);
  const describedBy = { class: 'field', 'aria-describedby': error.id };
  const node = el('fieldset', describedBy, el('legend', { text: t(`create.${name}`) }), chips, input, error);
  const draw = () => show(input, isOther());
  node.addEventListener('change', draw);
  draw();
  const value = () => (isOther() ? input.value : (boxes.find((one) => one.input.checked)?.input.value ?? ''));
  return {
    node,
    isOther,
    get input() {
      return isOther() ? input : boxes[0].input;
    },
    value,
    chosen: () => (isOther() ? OTHER + input.value : value()),
    fail: (/** @type {string} */ text) => setText(error, text),
  };
}

/**
 * @param {string} name
 * @param {string[]} values
 * @param {string} chosen
 */
function radios(name, values, chosen) {
  const inputs = values.map((value) => el('input', { type: 'radio', name, value, checked: value === chosen }));
  const rows = inputs.map((input) => {
    const text = el(
      'span',
      {},
      t(`create.rule.${input.value}`),
      el('small', { text: t(`create.rule.${input.value}.note`) }),
    );
    return el('label', {}, input, text);
  });
  return {
    node: el('fieldset', { class: 'kinds' }, el('legend', { text: t('create.rule') }), ...rows),
    value: () => inputs.find((input) => input.checked)?.value ?? values[0],
  };
}
