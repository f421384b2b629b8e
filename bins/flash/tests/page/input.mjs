/**
 * Hostile texts in every field that is shown, files that are no photos, and networks that are lost or slow: each has its
 * message, nothing is taken for markup, and nothing typed is lost.
 */

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';

import { api, ask, log, run, screenshots } from './driver.mjs';

/** Markup that would run a script, characters that disguise text, and a word wider than any window. */
const MARKUP = '<img src=x onerror="globalThis.hacked=1"><b>bold</b>';
const DISGUISED = '\u202Eesrever\u2066\u200B';
const LONG = 'W'.repeat(180);
const HOSTILE = `${MARKUP} ${DISGUISED} ${LONG}`;
/** Bytes above the largest photo. */
const TOO_LARGE = 10 * 1024 * 1024 + 1;
/** A slow network: half a second for each way, and as much as an old phone gets. */
const SLOW = { offline: false, latency: 500, downloadThroughput: 50_000, uploadThroughput: 20_000 };
const LOST = { offline: true, latency: 0, downloadThroughput: 0, uploadThroughput: 0 };
const FAST = { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: -1 };

await run(async (open) => {
  const mallory = await open('<b>Mallory</b> & "sons"', { size: 'desktop' });
  const anna = await open('anna');
  for (const person of [mallory, anna]) {
    await person.press('button', 'Sign in');
    await person.signIn();
  }

  log('hostile texts in every field');
  const id = await create(mallory);
  await anna.sees('<b>bold</b>', '.cards');
  await harmless(anna, 'hostile-lots');
  await anna.type('Search lots', '<script>alert(1)</script>', 'searchbox');
  await anna.sees('No lot matches');
  await anna.go(`#/lot/${id}`);
  await anna.sees('<b>Mallory</b>', '.seller');
  await anna.sees('<b>bold</b>', '.lot-about');
  await anna.type('Write a message', HOSTILE);
  await anna.page.keyboard.press('Enter');
  await mallory.sees('<b>bold</b>', '.messages');
  await anna.bid();
  await anna.sees(/You lead/, '.bid-button');
  await harmless(anna, 'hostile-lot');
  await harmless(mallory, 'hostile-console');
  await anna.press('link', 'My bids');
  await anna.sees('<b>bold</b>', '.rows');
  await harmless(anna, 'hostile-mine');

  log('amounts that are none');
  const { auction_id } = await api('POST', '/auctions', 'hanna', { title: 'Jug', duration: 900, starting_bid: 5, video: false });
  await anna.go(`#/lot/${auction_id}`);
  await anna.press('button', 'Other amount');
  for (const amount of ['1e9', '-7', '7,777.777', '<b>']) {
    await anna.page.$eval('#amount', (field) => (field.value = ''));
    await anna.page.keyboard.type(amount);
    await anna.page.keyboard.press('Enter');
    await anna.sees('Please enter an amount with at most two decimals', '#amount-error');
    assert.equal(await anna.page.$eval('#amount', (field) => field.value), amount);
  }
  await anna.page.keyboard.press('Escape');

  await slow(anna);
  await lost(anna, auction_id);
  await lostWhileSelling(mallory);
});

/** Opens an auction with hostile texts by the form, after files that are refused. */
async function create(host) {
  await host.go('#/sell/new');
  await files(host);
  await host.type('Title', HOSTILE);
  await host.type('Starting price', '5');
  await host.toggle('summary');
  await host.type('Description optional', `${HOSTILE}\n\n${HOSTILE}`);
  await host.type('Category optional', MARKUP);
  await host.type('Condition optional', LONG);
  await host.toggle('input[role=switch]');
  await harmless(host, 'hostile-create');
  await host.press('button', 'Open the auction');
  await host.until('the console', () => /^#\/sell\/[0-9a-f-]{36}$/.test(location.hash));
  await host.sees('Close now');
  return host.page.evaluate(() => location.hash.slice('#/sell/'.length));
}

/** Files of a wrong type and size, and an address that is none. */
async function files(host) {
  const text = `${screenshots}/notes.txt`;
  const large = `${screenshots}/large.png`;
  writeFileSync(text, 'no photo');
  writeFileSync(large, Buffer.alloc(TOO_LARGE));
  for (const [file, message] of [
    [text, 'notes.txt is not a photo that we can show'],
    [large, 'large.png is larger than 10 MB'],
  ]) {
    await (await host.page.$('#photos')).uploadFile(file);
    await host.sees(message, '.field-error');
  }
  await host.type('or the address of a photo', 'javascript:alert(1)');
  await host.page.keyboard.press('Enter');
  await host.sees('Please enter an address that begins with https://', '.field-error');
  assert.equal(await host.value('or the address of a photo'), 'javascript:alert(1)');
  await host.type('or the address of a photo', '');
}

/** Texts are shown as texts, without the characters that disguise them, and break instead of widening the page. */
async function harmless(person, state) {
  const found = await person.page.evaluate(() => ({
    hacked: globalThis.hacked ?? null,
    elements: document.querySelectorAll('main b, main script, img[src=x]').length,
    disguised: /[\u202A-\u202E\u2066-\u2069\u200B]/.test(document.body.innerText),
  }));
  assert.deepEqual(found, { hacked: null, elements: 0, disguised: false }, state);
  await person.look(state);
}

/** On a slow network everything takes longer, and works. */
async function slow(person) {
  log('a slow network');
  await person.tools.send('Network.enable');
  await person.tools.send('Network.emulateNetworkConditions', SLOW);
  await person.reload();
  await person.bid();
  await person.sees(/You lead/, '.bid-button');
  await person.tools.send('Network.emulateNetworkConditions', FAST);
}

/** The network goes away while a person writes: said at once, and nothing is lost. */
async function lost(person, id) {
  log('a lost network');
  await person.type('Write a message', 'half a sentence');
  await person.tools.send('Network.emulateNetworkConditions', LOST);
  await ask('kill edge');
  await person.until('the lost connection', () => document.querySelector('.pill')?.dataset.kind !== 'live');
  await person.sees(/Reconnecting|Connecting/, '.pill');
  await person.look('lot-lost-network');
  await person.page.keyboard.press('Enter');
  assert.equal(await person.value('Write a message'), 'half a sentence');
  await api('POST', '/bids', 'ben', { auction_id: id, amount: '50' });
  await person.tools.send('Network.emulateNetworkConditions', FAST);
  await person.sees('Outbid', '.leader');
  await person.until('a live connection', () => document.querySelector('.pill')?.dataset.kind === 'live');
  assert.equal(await person.value('Write a message'), 'half a sentence');
}

/** The network goes away while a host opens an auction: the form stays. A lost answer makes no second one. */
async function lostWhileSelling(host) {
  await host.go('#/sell/new');
  await host.type('Title', 'Vase');
  await host.type('Starting price', '5');
  await host.toggle('input[role=switch]');
  await host.tools.send('Network.enable');
  await host.tools.send('Network.emulateNetworkConditions', LOST);
  await host.press('button', 'Open the auction');
  await host.sees('Nothing you typed is lost.', '.errors');
  await host.look('create-lost-network');
  assert.equal(await host.value('Title'), 'Vase');
  await host.tools.send('Network.emulateNetworkConditions', FAST);
  // The request arrives and its answer is lost: the page sends it again, which must not make a second auction.
  await host.tools.send('Fetch.enable', { patterns: [{ urlPattern: '*/api/auctions', requestStage: 'Response' }] });
  const lost = new Promise((resolve) => {
    const take = ({ requestId, request }) => {
      if (request.method !== 'POST') return host.tools.send('Fetch.continueRequest', { requestId });
      host.tools.off('Fetch.requestPaused', take);
      resolve(host.tools.send('Fetch.failRequest', { requestId, errorReason: 'ConnectionReset' }));
    };
    host.tools.on('Fetch.requestPaused', take);
  });
  await host.press('button', 'Open the auction');
  await lost;
  await host.tools.send('Fetch.disable');
  await host.until('the console', () => /^#\/sell\/[0-9a-f-]{36}$/.test(location.hash));
  const { auctions } = await api('GET', '/auctions?status=live&limit=100', 'anna');
  assert.equal(auctions.filter((auction) => auction.title === 'Vase').length, 1);
}
