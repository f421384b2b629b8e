/**
 * Three people and a host in one auction: from the sign-in to the result, with a reload at every stage, a restart of the
 * edge and tokens that end in the middle, and two clocks that are ten minutes wrong.
 */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

import { SIZES, api, ask, log, origin, report, run, screenshots, tokenOf } from './driver.mjs';

/** What two of the clocks are wrong by. */
const TEN_MINUTES_MS = 600_000;
/** Seconds by which two countdowns may differ: they are read one after the other, on a busy machine. */
const TOLERANCE_SECONDS = 3;
/** Life of a token that ends in the middle, in seconds. */
const SHORT_SECONDS = 4;
const RESERVE = 'Reserve price, which bidders do not see optional';
const TITLE = 'Ship’s clock, brass, about 1890';

await run(async (open, browser) => {
  const photo = await drawPhoto(browser);
  const hanna = await open('hanna', { size: 'desktop' });
  const anna = await open('anna');
  const ben = await open('ben', { clockMs: -TEN_MINUTES_MS });
  const cleo = await open('cleo', { clockMs: TEN_MINUTES_MS });
  const everyone = [hanna, anna, ben, cleo];

  log('a host signs in and opens an auction');
  await anna.sees('No auctions at the moment');
  await anna.look('lots-none');
  await hanna.press('link', 'Sell');
  await hanna.sees('Sign in to go on');
  await hanna.look('sign-in-needed');
  await hanna.page.click('main button.primary');
  await hanna.page.waitForSelector('#name', { visible: true });
  await hanna.look('sign-in');
  await hanna.signIn();
  await hanna.sees('Sell something in a minute');
  await hanna.look('sell-none');
  const id = await create(hanna, photo);
  await hanna.sees('Close now');
  await hanna.look('console');

  log('people watch, sign in and bid');
  await anna.sees(TITLE);
  await anna.look('lots');
  await anna.tabTo('.card-link');
  await anna.page.keyboard.press('Enter');
  await anna.sees('Sign in to bid', '.bid-button');
  await anna.until('a live connection', () => document.querySelector('.pill')?.dataset.kind === 'live');
  await anna.look('lot-watching');
  await anna.tabTo('.bid-button');
  await anna.page.keyboard.press('Enter');
  await anna.signIn();
  await aboveTheFold(anna);
  await anna.look('lot');
  for (const person of [ben, cleo]) {
    await person.press('button', 'Sign in');
    await person.signIn();
    await person.go(`#/lot/${id}`);
  }

  log('they bid against each other');
  await anna.tabTo('.bid-button');
  assert.equal(await anna.button(), 'Bid $10');
  await anna.page.keyboard.press('Enter');
  await anna.sees(/You lead/, '.bid-button');
  await anna.look('lot-leading');
  await ben.bid();
  await ben.sees(/You lead/, '.bid-button');
  await anna.sees('Outbid', '.leader');
  assert.equal(await anna.button(), 'Outbid Bid $14');
  await anna.look('lot-outbid');
  await agree(everyone);
  for (const person of everyone) await person.sees('The reserve is not reached yet.', '.reserve');
  await customAmount(cleo);
  await ben.sees('Outbid', '.leader');
  for (const person of everyone) await person.sees('The reserve is reached.', '.reserve');

  log('they talk, and the host moderates');
  await talk(hanna, anna, ben);
  await takePicture(anna);

  log('a reload changes nothing');
  await Promise.all(everyone.map((person) => person.reload()));
  await cleo.sees('You lead', '.leader');
  for (const person of [anna, ben]) await person.sees('Outbid', '.leader');
  await hanna.sees('Close now');
  await agree(everyone);
  await lists(anna, ben, hanna);

  log('the edge restarts');
  await anna.go(`#/lot/${id}`);
  await ben.go(`#/lot/${id}`);
  await anna.type('Write a message', 'half a sentence');
  await ask('restart edge');
  for (const person of everyone) {
    await person.until('a live connection', () => document.querySelector('.pill')?.dataset.kind === 'live');
  }
  assert.equal(await anna.value('Write a message'), 'half a sentence');
  await anna.bid();
  await anna.sees(/You lead/, '.bid-button');
  await cleo.sees('Outbid', '.leader');

  log('tokens end');
  await renewedToken(ben);
  await lostSession(anna, ben);

  log('the host pauses it');
  await pause(hanna, everyone);

  log('the host closes it');
  await maximum(cleo);
  await close(hanna);
  await results({ hanna, anna, ben, cleo });
  await Promise.all(everyone.map((person) => person.reload()));
  await results({ hanna, anna, ben, cleo });
  await afterwards({ hanna, ben, cleo });
});

/** Draws the photo of the lot as a picture file; returns its path. */
async function drawPhoto(browser) {
  const page = await browser.newPage();
  const path = `${screenshots}/photo.png`;
  const drawing = readFileSync(new URL('clock.svg', import.meta.url)).toString('base64');
  await page.setViewport({ width: 800, height: 600 });
  await page.setContent(`<style>body{margin:0}</style><img src="data:image/svg+xml;base64,${drawing}">`);
  await page.screenshot({ path });
  await page.close();
  return path;
}

/** Fills in the form, with mistakes first; returns the id of the auction. */
async function create(host, photo) {
  await host.press('link', 'New auction');
  await host.look('create');
  await host.press('button', 'Open the auction');
  await host.sees('Please give the lot a title.');
  await host.look('create-mistakes');
  await host.type('Title', TITLE);
  await host.type('Starting price', '10');
  await host.page.click('input[name=duration][value=other] + span');
  await host.type('Length in minutes', '25');
  await host.page.click('input[name=step][value=other] + span');
  await host.type('Step, such as 2.50', '2');
  await addPhoto(host, photo);
  await host.toggle('.create summary');
  await host.type(RESERVE, '9');
  await host.press('button', 'Open the auction');
  await host.sees('Please enter a reserve that is not below the starting price');
  await host.type(RESERVE, '100');
  await host.reload();
  assert.equal(await host.value('Title'), TITLE, 'a draft survives a reload');
  assert.equal(await host.value('Length in minutes'), '25');
  assert.equal(await host.value(RESERVE), '100');
  await host.toggle('.create summary');
  await host.toggle('input[role=switch]');
  await host.look('create-filled');
  await host.press('button', 'Open the auction');
  await host.until('the console', () => /^#\/sell\/[0-9a-f-]{36}$/.test(location.hash));
  const id = await host.page.evaluate(() => location.hash.slice('#/sell/'.length));
  const { image_url } = await api('GET', `/auctions/${id}`, 'hanna');
  assert.match(image_url, /\/photos\/[0-9a-f-]{36}\.png$/, 'the photo lies in the bucket');
  return id;
}

/** Uploads the photo. */
async function addPhoto(host, photo) {
  const field = await host.page.$('#photos');
  await field.uploadFile(photo);
  await host.until('the photo', () => document.querySelector('.photos img')?.naturalWidth > 0);
}

/** On a phone price, time and button are seen without scrolling. */
async function aboveTheFold(person) {
  for (const part of ['.price', '.timer', '.bid-button']) {
    await person.page.waitForSelector(part, { visible: true });
    const bottom = await person.page.$eval(part, (node) => node.getBoundingClientRect().bottom);
    assert.ok(bottom <= SIZES.phone.height, `${part} ends at ${bottom}`);
  }
}

/** Every window shows the same time, whatever its clock. */
async function agree(people) {
  const seconds = [];
  for (const person of people) seconds.push(await person.secondsLeft());
  const spread = Math.max(...seconds) - Math.min(...seconds);
  assert.ok(spread <= TOLERANCE_SECONDS, `the countdowns show ${seconds}`);
}

/** An amount that is too low, then one that is far above and asks again. */
async function customAmount(person) {
  await person.press('button', 'Other amount');
  await person.page.keyboard.type('3');
  await person.page.keyboard.press('Enter');
  await person.sees('The lowest possible bid is now', '#amount-error');
  assert.equal(await person.page.$eval('#amount', (field) => field.value), '3');
  await person.look('amount-low');
  await person.page.keyboard.press('Backspace');
  await person.page.keyboard.type('150');
  await person.page.keyboard.press('Enter');
  await person.page.waitForSelector('.sure .primary', { visible: true });
  await person.look('amount-sure');
  // The first choice is to go back: a second Enter by mistake bids nothing.
  await person.page.keyboard.press('Enter');
  assert.equal(await person.page.$eval('#amount', (field) => field.value), '150');
  await person.page.keyboard.press('Enter');
  await person.tabTo('.sure .primary');
  await person.page.keyboard.press('Enter');
  await person.sees(/You lead/, '.bid-button');
  await person.sees('$150', '.price');
}

async function talk(host, anna, ben) {
  await anna.type('Write a message', 'Is the glass original?');
  await anna.page.keyboard.press('Enter');
  await host.sees('Is the glass original?', '.messages');
  assert.equal(await anna.value('Write a message'), '');
  await host.type('Write a message', 'Yes, all of it');
  await host.page.keyboard.press('Enter');
  await anna.sees('Yes, all of it', '.messages');
  await ben.type('Write a message', 'Buy cheap watches elsewhere');
  await ben.page.keyboard.press('Enter');
  await host.sees('cheap watches', '.messages');
  await host.look('console-chat');
  await anna.look('lot-chat');
  await host.press('button', 'Mute ben for 10 minutes');
  await ben.until('an empty field', () => document.querySelector('.say input').value === '');
  await ben.type('Write a message', 'Once more');
  await ben.page.keyboard.press('Enter');
  await ben.sees('The host has muted you', '.chat');
  assert.equal(await ben.value('Write a message'), 'Once more', 'the typed text is not lost');
  await host.press('button', 'Delete the message of ben');
  for (const person of [host, anna, ben]) {
    await person.until('the message gone', () => !document.querySelector('.messages').innerText.includes('cheap'));
  }
  await panels(anna);
}

/** The picture of the README, if it is to be written anew. */
async function takePicture(person) {
  const { PICTURE: path } = process.env;
  if (!path) return;
  await person.page.setViewport(SIZES.desktop);
  await person.page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'light' }]);
  await person.page.mouse.move(0, 0);
  await person.page.evaluate(() => {
    document.activeElement?.blur();
    scrollTo(0, 0);
  });
  await person.page.screenshot({ path, type: 'webp', quality: 80 });
  await person.page.setViewport(SIZES[person.size]);
}

/** The other panels of the talk, by the arrow keys. */
async function panels(person) {
  await person.page.focus('#tab-chat');
  await person.page.keyboard.press('ArrowRight');
  await person.sees('ben', '#panel-bids');
  await person.look('lot-bids');
  await person.page.keyboard.press('ArrowRight');
  await person.sees('Highest bidders', '#panel-people');
  await person.look('lot-people');
  await person.page.keyboard.press('ArrowRight');
  await person.sees('Yes, all of it', '#panel-chat');
}

/** Own bids with a bid from the row, own auctions, and the dialogs of the frame. */
async function lists(anna, ben, hanna) {
  await ben.press('link', 'My bids');
  await ben.sees(/Outbid · 1/);
  await ben.look('mine-outbid');
  await ben.page.click('.row button.primary');
  await ben.sees(/You lead · 1/);
  await ben.look('mine-winning');
  await ben.reload();
  await ben.sees(/You lead · 1/);
  await anna.press('button', 'Alerts');
  await anna.sees('How should we reach you');
  await anna.look('alerts');
  await anna.page.keyboard.press('Escape');
  await anna.press('button', 'Account of anna');
  await anna.sees('Signed in as anna');
  await anna.look('account');
  await anna.page.keyboard.press('Escape');
  const console_ = await hanna.page.evaluate(() => location.hash);
  await hanna.press('link', 'Sell');
  await hanna.sees('Running');
  await hanna.look('sell');
  await hanna.go(console_);
  await hanna.sees('Close now');
}

/** A token that ends while the session goes on: nobody notices. */
async function renewedToken(person) {
  const before = await shorten(person, true);
  await person.reload();
  await person.until('another token', (old) => JSON.parse(localStorage['flash.session']).id_token !== old, before);
  await person.bid();
  await person.sees(/You lead/, '.bid-button');
}

/** A session that ends: said, nothing typed is lost, and the way back leads to the lot. */
async function lostSession(person, rival) {
  await shorten(person, false);
  await person.reload();
  await person.type('Write a message', 'not sent yet');
  await person.sees('Your session has ended', '.toast');
  await person.sees('Sign in to bid', '.bid-button');
  await person.look('lot-session-ended');
  await person.page.click('.bid-button');
  await person.signIn();
  assert.equal(await person.value('Write a message'), 'not sent yet', 'the typed text is not lost');
  await person.bid();
  await person.sees(/You lead/, '.bid-button');
  await rival.sees('Outbid', '.leader');
}

/** Gives the person a token that ends in seconds, with or without the means to renew it; returns the token. */
async function shorten(person, isRenewed) {
  const token = await tokenOf(person.name, isRenewed ? 1 : SHORT_SECONDS);
  await person.page.evaluate(
    (id_token, isRenewed) => {
      const kept = JSON.parse(localStorage['flash.session']);
      if (!isRenewed) delete kept.refresh_token;
      // Far ahead, as if the page had not noticed: the server refuses the token first.
      localStorage['flash.session'] = JSON.stringify({ ...kept, id_token, expires_at: Date.now() + 3_600_000 });
    },
    token,
    isRenewed,
  );
  return token;
}

/** An own maximum, where the server takes one. */
async function maximum(person) {
  const { features = [] } = await (await fetch(`${origin}/config.json`)).json();
  if (!features.includes('max_amount')) {
    report('maximum', 'not tried: the server does not name the feature max_amount');
    return person.bid().then(() => person.sees(/You lead/, '.bid-button'));
  }
  await person.press('button', 'Other amount');
  await person.page.keyboard.type('900');
  await person.page.click('input[name=kind][value=most]');
  await person.look('amount-maximum');
  await person.page.click('dialog button[type=submit]');
  await person.page.waitForSelector('.sure .primary', { visible: true });
  await person.page.click('.sure .primary');
  await person.sees(/You lead/, '.bid-button');
  report('maximum', 'bid');
}

/** While the auction is paused no one can bid; a reload keeps it paused; then the time goes on. */
async function pause(host, everyone) {
  await host.press('button', 'Pause');
  await host.find('button', 'Resume');
  const bidders = everyone.filter((person) => person !== host);
  for (const person of bidders) await person.sees('Paused by the host', '.bid-button');
  await host.look('console-paused');
  await bidders[0].look('lot-paused');
  await host.reload();
  await host.press('button', 'Resume');
  await host.find('button', 'Pause');
  for (const person of bidders) await person.sees(/You lead|Bid \$/, '.bid-button');
  await agree(everyone);
}

/** Closing takes two presses, the second not at once. */
async function close(host) {
  await host.press('button', 'Close now');
  await host.sees('This cannot be undone');
  await host.look('console-sure');
  await host.until('the second step', () => !document.querySelector('.danger').hasAttribute('aria-disabled'));
  await host.press('button', 'Yes, close it');
  await host.sees(/^Sold/, '.result');
}

async function results({ hanna, anna, ben, cleo }) {
  await cleo.sees('You won', '.result');
  for (const person of [anna, ben]) await person.sees('You were outbid this time', '.result');
  await hanna.sees('cleo', '.result');
  await Promise.all([hanna, anna, ben, cleo].map((one) => one.sees('Ended', '.pill')));
}

async function afterwards({ hanna, ben, cleo }) {
  await cleo.look('lot-won');
  await cleo.press('button', 'Verify this auction');
  await cleo.sees('The record holds together', '.findings');
  await cleo.sees('that this page has seen', '.findings');
  await cleo.look('lot-verified');
  await ben.look('lot-lost');
  await hanna.look('console-result');
  await cleo.press('link', 'My bids');
  await cleo.sees(/Won · 1/);
  await cleo.look('mine-won');
  await ben.press('link', 'My bids');
  await ben.sees(/Not won · 1/);
  await hanna.press('link', 'Sell');
  await hanna.sees('Ended');
  await hanna.look('sell-ended');
  await cleo.press('link', 'Lots');
  await cleo.page.waitForSelector('select[aria-label=State]');
  await cleo.page.select('select[aria-label=State]', 'closed');
  await cleo.sees('Sold for', '.cards');
  await cleo.look('lots-ended');
  const after = await api('GET', '/bids?limit=100', 'cleo');
  assert.ok(after.bids.some((bid) => bid.status === 'won'));
  await cleo.press('button', 'Account of cleo');
  await cleo.press('button', 'Sign out');
  await cleo.find('button', 'Sign in');
}
