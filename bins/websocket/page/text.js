/**
 * Texts by key, in the language of the browser. A language is one module of data, such as `en.js`.
 */

import { en } from './en.js';
import { formatMoney } from './money.js';

/** The languages by their tag. A new one is imported above and added here. @type {Record<string, any>} */
const LANGUAGES = { en };

const wanted = globalThis.navigator?.languages ?? ['en'];
const tag = wanted.map((one) => one.toLowerCase().split('-')[0]).find((one) => one in LANGUAGES) ?? 'en';
/** The locale of numbers and dates: the first wanted one in the language of the texts. */
export const locale = wanted.find((one) => one.toLowerCase().startsWith(tag)) ?? 'en-US';
export const language = tag;

const plurals = new Intl.PluralRules(locale);

/**
 * The text of a key, with its `{parts}` filled in. With a number `count` the form for it is taken: `key.one`,
 * `key.other`.
 * @param {string} key
 * @param {Record<string, string | number>} [parts]
 * @returns {string}
 */
export function t(key, parts = {}) {
  const forms =
    typeof parts.count === 'number' ? [`${key}.${plurals.select(parts.count)}`, `${key}.other`, key] : [key];
  const texts = [LANGUAGES[tag], en];
  const text = texts.flatMap((all) => forms.map((form) => all[form])).find((one) => one !== undefined) ?? key;
  return text.replace(/\{(\w+)\}/g, (/** @type {string} */ _, /** @type {string} */ name) => String(parts[name] ?? ''));
}

/**
 * @param {number | null} cents
 * @param {string} [currency]
 */
export function money(cents, currency) {
  return formatMoney(cents, currency || 'USD', locale);
}

/**
 * The text for a failure: by its code, else the server's own sentence.
 * @param {{code?: string, error?: string, message?: string}} failure
 * @param {Record<string, string | number>} [parts]
 */
export function failureText(failure, parts) {
  const key = `error.${failure.code}`;
  const text = t(key, parts);
  return text === key ? failure.error || failure.message || t('error.unknown') : text;
}

const clock = new Intl.DateTimeFormat(locale, { hour: 'numeric', minute: '2-digit', second: '2-digit' });
const day = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeStyle: 'short' });

/** @param {number} ms since 1970 */
export const timeText = (ms) => clock.format(ms);
/** @param {number | string} at */
export const dateText = (at) => day.format(new Date(at));

/**
 * A length of time in words, from its largest fitting unit: `30 s`, `5 min`, `1 h`, `1 day`.
 * @param {number} seconds
 */
export function lengthText(seconds) {
  if (seconds % 86_400 === 0) return t('length.days', { count: seconds / 86_400 });
  if (seconds % 3_600 === 0) return t('length.hours', { count: seconds / 3_600 });
  if (seconds % 60 === 0) return t('length.minutes', { count: seconds / 60 });
  return t('length.seconds', { count: seconds });
}
