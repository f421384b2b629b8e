/**
 * Photos of a new auction: files by `POST /api/uploads` where the server takes them, else addresses.
 */

import { el, fill, icon, setText, show } from '../dom.js';
import { failureText, t } from '../text.js';
import { picture, pictureAddress } from './parts.js';

/** Photos of an auction, by CONTRACT.md, Creating an auction. */
const MAX_PHOTOS = 10;
/** Types that are taken, and the largest file, in bytes. The server has the last word. */
const TYPES = ['image/jpeg', 'image/png', 'image/webp', 'image/avif', 'image/gif'];
const MOST_BYTES = 10 * 1024 * 1024;

/**
 * @param {import('../main.js').App} app
 * @param {string[]} first
 * @param {() => void} changed
 */
export function photos(app, first, changed) {
  /** @type {{address: string | null, name: string}[]} */
  let all = first.map((address) => ({ address, name: address }));
  const files = el('input', { type: 'file', accept: TYPES.join(','), multiple: true, class: 'unseen', id: 'photos' });
  const add = el('label', { class: 'button', for: 'photos' }, icon('image'), t('create.photos.add'));
  const address = el('input', { type: 'url', inputmode: 'url', id: 'photo-address', placeholder: 'https://' });
  const take = el('button', { type: 'button', text: t('create.photos.take') });
  const byAddress = el(
    'div',
    { class: 'by-address' },
    el('label', { for: 'photo-address', text: t('create.photos.address') }),
    el('div', { class: 'joined' }, address, take),
  );
  const list = el('ul', { class: 'photos' });
  const error = el('p', { class: 'field-error', role: 'alert' });
  const intro = el('legend', {}, t('create.photos'), ' ', el('small', { text: t('create.optional') }));
  const node = el('fieldset', { class: 'field' }, intro, list, el('div', {}, files, add), byAddress, error);

  const draw = () => {
    const items = all.map((photo) => {
      const label = t('create.photos.remove', { name: photo.name });
      const remove = el('button', { class: 'quiet', type: 'button', 'aria-label': label }, icon('close'));
      remove.addEventListener('click', () => {
        all = all.filter((other) => other !== photo);
        draw();
        changed();
      });
      const shown = photo.address
        ? picture({ auction_id: '', image_url: photo.address })
        : el('div', { class: 'picture bones' });
      return el('li', {}, shown, remove);
    });
    fill(list, ...items);
    show(list, all.length > 0);
  };

  files.addEventListener('change', async () => {
    setText(error, '');
    const chosen = [...files.files];
    files.value = '';
    for (const file of chosen) {
      if (all.length >= MAX_PHOTOS) return setText(error, t('create.photos.many', { count: MAX_PHOTOS }));
      const fault = faultOf(file);
      if (fault) {
        setText(error, fault);
        continue;
      }
      const photo = { address: /** @type {string | null} */ (null), name: file.name };
      all.push(photo);
      draw();
      try {
        photo.address = await upload(app, file);
      } catch (/** @type {any} */ failure) {
        all = all.filter((other) => other !== photo);
        const isMissing = ['not_found', 'method_not_allowed'].includes(failure.code);
        setText(error, isMissing ? t('create.photos.impossible') : `${file.name}: ${failureText(failure)}`);
        if (isMissing) address.focus();
      }
      draw();
      changed();
    }
  });

  const takeAddress = () => {
    const text = pictureAddress(address.value.trim());
    if (!text) return setText(error, t('create.photos.invalid'));
    if (all.length >= MAX_PHOTOS) return setText(error, t('create.photos.many', { count: MAX_PHOTOS }));
    if (!all.some((photo) => photo.address === text)) all.push({ address: text, name: text });
    address.value = '';
    setText(error, '');
    draw();
    changed();
  };
  take.addEventListener('click', takeAddress);
  address.addEventListener('keydown', (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== 'Enter') return;
    event.preventDefault();
    takeAddress();
  });
  draw();
  return {
    node,
    /** Addresses of the photos, with one that was typed and not added yet. */
    addresses() {
      const found = all.map((photo) => photo.address).filter((one) => one !== null);
      const typed = pictureAddress(address.value.trim());
      return typed && !found.includes(typed) && found.length < MAX_PHOTOS ? [...found, typed] : found;
    },
    isLoading: () => all.some((photo) => photo.address === null),
    fail: (/** @type {string} */ text) => text && setText(error, text),
  };
}

/** @param {File} file */
function faultOf(file) {
  if (!TYPES.includes(file.type)) return t('create.photos.type', { name: file.name });
  if (file.size > MOST_BYTES) return t('create.photos.large', { name: file.name, count: MOST_BYTES / 1024 / 1024 });
  return null;
}

/**
 * Asks for a place, puts the file there, and returns the address under which it is then found.
 * @param {import('../main.js').App} app
 * @param {File} file
 * @returns {Promise<string>}
 */
async function upload(app, file) {
  const asked = { content_type: file.type, size: file.size };
  const { upload_url, method, headers, image_url, expires_in } = await app.api.post('/uploads', asked);
  // Afterwards the address takes no file any more.
  const signal = AbortSignal.timeout(expires_in * 1000);
  const answer = await fetch(upload_url, { method, headers, body: file, signal }).catch(() => null);
  if (!answer?.ok) throw { code: 'upload_failed' };
  return image_url;
}
