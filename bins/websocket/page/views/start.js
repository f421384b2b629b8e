/**
 * The opening time of a new auction: at once, or later and then with maximums before it.
 */

import { el, show } from '../dom.js';

/** Longest time until an opening, in milliseconds. CONTRACT.md, Creating an auction. */
const MOST_MS = 30 * 86_400_000;

/**
 * @param {{node: HTMLElement, input: any}} starts the field of the time, in the time zone of this device
 * @param {{node: HTMLElement, input: any}} prebids the switch for maximums before the opening
 * @param {() => number} now the server's clock
 */
export function startFields(starts, prebids, now) {
  const isLater = () => starts.input.value !== '';
  const at = () => Date.parse(starts.input.value);
  const draw = () => show(prebids.node, isLater());
  starts.input.addEventListener('input', draw);
  draw();
  return {
    node: el('div', { class: 'field' }, starts.node, prebids.node),
    isLater,
    isPossible: () => isPossibleStart(starts.input.value, now()),
    /** The fields of the request. */
    body: () => {
      if (!isLater() || Number.isNaN(at())) return {};
      return { starts_at: new Date(at()).toISOString(), allow_prebids: prebids.input.checked };
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
