/**
 * An auction that a late bid extends and that ends by itself, in a window whose clock is ten minutes fast; and auctions
 * that are unknown, cancelled or over.
 */

import assert from 'node:assert/strict';

import { api, log, run } from './driver.mjs';

const TEN_MINUTES_MS = 600_000;
/** Seconds of the auction, of its extension, and before its end in which a bid extends it: in all of it. */
const DURATION = 20;
const UNKNOWN = '00000000-0000-4000-8000-000000000000';

await run(async (open) => {
  const anna = await open('anna', { clockMs: TEN_MINUTES_MS });
  await anna.press('button', 'Sign in');
  await anna.signIn();

  log('a late bid extends the auction');
  const anti_snipe = { mode: 'extend', window: DURATION, extension: DURATION, max_extensions: 1 };
  const { auction_id } = await api('POST', '/auctions', 'hanna', {
    title: 'Lamp', duration: DURATION, starting_bid: 10, video: false, anti_snipe,
  });
  await anna.go(`#/lot/${auction_id}`);
  await anna.bid();
  await anna.sees(`+${DURATION} s: a late bid has extended the auction (extension 1 of 1)`, '.extended');
  const seconds = await anna.secondsLeft();
  assert.ok(seconds > DURATION && seconds <= 2 * DURATION, `${seconds} s are left`);

  log('it ends when the server says so');
  await anna.page.evaluate(() => {
    const button = document.querySelector('.bid-button');
    globalThis.kinds = [button.dataset.kind];
    new MutationObserver(() => globalThis.kinds.push(button.dataset.kind)).observe(button, { attributes: true });
  });
  await anna.until('the last ten seconds', () => document.querySelector('.timer').dataset.urgency === 'last');
  await anna.look('lot-last-seconds');
  await anna.sees('You won for $10', '.result');
  const kinds = await anna.page.evaluate(() => [...new Set(globalThis.kinds)]);
  // The end may come in the same moment as zero.
  assert.ok(['leading,confirming,won', 'leading,won'].includes(kinds.join()), `the button was ${kinds}`);

  log('auctions that take no bids');
  await anna.go(`#/lot/${UNKNOWN}`);
  await anna.sees('There is no such auction');
  await anna.look('lot-unknown');
  await anna.go('#/sell/nothing');
  await anna.sees('There is nothing here');
  await anna.look('not-found');
  const cancelled = await api('POST', '/auctions', 'hanna', { title: 'Jug', duration: 600, starting_bid: 1, video: false });
  await anna.go(`#/lot/${cancelled.auction_id}`);
  await anna.type('Write a message', 'not sent yet');
  await api('POST', `/auctions/${cancelled.auction_id}/cancel`, 'hanna', {});
  await anna.sees('The host has cancelled this auction. No bid counts.', '.result');
  await anna.sees('This auction was cancelled', '.bid-button');
  await anna.look('lot-cancelled');
  await anna.reload();
  await anna.sees('This auction was cancelled', '.bid-button');
  // The console of another host shows nothing that is not public.
  const other = await api('POST', '/auctions', 'hanna', { title: 'Vase', duration: 600, starting_bid: 1, video: false });
  await anna.go(`#/sell/${other.auction_id}`);
  await anna.sees('This is the auction of another host');
  await anna.look('console-foreign');
});
