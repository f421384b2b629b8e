/**
 * Money as integer cents: parsing what people type, reading and writing what the API carries, formatting. Pure.
 *
 * No float is ever added or compared; a decimal from the API is converted to cents once, where it arrives.
 */

/** Largest amount that the API takes, in cents. CONTRACT.md, Conventions. */
export const MOST_CENTS = 9_999_999_999;
/** Multiple of the lowest allowed bid from which a bid is asked to be confirmed. */
const LARGE_FACTOR = 2;
/** Multiple of the step that a bid must also exceed to be asked about: at low prices twice the price is no mistake. */
const LARGE_STEPS = 10;

/**
 * Reads an amount of the API: a number or a text with at most two decimals.
 * @param {number | string | null | undefined} value
 * @returns {number | null} cents
 */
export function fromWire(value) {
  if (value === null || value === undefined || value === '') return null;
  const cents = Math.round(Number(value) * 100);
  return Number.isSafeInteger(cents) ? cents : null;
}

/**
 * Writes an amount for the API, as a text with two decimals.
 * @param {number} cents
 */
export function toWire(cents) {
  return `${Math.floor(cents / 100)}.${String(cents % 100).padStart(2, '0')}`;
}

/**
 * Reads an amount that a person typed. Grouping and both decimal marks are understood where they are unambiguous;
 * `1.250` could be two amounts and is refused, as is everything that is not an amount.
 * @param {string} text
 * @returns {number | null} cents
 */
export function parseMoney(text) {
  const bare = text
    .trim()
    .replace(/^[^\d.,-]{0,4}\s*|\s*[^\d.,]{0,4}$/g, '')
    .replace(/[\s'’]/g, '');
  const shapes = [
    /^(\d+)(?:[.,](\d{1,2}))?$/, // 1250, 1250.5, 1250,50
    /^(\d{1,3}(?:,\d{3})+)(?:\.(\d{1,2}))?$/, // 1,250.50
    /^(\d{1,3}(?:\.\d{3})+),(\d{1,2})$/, // 1.250,50
    /^()[.,](\d{1,2})$/, // .50
  ];
  const match = shapes.map((shape) => shape.exec(bare)).find(Boolean);
  if (!match) return null;
  const cents = Number(match[1].replace(/[.,]/g, '') || 0) * 100 + Number((match[2] ?? '').padEnd(2, '0') || 0);
  return cents >= 1 && cents <= MOST_CENTS ? cents : null;
}

/** @type {Map<string, Intl.NumberFormat>} */
const formats = new Map();

/**
 * Formats an amount; whole amounts without decimals.
 * @param {number | null} cents
 * @param {string} currency
 * @param {string} locale
 */
export function formatMoney(cents, currency = 'USD', locale = 'en-US') {
  if (cents === null) return '–';
  const digits = cents % 100 === 0 ? 0 : 2;
  const key = `${locale} ${currency} ${digits}`;
  let format = formats.get(key);
  if (!format) {
    const options = { style: 'currency', currency, minimumFractionDigits: digits, maximumFractionDigits: digits };
    format = new Intl.NumberFormat(locale, /** @type {any} */ ({ ...options, currencyDisplay: 'narrowSymbol' }));
    formats.set(key, format);
  }
  return format.format(cents / 100);
}

/**
 * Whether a bid is so much above the lowest allowed one that it may be a slip.
 * @param {number} cents
 * @param {number} minimum
 * @param {number} step
 */
export function isLargeJump(cents, minimum, step) {
  return cents >= minimum * LARGE_FACTOR && cents - minimum > step * LARGE_STEPS;
}

/**
 * Amounts to offer beside the lowest one: some steps above it.
 * @param {number} minimum
 * @param {number} step
 */
export function offers(minimum, step) {
  return [0, 1, 2, 5].map((steps) => minimum + steps * step).filter((cents) => cents <= MOST_CENTS);
}
