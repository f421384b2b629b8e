/**
 * A lot in which bots bid so often that the edge sends an update every 50 ms: the page draws a frame with less than
 * 50 ms of work. Work is processor time of the page's main thread by the browser's own trace, so that a machine that is
 * busy with bots and servers does not count as work of the page. A virtual machine also counts the time for which its
 * host stops it. Such a stop is rare, while the page works at every update: a few frames may be longer.
 */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

import { api, ask, log, origin, report, run, screenshots, tokenOf } from './driver.mjs';

const WebSocket = createRequire(`${process.env.MODULES}/package.json`)('ws');
const BOTS = Number(process.env.BOTS);
const SECONDS = Number(process.env.SECONDS);
/** Least updates a second that make the figures a proof. The edge sends 20 at most. */
const LEAST_UPDATES = Number(process.env.LEAST_UPDATES);
/** Pause between two bids, in milliseconds: more often than the edge sends updates. */
const BID_EVERY_MS = 45;
const BIDDERS = 4;
const MOST_MS = 50;
/** Of so many frames one may take longer. */
const FRAMES_PER_SLOW_ONE = 200;
/** Parts of the slowest task that are printed. */
const PARTS = 5;
/** Presses of a person who is not answered, and the time for an answer to each. */
const MOST_PRESSES = 10;
const ANSWERED_WITHIN_MS = 3_000;
/** Updates with which the page gets warm: modules are compiled, the first lists are drawn. */
const WARM_UPDATES = 30;
const CATEGORIES = ['devtools.timeline', 'disabled-by-default-devtools.timeline', 'devtools.timeline.frame', 'toplevel'];

await run(async (open) => {
  const anna = await open('anna');
  await anna.press('button', 'Sign in');
  await anna.signIn();
  const lot = { title: 'Lamp', duration: 3_600, starting_bid: 1, video: false, anti_snipe: { mode: 'off' } };
  const { auction_id } = await api('POST', '/auctions', 'hanna', lot);
  await anna.go(`#/lot/${auction_id}`);
  await anna.bid();
  await anna.sees(/You lead/, '.bid-button');
  log(`${BOTS} bots enter`);
  await ask('crowd', { auction_id, count: BOTS });
  await anna.page.click('#tab-bids');
  let updates = 0;
  let warm = () => {};
  const isWarm = new Promise((resolve) => (warm = resolve));
  await anna.tools.send('Network.enable');
  anna.tools.on('Network.webSocketFrameReceived', ({ response }) => {
    updates += Number(response.payloadData.includes('"bid_update"'));
    if (updates >= WARM_UPDATES) warm();
  });
  const bidding = await startBidding(auction_id);
  await isWarm;
  const path = `${screenshots}/trace.json`;
  await anna.page.tracing.start({ path, categories: CATEGORIES });
  const since = performance.now();
  updates = 0;
  await anna.page.evaluate(() => {
    globalThis.frames = [];
    const see = (at) => globalThis.frames.push(at) && requestAnimationFrame(see);
    requestAnimationFrame(see);
  });
  await seconds(SECONDS);
  const measured = (performance.now() - since) / 1000;
  const frames = await anna.page.evaluate(() => globalThis.frames);
  await anna.page.tracing.stop();
  bidding.stop();

  const work = workOf(JSON.parse(readFileSync(path, 'utf8')).traceEvents);
  const intervals = frames.slice(1).map((at, nth) => at - frames[nth]);
  const figures = {
    bots: BOTS,
    seconds: Math.round(measured),
    updates_per_second: round(updates / measured),
    frames_per_second: round(frames.length / measured),
    work_per_frame_ms: percentiles(work.frames),
    slow_frames: work.frames.filter((ms) => ms >= MOST_MS).length,
    slowest_task: work.slowest,
    interval_between_frames_ms: percentiles(intervals),
  };
  report('figures', figures);
  log(JSON.stringify(figures));
  assert.ok(figures.work_per_frame_ms.median > 0, 'the trace has no processor times');
  assert.ok(work.frames.length > measured, `only ${work.frames.length} frames were drawn`);
  assert.ok(figures.updates_per_second >= LEAST_UPDATES, `only ${figures.updates_per_second} updates a second`);
  const mostSlow = Math.ceil(work.frames.length / FRAMES_PER_SLOW_ONE);
  assert.ok(figures.slow_frames <= mostSlow, `${figures.slow_frames} frames took ${MOST_MS} ms or longer`);
  // The page still takes part: a press in the middle of it is answered.
  const again = await startBidding(auction_id);
  assert.match(await pressed(anna), /was accepted|came first|lowest possible bid|Someone|overtaken|price moved/i);
  again.stop();
});

/** Presses until the page answers: a press that comes just after the price has moved counts for nothing. */
async function pressed(person) {
  const shown = () => {
    const message = document.querySelector('.bid-message');
    return message?.hidden === false && message.innerText;
  };
  for (let presses = 0; presses < MOST_PRESSES; presses++) {
    await person.bid();
    const found = await person.page.waitForFunction(shown, { timeout: ANSWERED_WITHIN_MS }).catch(() => null);
    if (found) return found.jsonValue();
  }
  return 'no answer';
}

function seconds(count) {
  return new Promise((resolve) => setTimeout(resolve, count * 1000));
}

function round(value) {
  return Math.round(value * 10) / 10;
}

function percentiles(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (part) => round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0);
  return { median: at(0.5), p99: at(0.99), most: at(1) };
}

/** Lets some bots outbid each other without pause, over sockets as everyone else. */
async function startBidding(auction_id) {
  const sockets = [];
  for (let nth = 0; nth < BIDDERS; nth++) {
    const address = `${origin.replace('http', 'ws')}/ws?token=${await tokenOf(`bidder-${nth}`)}`;
    const socket = new WebSocket(address, { rejectUnauthorized: false });
    await new Promise((resolve, reject) => {
      socket.once('open', resolve);
      socket.once('error', reject);
    });
    sockets.push(socket);
  }
  let minimum = 0;
  sockets[0].on('message', (data) => {
    const frame = JSON.parse(data);
    minimum = Math.max(minimum, Number(frame.data?.minimum_bid ?? 0));
  });
  for (const socket of sockets) socket.send(JSON.stringify({ event: 'join_auction', data: { auction_id } }));
  let turn = 0;
  const timer = setInterval(() => {
    if (minimum === 0) return;
    const socket = sockets[turn++ % sockets.length];
    socket.send(JSON.stringify({ event: 'place_bid', data: { auction_id, amount: String(minimum++) } }));
  }, BID_EVERY_MS);
  return {
    stop() {
      clearInterval(timer);
      for (const socket of sockets) socket.close();
    },
  };
}

/** Processor time of the main thread in milliseconds: of each frame, and of the parts of the slowest task. */
function workOf(events) {
  const isMain = (event) => event.name === 'thread_name' && event.args.name === 'CrRendererMain';
  const threads = new Set(events.filter(isMain).map(({ pid, tid }) => `${pid} ${tid}`));
  const own = events.filter(({ pid, tid }) => threads.has(`${pid} ${tid}`)).sort((a, b) => a.ts - b.ts);
  const frames = [];
  let sum = 0;
  let slowest = { ts: 0, dur: 0, tdur: 0 };
  for (const event of own) {
    if (event.name === 'RunTask' && event.tdur !== undefined) {
      sum += event.tdur / 1000;
      if (event.tdur > slowest.tdur) slowest = event;
    } else if (event.name === 'Commit') {
      // A frame goes to the compositor inside its last task: its work is that since the frame before.
      frames.push(sum);
      sum = 0;
    }
  }
  const isPart = ({ ts, tdur }) => tdur !== undefined && ts >= slowest.ts && ts < slowest.ts + slowest.dur;
  const parts = own.filter(isPart).sort((a, b) => b.tdur - a.tdur);
  return { frames, slowest: parts.slice(0, PARTS).map(({ name, tdur }) => `${name} ${round(tdur / 1000)}`) };
}
