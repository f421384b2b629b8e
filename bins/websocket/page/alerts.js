/**
 * Sound, vibration, notifications and the title's badge for what a person must not miss. All but the badge are off
 * until asked for, and remembered on this device.
 */

import { read, write } from './store.js';
import { t } from './text.js';

const KEPT = 'flash.alerts';
/** Notes of each sound, in hertz, and the length of one, in seconds. */
const SOUNDS = { outbid: [659, 494], won: [523, 659, 784], lost: [392], leading: [], last: [880, 880] };
const NOTE_SECONDS = 0.14;
const VIBRATIONS = { outbid: [120, 60, 120], won: [60, 40, 60, 40, 240], lost: [200], leading: [], last: [60] };

/** @typedef {keyof typeof SOUNDS} Alert */

/** @type {{sound: boolean, vibration: boolean, notification: boolean}} */
const chosen = { sound: false, vibration: false, notification: false, ...read('local', KEPT) };
/** @type {AudioContext | null} */
let audio = null;
/** Auctions with news that was not seen yet. @type {Set<string>} */
const unseen = new Set();
let title = '';

/** The choices, and whether this device can do each. */
export function alertChoices() {
  return {
    sound: { isOn: chosen.sound, isPossible: 'AudioContext' in globalThis },
    vibration: { isOn: chosen.vibration, isPossible: 'vibrate' in navigator },
    notification: { isOn: chosen.notification, isPossible: 'Notification' in globalThis && isSecureContext },
  };
}

/**
 * Turns one kind on or off. Must run in the handler of a press: browsers want one before sounds and notifications.
 * @param {keyof typeof chosen} kind
 * @param {boolean} isOn
 * @returns {Promise<boolean>} whether it is on now
 */
export async function choose(kind, isOn) {
  if (isOn && kind === 'notification') isOn = (await Notification.requestPermission()) === 'granted';
  chosen[kind] = isOn;
  write('local', KEPT, chosen);
  if (isOn && kind === 'sound') play('leading', [587, 784]);
  if (isOn && kind === 'vibration') navigator.vibrate?.(80);
  return isOn;
}

/**
 * @param {Alert} alert
 * @param {{id: string, text: string, title: string}} about
 */
export function raise(alert, { id, text, title: heading }) {
  if (chosen.sound) play(alert);
  if (chosen.vibration && VIBRATIONS[alert].length > 0) navigator.vibrate?.(VIBRATIONS[alert]);
  if (!document.hidden) return;
  if (alert !== 'leading' && alert !== 'last') unseen.add(id);
  showTitle();
  if (!chosen.notification || alert === 'leading' || alert === 'last') return;
  try {
    const note = new Notification(heading, { body: text, tag: id });
    note.onclick = () => {
      focus();
      location.hash = `#/lot/${id}`;
      note.close();
    };
  } catch {
    // Some phones allow notifications from service workers alone. The badge of the title remains.
  }
}

/**
 * @param {string} text the title of the present view
 */
export function setTitle(text) {
  title = text;
  showTitle();
}

function showTitle() {
  const name = title ? `${title} – ${t('app.name')}` : t('app.name');
  document.title = unseen.size > 0 ? `(${unseen.size}) ${name}` : name;
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  unseen.clear();
  showTitle();
});

/**
 * @param {Alert} alert
 * @param {number[]} [notes]
 */
function play(alert, notes = SOUNDS[alert]) {
  audio ??= new AudioContext();
  void audio.resume();
  notes.forEach((hertz, nth) => {
    if (!audio) return;
    const [tone, loudness] = [audio.createOscillator(), audio.createGain()];
    const at = audio.currentTime + nth * NOTE_SECONDS;
    tone.frequency.value = hertz;
    loudness.gain.setValueAtTime(0.12, at);
    loudness.gain.exponentialRampToValueAtTime(0.001, at + NOTE_SECONDS);
    tone.connect(loudness).connect(audio.destination);
    tone.start(at);
    tone.stop(at + NOTE_SECONDS);
  });
}
