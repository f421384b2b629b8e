/**
 * Chat, bid history and people, as three tabs of one panel. Lists are bounded, and elements are kept by key.
 */

import { clean, el, fill, icon, keyed, said, setAttribute, setText, show } from '../dom.js';
import { fromWire } from '../money.js';
import { say, signInOrExplain, toast } from '../shell.js';
import { read, write } from '../store.js';
import { failureText, money, t, timeText } from '../text.js';

/** Longest message, by CONTRACT.md, Chat. */
const MAX_CHARACTERS = 500;
/** Bids shown before older ones are asked for. */
const BIDS_SHOWN = 30;
/** Least time between two drawings of a list, in milliseconds: no one reads faster, and lists cost the most. */
const DRAW_EVERY_MS = 200;
/** Distance from the end of the chat at which new messages still scroll it, in pixels. */
const NEAR_END = 60;
/** Seconds for which the host mutes a person. */
const MUTE_SECONDS = 600;
/** Beginning of the names under which the typed text of a chat is kept. */
const KEPT = 'flash.say.';

/**
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 */
export function talk(app, room) {
  const panels = { chat: chat(app, room), bids: bids(room), people: people(room) };
  const tabs = el('div', { role: 'tablist', class: 'tabs', 'aria-label': t('talk.label') });
  const node = el('section', { class: 'lot-talk', 'aria-label': t('talk.label') }, tabs);
  /** @type {keyof typeof panels} */
  let chosen = 'chat';
  const names = /** @type {(keyof typeof panels)[]} */ (Object.keys(panels));
  const buttons = names.map((name) => {
    const tab = el('button', { role: 'tab', type: 'button', id: `tab-${name}`, 'aria-controls': `panel-${name}` });
    tab.addEventListener('click', () => choose(name));
    tabs.append(tab);
    const panel = panels[name].node;
    for (const [key, value] of [
      ['role', 'tabpanel'],
      ['id', `panel-${name}`],
      ['aria-labelledby', `tab-${name}`],
    ]) {
      panel.setAttribute(key, value);
    }
    node.append(panel);
    return tab;
  });
  tabs.addEventListener('keydown', (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = (names.indexOf(chosen) + step + names.length) % names.length;
    choose(names[next]);
    buttons[next].focus();
  });
  const choose = (/** @type {keyof typeof panels} */ name) => {
    chosen = name;
    draw();
    panels[name].chosen?.();
  };
  let drawnAt = -Infinity;
  /** @type {any} */
  let later = null;
  /** For changes of the room, which may be many in a second. */
  const drawSoon = () => {
    later ??= setTimeout(draw, Math.max(0, drawnAt + DRAW_EVERY_MS - performance.now()));
  };
  const draw = () => {
    clearTimeout(later);
    later = null;
    drawnAt = performance.now();
    const counts = { chat: '', bids: room.state.bid_count ?? 0, people: room.state.participant_count ?? 0 };
    names.forEach((name, nth) => {
      setText(buttons[nth], counts[name] === '' ? t(`talk.${name}`) : `${t(`talk.${name}`)} · ${counts[name]}`);
      setAttribute(buttons[nth], 'aria-selected', String(name === chosen));
      setAttribute(buttons[nth], 'tabindex', name === chosen ? '0' : '-1');
      show(panels[name].node, name === chosen);
    });
    panels[chosen].draw();
  };
  draw();
  return { node, draw: drawSoon, close: () => clearTimeout(later) };
}

/**
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 */
function chat(app, room) {
  const list = el('ol', {});
  const log = el('div', { class: 'messages', role: 'log', tabindex: 0, 'aria-label': t('talk.chat') }, list);
  const none = el('p', { class: 'hint', text: t('chat.none') });
  // The typed text outlives a reload and the way to the sign-in and back.
  const kept = KEPT + room.id;
  const input = el('input', {
    'aria-label': t('chat.label'),
    placeholder: t('chat.label'),
    maxlength: MAX_CHARACTERS,
    value: read('session', kept) ?? '',
  });
  input.addEventListener('input', () => write('session', kept, input.value || null));
  const send = el('button', { class: 'quiet', type: 'submit', 'aria-label': t('chat.send') }, icon('send'));
  const error = el('p', { class: 'field-error', role: 'alert' });
  const form = el('form', { class: 'say' }, input, send);
  const signIn = el('button', { class: 'small', type: 'button', text: t('chat.signin') });
  signIn.addEventListener('click', () => signInOrExplain(app.session));
  const node = el('div', { class: 'panel chat' }, none, log, error, form, signIn);
  let isSending = false;
  let isAtEnd = true;
  log.addEventListener('scroll', () => (isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END), {
    passive: true,
  });
  form.addEventListener('submit', async (/** @type {Event} */ event) => {
    event.preventDefault();
    const text = clean(input.value).trim();
    if (!text || isSending) return;
    isSending = true;
    const answer = await room.say(text);
    isSending = false;
    // The typed text stays until the server has it.
    if (answer.message_id && clean(input.value).trim() === text) {
      input.value = '';
      write('session', kept, null);
    }
    setText(error, answer.message_id ? '' : failureText(answer));
  });
  const draw = () => {
    const create = (/** @type {any} */ one) => messageRow(room, one);
    const before = list.lastElementChild;
    keyed(list, room.messages, (one) => one.message_id, create);
    if (isAtEnd && list.lastElementChild !== before) log.scrollTop = log.scrollHeight;
    show(none, room.messages.length === 0);
    show(log, room.messages.length > 0);
    show(form, room.me !== null && !room.isOver);
    show(signIn, room.me === null && !room.isOver);
    send.disabled = !room.isConnected;
  };
  return { node, draw, chosen: () => (log.scrollTop = log.scrollHeight) };
}

/**
 * @param {import('../room.js').Room} room
 * @param {any} message
 */
function messageRow(room, message) {
  const name = message.user_id === room.me ? t('you') : message.username;
  const host = message.is_host && el('span', { class: 'tag', text: t('chat.host') });
  const row = el('li', {}, el('p', {}, said(name, 'author'), host, ' ', said(message.message)));
  if (!room.isHost) return row;
  const button = (/** @type {any} */ drawing, /** @type {string} */ key, /** @type {() => Promise<any>} */ act) => {
    const label = t(key, { name: message.username });
    const made = el('button', { class: 'quiet', type: 'button', 'aria-label': label, title: label }, icon(drawing));
    made.addEventListener('click', async () => {
      const answer = await act();
      if (answer.error || answer.code) toast(failureText(answer), { tone: 'bad' });
      else say(t(`${key}.done`, { name: message.username }));
    });
    return made;
  };
  const { message_id, user_id } = message;
  const remove = () => room.moderate('chat_delete', { message_id });
  const mute = () => {
    toast(t('chat.mute.done', { name: message.username }), { isSilent: true });
    return room.moderate('chat_mute', { user_id, seconds: MUTE_SECONDS });
  };
  const buttons = el('span', { class: 'moderate' }, button('trash', 'chat.delete', remove));
  if (!message.is_host) buttons.append(button('mute', 'chat.mute', mute));
  row.append(buttons);
  return row;
}

/** @param {import('../room.js').Room} room */
function bids(room) {
  const list = el('ol', { class: 'bids' });
  const none = el('p', { class: 'hint', text: t('bids.none') });
  const older = el('button', { class: 'small', type: 'button', text: t('bids.older') });
  const error = el('p', { class: 'field-error', role: 'alert' });
  const node = el('div', { class: 'panel', tabindex: 0 }, none, list, error, older);
  let shown = BIDS_SHOWN;
  let isAll = false;
  older.addEventListener('click', async () => {
    shown += BIDS_SHOWN;
    draw();
    if (room.bids.length >= shown) return;
    older.disabled = true;
    try {
      isAll = (await room.loadOlder()) === 0;
      setText(error, '');
    } catch (/** @type {any} */ failure) {
      setText(error, failureText(failure));
    }
    older.disabled = false;
    draw();
  });
  const draw = () => {
    const { currency } = room.auction;
    const create = (/** @type {any} */ bid) =>
      el(
        'li',
        { class: bid.user_id === room.me ? 'own' : '' },
        said(bid.user_id === room.me ? t('you') : bid.username, 'author'),
        bid.kind && bid.kind !== 'bid' ? el('span', { class: 'tag', text: t(`bids.kind.${bid.kind}`) }) : null,
        el('time', { datetime: new Date(bid.timestamp).toISOString(), text: timeText(bid.timestamp) }),
        el('strong', { text: money(fromWire(bid.amount), currency) }),
      );
    keyed(list, room.bids.slice(0, shown), (bid) => String(bid.seq), create);
    show(none, room.bids.length === 0);
    show(list, room.bids.length > 0);
    show(older, !isAll && room.bids.length > 0 && (room.state.bid_count ?? 0) > Math.min(shown, room.bids.length));
  };
  return { node, draw, chosen: undefined };
}

/** @param {import('../room.js').Room} room */
function people(room) {
  const count = el('p', { class: 'strong' });
  const best = el('ol', { class: 'bids' });
  const bestTitle = el('h2', { text: t('people.best') });
  const seenTitle = el('h2', { text: t('people.seen') });
  const seen = el('ul', { class: 'names' });
  const node = el('div', { class: 'panel', tabindex: 0 }, count, bestTitle, best, seenTitle, seen);
  const draw = () => {
    setText(count, t('people.count', { count: room.state.participant_count ?? 0 }));
    const top = room.state.top_bids ?? [];
    show(bestTitle, top.length > 0);
    const create = () => el('li', {});
    keyed(
      best,
      top,
      (/** @type {any} */ one) => one.user_id,
      create,
      (row, /** @type {any} */ one) => {
        const key = `${one.username} ${one.amount}`;
        if (row.dataset.key === key) return;
        row.dataset.key = key;
        const name = one.user_id === room.me ? t('you') : one.username;
        fill(row, said(name, 'author'), el('strong', { text: money(fromWire(one.amount), room.auction.currency) }));
      },
    );
    const names = [...room.people].slice(-30);
    show(seenTitle, names.length > 0);
    keyed(
      seen,
      names,
      ([id]) => id,
      ([, name]) => el('li', {}, said(name)),
    );
  };
  return { node, draw, chosen: undefined };
}
