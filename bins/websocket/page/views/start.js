/**
 * The opening of a new auction: at once, at a later time, or after another lot of the host; the last two with maximums
 * before it.
 */

import { clean, el, show } from '../dom.js';
import { t } from '../text.js';

/** Longest time until an opening, in milliseconds. CONTRACT.md, Creating an auction. */
const MOST_MS = 30 * 86_400_000;
/** Longest pause between two lots, in seconds. CONTRACT.md, Creating an auction. */
const MOST_GAP = 86_400;
/** Own lots that are offered to open after. */
const SHOWN = 100;

/** @typedef {{node: HTMLElement, input: any}} Field */

/**
 * @param {{starts: Field, gap: Field, prebids: Field}} fields the time in the time zone of this device, the pause after
 *   another lot in seconds, and the switch for maximums before the opening
 * @param {ReturnType<typeof lotBefore>} before the lot that this one opens after
 * @param {() => number} now the server's clock
 */
export function startFields({ starts, gap, prebids }, before, now) {
  const isLater = () => before.chosen() !== '' || starts.input.value !== '';
  const draw = () => {
    const isAfterLot = before.chosen() !== '';
    show(starts.node, !isAfterLot);
    show(gap.node, isAfterLot);
    show(prebids.node, isLater());
  };
  const node = el('div', { class: 'field' }, before.node, starts.node, gap.node, prebids.node);
  for (const event of ['input', 'offered']) node.addEventListener(event, draw);
  draw();
  return {
    node,
    isLater,
    isPossible: () => before.chosen() !== '' || isPossibleStart(starts.input.value, now()),
    isGap: () => before.chosen() === '' || gapOf(gap.input.value) !== null,
    /** The fields of the request. */
    body: () => {
      const allow_prebids = prebids.input.checked;
      const follows = before.chosen();
      if (follows) return { follows, gap: gapOf(gap.input.value) ?? 0, allow_prebids };
      const at = Date.parse(starts.input.value);
      return Number.isNaN(at) ? {} : { starts_at: new Date(at).toISOString(), allow_prebids };
    },
  };
}

/**
 * Whether an auction may open then: at once, or at a time that the server takes.
 * @param {string} text as a field of the type datetime-local has it
 * @param {number} now
 */
export function isPossibleStart(text, now) {
  if (text === '') return true;
  const at = Date.parse(text);
  return at > now && at <= now + MOST_MS;
}

/**
 * The seconds between two lots: none if nothing is typed, null for what the server does not take.
 * @param {string} text
 */
export function gapOf(text) {
  const typed = text.trim();
  if (!/^\d{0,5}$/.test(typed)) return null;
  return Number(typed) <= MOST_GAP ? Number(typed) : null;
}

/**
 * A choice among the host's lots that have not ended. It is shown once there are some, with the event `offered`.
 * @param {import('../main.js').App} app
 * @param {string} wanted the lot of the draft, chosen if it has not ended
 */
export function lotBefore(app, wanted) {
  const select = el('select', { id: 'create-follows' }, el('option', { value: '', text: t('create.follows.none') }));
  const label = el('label', { for: select.id, text: t('create.follows') });
  label.append(' ', el('small', { text: t('create.optional') }));
  const node = el('div', { class: 'field', hidden: true }, label, select);
  const offer = (/** @type {any[]} */ lots) => {
    for (const lot of lots) select.append(el('option', { value: lot.auction_id, text: clean(lot.title) }));
    show(node, lots.length > 0);
    if (lots.some((lot) => lot.auction_id === wanted)) select.value = wanted;
    select.dispatchEvent(new Event('offered', { bubbles: true }));
  };
  const query = `host=${app.session.user?.id ?? ''}&status=scheduled&status=live&status=paused&limit=${SHOWN}`;
  // Without the list there is nothing to choose: the auction can open at once or at a time.
  app.api.get(`/auctions?${query}`, { isPublic: true }).then(({ auctions }) => offer(auctions), () => {});
  return { node, chosen: () => select.value };
}
