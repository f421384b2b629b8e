/**
 * The few helpers that build and change elements. Text is only ever set as text: there is no way here to set markup.
 */

/** Control, invisible and bidirectional characters, which could disguise a name or an amount. */
const DISGUISES = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const SVG = 'http://www.w3.org/2000/svg';

/** Drawings of 24 by 24, as path data. */
const ICONS = {
  back: 'M15 5l-7 7 7 7',
  bell: 'M6 16V11a6 6 0 0 1 12 0v5l2 2H4zM10 21h4',
  person: 'M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4 21a8 8 0 0 1 16 0',
  people:
    'M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM2 20a7 7 0 0 1 14 0M16 4.5a3.5 3.5 0 0 1 0 6M18 13.5a7 7 0 0 1 4 6.5',
  clock: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7v5l3 2',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  copy: 'M9 9h11v11H9zM15 9V4H4v11h5',
  plus: 'M12 5v14M5 12h14',
  search: 'M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM16 16l5 5',
  trash: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13',
  mute: 'M4 9v6h4l5 4V5L8 9zM17 9l5 6M22 9l-5 6',
  sound: 'M4 9v6h4l5 4V5L8 9zM17 9a4 4 0 0 1 0 6M19.5 6.5a8 8 0 0 1 0 11',
  close: 'M6 6l12 12M18 6L6 18',
  flash: 'M13 2L5 14h6l-1 8 8-12h-6z',
  image: 'M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01',
  send: 'M4 12l16-8-6 16-3-6z',
  warning: 'M12 4L2.5 20h19zM12 10v4M12 17v.01',
};

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * Makes an element. `class` and `text` set those; `on…` adds a listener; `data` sets data attributes; true is an
 * empty attribute, and false, null and undefined are none.
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...(Child | Child[])} children
 * @returns {any}
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'text') node.textContent = clean(value);
    else if (name === 'value') /** @type {any} */ (node).value = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'data') Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  add(node, children);
  return node;
}

/**
 * @param {Node} node
 * @param {(Child | Child[])[]} children
 */
function add(node, children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    node.appendChild(child instanceof Node ? child : document.createTextNode(clean(child)));
  }
}

/**
 * @param {keyof typeof ICONS} name
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', ICONS[name]);
  svg.appendChild(path);
  return svg;
}

/**
 * Text without the characters that could disguise it.
 * @param {any} value
 */
export function clean(value) {
  return String(value ?? '').replace(DISGUISES, '');
}

/**
 * Text written by a user: isolated, so that its direction does not change what stands around it.
 * @param {any} value
 * @param {string} [className]
 */
export function said(value, className = '') {
  return el('bdi', { class: `said ${className}`, text: value });
}

/**
 * Sets a text if it is another one: an unchanged text costs no layout.
 * @param {Node} node
 * @param {any} value
 */
export function setText(node, value) {
  const text = clean(value);
  if (node.textContent !== text) node.textContent = text;
}

/**
 * @param {Element} node
 * @param {string} name
 * @param {string | boolean | null} value
 */
export function setAttribute(node, name, value) {
  if (value === null || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, value === true ? '' : String(value));
  }
}

/**
 * Shows or hides an element.
 * @param {Element} node
 * @param {boolean} isShown
 */
export function show(node, isShown) {
  setAttribute(node, 'hidden', !isShown);
}

/**
 * Replaces all children.
 * @param {Element} node
 * @param {...(Child | Child[])} children
 */
export function fill(node, ...children) {
  node.replaceChildren();
  add(node, children);
}

/**
 * Makes the children of a list those of the items, with the fewest changes: elements are kept by key.
 * @template T
 * @param {Element} list
 * @param {T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(item: T) => Element} create
 * @param {(node: any, item: T) => void} [update]
 */
export function keyed(list, items, keyOf, create, update = () => {}) {
  /** @type {Map<string, any>} */
  const known = /** @type {any} */ (list).known ?? new Map();
  /** @type {Map<string, any>} */
  const kept = new Map();
  for (const item of items) {
    const key = keyOf(item);
    kept.set(key, known.get(key) ?? create(item));
  }
  for (const [key, node] of known) if (!kept.has(key)) node.remove();
  let place = list.firstElementChild;
  for (const item of items) {
    const node = kept.get(keyOf(item));
    if (node === place) place = node.nextElementSibling;
    else list.insertBefore(node, place);
    update(node, item);
  }
  /** @type {any} */ (list).known = kept;
}

/**
 * A function that runs `draw` once in the next frame, however often it is called before.
 * @param {() => void} draw
 * @returns {{(): void, stop(): void}}
 */
export function framed(draw) {
  let frame = 0;
  const ask = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  };
  return Object.assign(ask, { stop: () => cancelAnimationFrame(frame) });
}

let numbers = 0;

/** An id that no other element has, for labels. */
export function freshId() {
  return `e${++numbers}`;
}

/** A random UUID. `crypto.randomUUID` is missing on pages that were not loaded over TLS. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}
