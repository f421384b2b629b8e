/**
 * The host's console of one auction: price, time, leader, people, chat with moderation, the stream, and the ends.
 */

import { el, fill, framed, icon, said, setAttribute, setText, show } from '../dom.js';
import { empty, say, toast } from '../shell.js';
import { failureText, money, t } from '../text.js';
import { drawConnection, drawResult, priceAndTime } from './lot.js';
import { talk } from './talk.js';

/** Interval between two looks at the stream, in milliseconds. */
const LOOK_MS = 5_000;
/** Time for which the second step of closing and cancelling takes no press, in milliseconds: no double press. */
const SURE_AFTER_MS = 600;
/** Offered pauses between two chat messages of a person, in seconds. */
const SLOW_MODES = [0, 5, 15, 60];

/**
 * @param {import('../main.js').App} app
 * @param {string} id
 */
export function consoleView(app, id) {
  const room = app.live.open(id);
  const heading = el('h1', { tabindex: -1, text: t('lot.loading') });
  const node = el('div', { class: 'wide' }, heading);
  /** @type {ReturnType<typeof content> | null} */
  let shown = null;
  const draw = framed(() => {
    if (shown) return shown.draw();
    const home = el('a', { class: 'button', href: '#/sell', text: t('sell.title') });
    if (room.failure) fill(node, heading, empty(t('lot.failed'), failureText({ code: room.failure }), home));
    if (!room.auction || !room.state) return;
    if (!room.isHost) {
      setText(heading, room.auction.title);
      const lot = el('a', { class: 'button', href: `#/lot/${id}`, text: t('turn.open') });
      return fill(node, heading, empty(t('console.foreign'), t('error.not_host'), lot));
    }
    shown = content(app, room);
    fill(node, shown.node);
    shown.draw();
  });
  room.addEventListener('change', draw);
  draw();
  return {
    node,
    title: t('console.title'),
    close() {
      draw.stop();
      room.removeEventListener('change', draw);
      shown?.close();
      app.live.leave(room);
    },
  };
}

/**
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 */
function content(app, room) {
  const title = el('h1', { tabindex: -1 }, said(room.auction.title));
  const connection = el('p', { class: 'pill' });
  const back = el('a', { class: 'back', href: '#/sell' }, icon('back'), t('sell.title'));
  const figures = priceAndTime(room);
  const talking = talk(app, room);
  const ends = endings(app, room);
  const slow = slowMode(app, room);
  const stream = room.auction.ivs_channel_arn || room.auction.ivs_playback_url ? streamCard(app, room) : null;
  const over = el('div', { class: 'result', hidden: true });
  const share = el('a', { class: 'button small', href: `#/lot/${room.id}`, text: t('console.lot') });
  const link = copyRow(t('console.link'), `${location.origin}${location.pathname}#/lot/${room.id}`);
  const node = el(
    'article',
    { class: 'lot console' },
    el('div', { class: 'lot-top' }, back, connection),
    el(
      'div',
      { class: 'lot-main' },
      el('div', { class: 'lot-head' }, el('div', { class: 'title-row' }, title, share), figures.node, over),
      ends.node,
      stream?.node ?? el('p', { class: 'hint', text: t('stream.none') }),
      el(
        'section',
        { class: 'card-box', 'aria-label': t('console.share') },
        el('h2', { text: t('console.share') }),
        link,
      ),
    ),
    el('div', { class: 'lot-side' }, slow.node, talking.node),
  );
  return {
    node,
    draw() {
      drawConnection(connection, room);
      figures.draw();
      talking.draw();
      show(ends.node, !room.isOver);
      ends.draw();
      slow.draw();
      if (stream) show(stream.node, !room.isOver);
      show(over, room.isOver);
      if (room.isOver) drawResult(over, room);
    },
    close() {
      figures.close();
      talking.close();
      stream?.close();
    },
  };
}

/**
 * Closing and cancelling, each in two steps; the second names the consequence.
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 */
function endings(app, room) {
  const node = el('section', { class: 'endings', 'aria-label': t('ends.label') });
  /** The one press that can be taken back. Null on a server that cannot pause. */
  const pause = app.features.has('pause') ? el('button', { type: 'button' }) : null;
  const pauseKind = () => (room.state.status === 'paused' ? 'resume' : 'pause');
  pause?.addEventListener('click', async () => {
    // A second press of the same finger would take the first back.
    if (pause.getAttribute('aria-disabled') === 'true') return;
    setAttribute(pause, 'aria-disabled', 'true');
    await act(pauseKind());
    setAttribute(pause, 'aria-disabled', null);
  });
  const start = el('button', { class: 'primary', type: 'button', text: t('ends.start') });
  start.addEventListener('click', async () => {
    if (start.getAttribute('aria-disabled') === 'true') return;
    setAttribute(start, 'aria-disabled', 'true');
    await act('start');
    setAttribute(start, 'aria-disabled', null);
  });
  const first = () => {
    const buttons = ['close', 'cancel'].map((kind) => {
      const button = el('button', { type: 'button', text: t(`ends.${kind}`) });
      button.addEventListener('click', () => second(kind));
      return button;
    });
    fill(node, el('div', { class: 'actions' }, start, ...(pause ? [pause] : []), ...buttons));
  };
  const second = (/** @type {string} */ kind) => {
    const price = money(room.price, room.auction.currency);
    const leader = room.state.high_bidder_username;
    const isBelow = Boolean(room.auction.has_reserve) && !room.state.reserve_met;
    const unsold = room.price === null ? 'ends.close.unsold' : 'ends.close.reserve';
    const key = kind === 'close' && (room.price === null || isBelow) ? unsold : `ends.${kind}.sure`;
    const yes = el('button', { class: 'danger', type: 'button', text: t(`ends.${kind}.yes`), 'aria-disabled': 'true' });
    const no = el('button', { type: 'button', text: t('ends.no'), onclick: back });
    const openedAt = performance.now();
    setTimeout(() => setAttribute(yes, 'aria-disabled', null), SURE_AFTER_MS);
    yes.addEventListener('click', async () => {
      if (performance.now() - openedAt < SURE_AFTER_MS) return;
      setAttribute(yes, 'aria-disabled', 'true');
      if (!(await act(kind))) first();
    });
    const text = el('p', { text: t(key, { price, name: leader ?? '' }) });
    fill(node, el('div', { class: 'sure' }, text, el('div', { class: 'actions' }, no, yes)));
    no.focus();
    say(text.textContent);
  };
  const back = () => {
    first();
    /** @type {HTMLElement | null} */ (node.querySelector('button:not([hidden])'))?.focus();
  };
  const act = async (/** @type {string} */ kind) => {
    try {
      await app.api.post(`/auctions/${room.id}/${kind}`, {});
      return true;
    } catch (/** @type {any} */ error) {
      toast(failureText(error), { tone: 'bad' });
      return false;
    }
  };
  first();
  return {
    node,
    draw() {
      show(start, room.state.status === 'scheduled');
      if (!pause) return;
      setText(pause, t(`ends.${pauseKind()}`));
      show(pause, ['live', 'paused'].includes(room.state.status ?? ''));
    },
  };
}

/**
 * The stream: server and key with copy buttons, and whether it arrives.
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 */
function streamCard(app, room) {
  const state = el('p', { class: 'pill', 'data-kind': 'connecting', text: t('stream.looking') });
  const rows = el('div', { class: 'fields' });
  const how = el('ol', { class: 'steps' }, ...[1, 2, 3].map((nth) => el('li', { text: t(`stream.step.${nth}`) })));
  const heading = el('h2', { text: t('stream.title') });
  const node = el(
    'section',
    { class: 'card-box', 'aria-label': t('stream.title') },
    el('div', { class: 'title-row' }, heading, state),
    rows,
    el('details', {}, el('summary', { text: t('stream.how') }), how),
  );
  let known = '';
  /** @type {any} */
  let timer = null;
  let isClosed = false;
  const look = async () => {
    if (isClosed || room.isOver) return;
    try {
      const data = await app.api.get(`/auctions/${room.id}/stream`);
      const kind = { live: 'live', offline: 'connecting' }[/** @type {string} */ (data.state)] ?? 'over';
      setAttribute(state, 'data-kind', kind);
      setText(state, t(`stream.${data.state ?? 'unknown'}`));
      const server = serverAddress(data.ivs_ingest_endpoint);
      if (known !== server + data.ivs_stream_key) {
        known = server + data.ivs_stream_key;
        fill(rows, copyRow(t('stream.server'), server), copyRow(t('stream.key'), data.ivs_stream_key, true));
      }
    } catch (/** @type {any} */ error) {
      setAttribute(state, 'data-kind', 'lost');
      setText(state, failureText(error));
      if (error.code === 'wrong_state') return;
    }
    timer = setTimeout(look, LOOK_MS);
  };
  void look();
  return {
    node,
    close() {
      isClosed = true;
      clearTimeout(timer);
    },
  };
}

/** @param {string} endpoint */
function serverAddress(endpoint) {
  return /:\/\//.test(endpoint) ? endpoint : `rtmps://${endpoint}:443/app/`;
}

/**
 * A value with a button that copies it; a secret one is hidden until asked for.
 * @param {string} label
 * @param {string} value
 * @param {boolean} [isSecret]
 */
function copyRow(label, value, isSecret = false) {
  const field = el('input', { readonly: true, value, type: isSecret ? 'password' : 'text', 'aria-label': label });
  field.setAttribute('autocomplete', 'off');
  const copy = el(
    'button',
    { type: 'button', 'aria-label': t('copy.label', { name: label }) },
    icon('copy'),
    t('copy'),
  );
  copy.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(value);
    } catch {
      // Without TLS there is no clipboard: mark it, so that it can be copied by hand.
      field.type = 'text';
      field.select();
      if (!document.execCommand('copy')) return say(t('copy.failed'));
    }
    copy.replaceChildren(icon('check'), t('copy.done'));
    say(t('copy.done'));
    setTimeout(() => copy.replaceChildren(icon('copy'), t('copy')), 2_000);
  });
  const reveal = isSecret && el('button', { type: 'button', text: t('copy.show'), 'aria-pressed': 'false' });
  if (reveal) {
    reveal.addEventListener('click', () => {
      const isShown = field.type === 'text';
      field.type = isShown ? 'password' : 'text';
      setText(reveal, t(isShown ? 'copy.show' : 'copy.hide'));
      setAttribute(reveal, 'aria-pressed', String(!isShown));
    });
  }
  const row = el('div', { class: 'joined' }, field, reveal, copy);
  return el('div', { class: 'field' }, el('span', { class: 'label', text: label }), row);
}

/**
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 */
function slowMode(app, room) {
  const select = el('select', { id: 'slow-mode' });
  for (const seconds of SLOW_MODES) {
    select.append(
      el('option', { value: seconds, text: seconds ? t('slow.seconds', { count: seconds }) : t('slow.off') }),
    );
  }
  let before = select.value;
  select.addEventListener('change', async () => {
    try {
      await app.api.post(`/auctions/${room.id}/chat`, { slow_mode_seconds: Number(select.value) });
      before = select.value;
      say(t('slow.done'));
    } catch (/** @type {any} */ error) {
      select.value = before;
      toast(failureText(error), { tone: 'bad' });
    }
  });
  const node = el('div', { class: 'slow' }, el('label', { for: 'slow-mode', text: t('slow.label') }), select);
  const draw = () => {
    show(node, !room.isOver);
    // Servers of the first version do not say which pause is set.
    const known = room.state.slow_mode_seconds;
    if (known === undefined || String(known) === before || document.activeElement === select) return;
    if (!SLOW_MODES.includes(known)) {
      select.append(el('option', { value: known, text: t('slow.seconds', { count: known }) }));
    }
    select.value = before = String(known);
  };
  return { node, draw };
}
