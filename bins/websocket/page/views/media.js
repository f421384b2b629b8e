/**
 * The stream where the auction has one and this browser can play it, else the gallery.
 */

import { el, icon, setAttribute, setText, show } from '../dom.js';
import { t } from '../text.js';
import { picture, pictureAddress } from './parts.js';

/** Pictures of an auction that are shown, as many as it may have. */
const MAX_PICTURES = 10;
/** Pause before a stream that did not play is tried again, in milliseconds. */
const AGAIN_MS = 8_000;

/**
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 */
export function media(app, room) {
  const { auction } = room;
  const addresses = [auction.image_url, ...(auction.gallery_images ?? auction.images ?? [])].map(pictureAddress);
  const pictures = [...new Set(addresses.filter(Boolean))].slice(0, MAX_PICTURES);
  const stage = el('div', { class: 'stage' }, picture({ ...auction, image_url: pictures[0] }, auction.title));
  const node = el('div', { class: 'lot-media' }, stage);
  if (pictures.length > 1) node.append(gallery(stage, auction, pictures));
  setAttribute(stage, 'data-empty', pictures.length === 0 && !auction.ivs_playback_url);
  const stream = auction.ivs_playback_url ? video(app, room, stage) : null;
  return {
    node,
    draw: () => stream?.draw(),
    close: () => stream?.close(),
  };
}

/**
 * @param {HTMLElement} stage
 * @param {any} auction
 * @param {any[]} pictures
 */
function gallery(stage, auction, pictures) {
  const buttons = pictures.map((address, nth) => {
    const label = t('gallery.picture', { number: nth + 1, count: pictures.length });
    const small = picture({ auction_id: auction.auction_id, image_url: address });
    const button = el('button', { type: 'button', class: 'thumb', 'aria-label': label }, small);
    setAttribute(button, 'aria-pressed', String(nth === 0));
    button.addEventListener('click', () => {
      stage.querySelector('.picture')?.replaceWith(picture({ ...auction, image_url: address }, auction.title));
      buttons.forEach((other, which) => setAttribute(other, 'aria-pressed', String(which === nth)));
    });
    return button;
  });
  return el('div', { class: 'thumbs' }, ...buttons);
}

/**
 * Plays the stream by the browser itself, or by the player module of the configuration. It starts without sound,
 * because browsers allow no other start.
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 * @param {HTMLElement} stage
 */
function video(app, room, stage) {
  const address = room.auction.ivs_playback_url;
  const screen = el('video', { playsinline: true, autoplay: true, hidden: true, 'aria-label': t('video.label') });
  screen.muted = true;
  const sound = el('button', { class: 'sound', type: 'button', hidden: true }, icon('sound'), t('video.sound'));
  const note = el('p', { class: 'stage-note' });
  const badge = el('p', { class: 'on-air', text: t('video.live'), hidden: true });
  stage.append(screen, sound, badge, note);
  sound.addEventListener('click', () => {
    screen.muted = !screen.muted;
    drawSound();
  });
  const drawSound = () => {
    sound.replaceChildren(icon(screen.muted ? 'sound' : 'mute'), t(screen.muted ? 'video.sound' : 'video.silence'));
  };
  /** @type {{close?: () => void, latency?: () => number | null} | null} */
  let player = null;
  /** @type {any} */
  let timer = null;
  let isClosed = false;
  let isPlaying = false;
  let wasStreaming = room.isStreaming;
  const isNative = screen.canPlayType('application/vnd.apple.mpegurl') !== '';
  const set = (/** @type {boolean} */ plays) => {
    isPlaying = plays;
    show(screen, plays);
    show(sound, plays);
    draw();
  };
  const start = async () => {
    clearTimeout(timer);
    if (isClosed || room.isOver) return;
    try {
      player?.close?.();
      if (isNative) screen.src = address;
      else if (app.config.video_player_url) {
        const module = await import(app.config.video_player_url);
        player = await module.attach(screen, address);
      } else return;
      await screen.play();
      set(true);
    } catch {
      set(false);
      timer = setTimeout(start, AGAIN_MS);
    }
  };
  screen.addEventListener('error', () => {
    set(false);
    clearTimeout(timer);
    timer = setTimeout(start, AGAIN_MS);
  });
  screen.addEventListener('ended', () => set(false));
  const draw = () => {
    const isPossible = isNative || app.config.video_player_url;
    const late = player?.latency?.();
    // The stream has just begun: do not wait for the next attempt.
    const hasBegun = room.isStreaming && !wasStreaming;
    wasStreaming = room.isStreaming;
    if (hasBegun && !isPlaying) void start();
    show(badge, room.isStreaming === true && !room.isOver);
    let text = '';
    if (room.isOver) show(note, false);
    else if (isPlaying) text = late ? t('video.late', { count: Math.round(late) }) : t('video.late.unknown');
    else if (room.isStreaming === false) text = t('video.off');
    else text = t(isPossible ? 'video.waiting' : 'video.unsupported');
    setText(note, text);
  };
  void start();
  return {
    draw,
    close() {
      isClosed = true;
      clearTimeout(timer);
      player?.close?.();
      screen.removeAttribute('src');
    },
  };
}
