/**
 * The things that this device remembers. A browser may refuse any of it: then the page works, and forgets.
 */

/** @param {'local' | 'session'} kind */
const storage = (kind) => (kind === 'local' ? localStorage : sessionStorage);

/**
 * @param {'local' | 'session'} kind for all tabs and later visits, or for this tab
 * @param {string} key
 * @returns {any} null if there is none
 */
export function read(kind, key) {
  try {
    return JSON.parse(storage(kind).getItem(key) ?? 'null');
  } catch {
    return null;
  }
}

/**
 * @param {'local' | 'session'} kind
 * @param {string} key
 * @param {any} value null removes it
 */
export function write(kind, key, value) {
  try {
    if (value === null) storage(kind).removeItem(key);
    else storage(kind).setItem(key, JSON.stringify(value));
  } catch {
    // Refused or full.
  }
}
