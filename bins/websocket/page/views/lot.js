/**
 * One lot, for bidders and watchers: picture, price, time, the bid button, talk, and the result.
 */

import { raise, setTitle } from '../alerts.js';
import { Marks, countdownText, nextChangeIn, urgency } from '../countdown.js';
import { clean, el, fill, framed, icon, said, setAttribute, setText, show } from '../dom.js';
import { fromWire } from '../money.js';
import { empty, say } from '../shell.js';
import { write } from '../store.js';
import { dateText, failureText, lengthText, money, t } from '../text.js';
import { bidBar } from './bidbar.js';
import { media } from './media.js';
import { prebidPanel } from './prebid.js';
import { talk } from './talk.js';
import { verifyPanel } from './verify.js';

/**
 * @param {import('../main.js').App} app
 * @param {string} id
 */
export function lotView(app, id) {
  const room = app.live.open(id);
  const heading = el('h1', { tabindex: -1, class: 'unseen', text: t('lot.loading') });
  const node = el('div', { class: 'wide' }, heading, el('div', { class: 'lot-loading', 'aria-hidden': 'true' }));
  /** @type {ReturnType<typeof content> | null} */
  let shown = null;
  const view = {
    node,
    title: t('lot.untitled'),
    close() {
      draw.stop();
      room.removeEventListener('change', draw);
      shown?.close();
      app.live.leave(room);
    },
  };
  const draw = framed(() => {
    if (shown) return shown.draw();
    if (room.auction && room.state) {
      shown = content(app, room);
      fill(node, shown.node);
      setTitle(clean(room.auction.title));
      shown.draw();
    } else if (room.failure) {
      setText(heading, t('lot.failed'));
      const home = el('a', { class: 'button', href: '#/', text: t('missing.home') });
      fill(node, heading, empty(t('lot.failed'), failureText({ code: room.failure }), home));
    }
  });
  room.addEventListener('change', draw);
  draw();
  return view;
}

/**
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 */
function content(app, room) {
  const { auction } = room;
  const figures = priceAndTime(room);
  const bar = bidBar(app, room);
  const ahead = prebidPanel(app, room);
  const talking = talk(app, room);
  const pictures = media(app, room);
  const title = el('h1', { tabindex: -1 }, said(auction.title));
  const seller = el('p', { class: 'seller' }, t('lot.by'), ' ', said(auction.seller_name || auction.host_username));
  const manage = el('a', { class: 'button small', href: `#/sell/${room.id}`, text: t('lot.manage') });
  const back = el('a', { class: 'back', href: '#/' }, icon('back'), t('nav.lots'));
  const connection = el('p', { class: 'pill' });
  const result = el('div', { class: 'result', hidden: true });
  const verify = verifyPanel(app, room);
  const head = el(
    'div',
    { class: 'lot-head' },
    el('div', { class: 'title-row' }, el('div', {}, title, seller), manage),
    figures.node,
    result,
    verify.node,
  );
  const top = el('div', { class: 'lot-top' }, back, connection);
  const side = el('div', { class: 'lot-side' }, head, ahead.node, bar.node, talking.node);
  const rules = about(auction, room.state.status === 'scheduled');
  const node = el('article', { class: 'lot' }, top, pictures.node, side, rules);
  let isOver = false;
  return {
    node,
    draw() {
      drawConnection(connection, room);
      show(manage, room.isHost);
      figures.draw();
      show(bar.node, !ahead.draw());
      bar.draw();
      talking.draw();
      pictures.draw();
      verify.draw();
      setAttribute(node, 'data-over', room.isOver);
      // The winner's name comes with the auction object, a moment after the end.
      if (room.isOver) drawResult(result, room);
      if (room.isOver && !isOver) show(result, (isOver = true));
    },
    close() {
      figures.close();
      bar.close();
      talking.close();
      pictures.close();
      verify.close();
    },
  };
}

/**
 * The state of the connection, always visible: what the prices are worth.
 * @param {HTMLElement} pill
 * @param {import('../room.js').Room} room
 */
export function drawConnection(pill, room) {
  let kind = 'live';
  if (room.isOver) kind = 'over';
  else if (room.isStale) kind = room.live.link === 'connecting' ? 'connecting' : 'lost';
  else if (room.isPolling) kind = 'polling';
  setAttribute(pill, 'data-kind', kind);
  setText(pill, t(`link.${kind}`));
}

/**
 * Price, leader, time left and counts.
 * @param {import('../room.js').Room} room
 */
export function priceAndTime(room) {
  const label = el('span', { class: 'label' });
  const price = el('strong', { class: 'price' });
  const timer = el('strong', { class: 'timer', role: 'timer', 'aria-label': t('time.label') });
  const timeLabel = el('span', { class: 'label', text: t('time.label') });
  const leader = el('p', { class: 'leader' });
  const bids = el('span', {});
  const people = el('span', {});
  const extended = el('p', { class: 'extended', hidden: true });
  const reserve = el('p', { class: 'reserve', hidden: true });
  const { follows } = room.auction;
  const before = el('a', { href: `#/lot/${follows}`, text: t('time.follows.lot') });
  const waits = el('p', { class: 'hint', hidden: true }, t('time.follows'), ' ', before);
  const node = el(
    'div',
    { class: 'figures' },
    el('div', { class: 'figure' }, label, price),
    el('div', { class: 'figure end' }, timeLabel, timer),
    leader,
    el('p', { class: 'counts' }, bids, people),
    waits,
    reserve,
    extended,
  );
  const marks = new Marks();
  let announced = '';
  /** @type {any} */
  let tick = null;

  const drawTime = () => {
    clearTimeout(tick);
    const left = room.remaining();
    show(extended, Boolean(room.extended && room.extended.until > Date.now() && left));
    const wait = room.untilStart();
    setText(timeLabel, t(wait === null ? 'time.label' : 'start.label'));
    setAttribute(timer, 'aria-label', timeLabel.textContent);
    if (wait !== null) {
      setText(timer, wait === 0 ? t('start.confirming') : countdownText(wait));
      setAttribute(timer, 'data-urgency', wait > 0 && !room.isStale ? urgency(wait) : 'calm');
      tick = setTimeout(drawTime, Math.max(50, nextChangeIn(wait)));
      return;
    }
    if (!left) {
      const { status } = room.state;
      setText(timer, t(`status.${status}`));
      setAttribute(timer, 'data-urgency', null);
      tick = room.isOver ? null : setTimeout(drawTime, 1_000);
      return;
    }
    setText(timer, left.isConfirming ? t('time.confirming') : countdownText(left.ms));
    setAttribute(timer, 'data-urgency', room.isStale ? 'calm' : urgency(left.ms));
    const mark = marks.see(left.ms);
    if (mark !== null) {
      say(t('time.mark', { count: mark }));
      if (mark === 10 && room.hasBid) raise('last', { id: room.id, text: '', title: '' });
    }
    tick = setTimeout(drawTime, Math.max(50, nextChangeIn(left.ms)));
  };

  const draw = () => {
    const { state, auction } = room;
    const currency = auction.currency;
    const isSold = state.status === 'closed' && room.result !== null;
    const cents = isSold ? room.result : (room.price ?? fromWire(state.starting_bid));
    setText(label, t(isSold ? 'price.sold' : room.price === null ? 'price.start' : 'price.now'));
    setText(price, money(cents, currency));
    setAttribute(node, 'data-turn', turnOf(room));
    drawLeader(leader, room);
    show(waits, Boolean(follows) && state.status === 'scheduled');
    show(reserve, Boolean(auction.has_reserve) && !room.isOver);
    setText(reserve, t(state.reserve_met ? 'reserve.met' : 'reserve.open'));
    setText(bids, t('bids.count', { count: state.bid_count ?? 0 }));
    setText(people, t('people.count', { count: state.participant_count ?? 0 }));
    if (room.extended) {
      const most = auction.anti_snipe?.max_extensions;
      const { ms, count } = room.extended;
      const extension = most ? 'time.extended.of' : 'time.extended';
      const parts = { seconds: Math.round(ms / 1000), count, most: most ?? 0 };
      setText(extended, t(count === 0 ? 'time.outage' : extension, parts));
    }
    drawTime();
    const now = room.price === null || room.isOver ? '' : t('turn.now', { price: money(room.price, currency) });
    if (now && now !== announced && announced !== '') say(`${now} ${leader.textContent}`);
    if (now) announced = now;
  };
  return { node, draw, close: () => clearTimeout(tick) };
}

/** @param {import('../room.js').Room} room */
function turnOf(room) {
  if (room.isOver || room.isHost || !room.hasBid || room.state.status === 'scheduled') return null;
  return room.isLeading ? 'leading' : 'outbid';
}

/**
 * @param {HTMLElement} node
 * @param {import('../room.js').Room} room
 */
function drawLeader(node, room) {
  const { state, auction } = room;
  const turn = turnOf(room);
  const name = state.high_bidder_username;
  const key = `${state.high_bidder_id} ${name} ${turn} ${room.maximum} ${state.status}`;
  if (node.dataset.key === key) return;
  node.dataset.key = key;
  if (room.isOver) return fill(node);
  if (room.untilStart() !== null) return fill(node, t('start.at', { time: dateText(auction.starts_at) }));
  if (turn === 'leading' && room.maximum !== null) {
    return fill(node, icon('check'), t('leader.you.most', { price: money(room.maximum, auction.currency) }));
  }
  if (turn === 'leading') return fill(node, icon('check'), t('leader.you'));
  if (!name) return fill(node, t('leader.none'));
  fill(node, turn === 'outbid' && el('strong', { text: t('leader.outbid') }), said(name), ' ', t('leader.other'));
}

/**
 * The result: outcome, price and winner, and the ways on.
 * @param {HTMLElement} node
 * @param {import('../room.js').Room} room
 */
export function drawResult(node, room) {
  const { state, auction } = room;
  const outcome = state.outcome ?? auction.outcome ?? (state.status === 'cancelled' ? 'cancelled' : null);
  const winner = state.winner_id ?? auction.winner_id;
  const name = state.winner_username ?? auction.winner_username;
  const isWinner = outcome === 'sold' && winner !== null && winner === room.me;
  const key = `${outcome} ${name} ${room.result} ${room.hasBid} ${room.me}`;
  if (node.dataset.key === key) return;
  node.dataset.key = key;
  const price = money(room.result, auction.currency);
  const kind = isWinner ? 'won' : outcome === 'sold' ? (room.isHost ? 'sold.host' : 'sold') : (outcome ?? 'waiting');
  node.dataset.kind = kind;
  const heading = el('h2', { text: t(`result.${kind}`, { price }) });
  const who = outcome === 'sold' && !isWinner && el('p', {}, t('result.to'), ' ', said(name, 'strong'));
  const own = !isWinner && room.hasBid && outcome === 'sold' && el('p', { text: t('result.lost') });
  const reason = kind === 'unsold' && room.price !== null ? 'unsold.reserve' : kind;
  const next = t(room.isHost ? `result.${reason}.host.next` : `result.${reason}.next`);
  const more = /^result\./.test(next) ? null : el('p', { class: 'hint', text: next });
  const again = el('a', { class: 'button', href: '#/sell/new', text: t('result.again') });
  again.addEventListener('click', () => write('session', 'flash.again', auction));
  const others = el('a', { class: 'button', href: '#/', text: t('result.others') });
  const mine = el('a', { class: 'button', href: '#/mine', text: t('nav.mine') });
  const create = el('a', { class: 'button primary', href: '#/sell/new', text: t('sell.new') });
  const ways = room.isHost ? [again, create] : [others, room.me !== null && mine];
  const links = el('p', { class: 'actions' }, ...ways);
  fill(node, heading, who, own, more, links);
}

/**
 * The description and the rules of this auction, in words.
 * @param {any} auction
 * @param {boolean} isWaiting it has not opened
 */
function about(auction, isWaiting) {
  const { anti_snipe: rule, currency } = auction;
  const facts = [
    ['about.step', money(fromWire(auction.bid_increment), currency)],
    ['about.start', money(fromWire(auction.starting_bid), currency)],
    auction.buy_now_price && ['about.buy_now', money(fromWire(auction.buy_now_price), currency)],
    auction.category && ['about.category', auction.category],
    auction.condition && ['about.condition', auction.condition],
    // One that waits for another lot has no time yet.
    (auction.starts_at || !isWaiting) && [
      isWaiting ? 'about.opens' : 'about.opened',
      dateText(auction.starts_at ?? auction.created_at),
    ],
    auction.duration && ['about.duration', lengthText(auction.duration)],
  ].filter(Boolean);
  const list = facts.map((/** @type {any} */ [key, value]) => {
    return el('div', {}, el('dt', { text: t(key) }), el('dd', {}, said(value)));
  });
  const extends_ = rule && rule.mode !== 'off';
  const parts = { window: rule?.window ?? 0, extension: rule?.extension ?? 0, count: rule?.max_extensions ?? 0 };
  const key = !extends_ ? 'about.fixed' : rule.max_extensions > 0 ? 'about.extends.of' : 'about.extends';
  return el(
    'section',
    { class: 'lot-about', 'aria-label': t('about.title') },
    el('h2', { text: t('about.title') }),
    auction.description ? el('p', { class: 'description' }, said(auction.description)) : null,
    el('dl', {}, ...list),
    el('p', { class: 'hint', text: t(key, parts) }),
  );
}
