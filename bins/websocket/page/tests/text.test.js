// Texts: every key that the modules use exists, and none is left over.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { en } from '../en.js';
import { failureText, lengthText, t } from '../text.js';

const page = new URL('..', import.meta.url);
const modules = [page, new URL('views/', page)].flatMap((folder) =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.js') && name !== 'en.js')
    .map((name) => readFileSync(new URL(name, folder), 'utf8')),
);
const source = modules.join('\n');
const keys = Object.keys(en);
/** Beginnings of keys that are put together, such as `button.${kind}`. */
const beginnings = [...source.matchAll(/`([a-z.]+\.)\$\{/g)].map(([, beginning]) => beginning);
/** Endings of keys that are put together, such as `${key}.text`. */
const endings = [...source.matchAll(/\bt\(`\$\{\w+\}([^`$]+)`/g)].map(([, ending]) => ending);

test('every key that is used exists', () => {
  const used = [...source.matchAll(/\bt\('([^']+)'/g)].map(([, key]) => key);
  assert.ok(used.length > 100);
  for (const key of used)
    assert.ok(
      keys.some((one) => one === key || one === `${key}.other`),
      key,
    );
  for (const beginning of beginnings)
    assert.ok(
      keys.some((key) => key.startsWith(beginning)),
      beginning,
    );
});

test('every key is used', () => {
  for (const key of keys) {
    const bare = key.replace(/\.(one|other|few|many|two|zero)$/, '');
    const stems = endings.filter((ending) => bare.endsWith(ending)).map((ending) => bare.slice(0, -ending.length));
    const names = [key, bare, ...stems];
    const isNamed = names.some((one) => source.includes(`'${one}'`));
    assert.ok(isNamed || beginnings.some((beginning) => key.startsWith(beginning)), key);
  }
});

test('parts and numbers are filled in', () => {
  assert.equal(t('bids.count', { count: 1 }), '1 bid');
  assert.equal(t('bids.count', { count: 0 }), '0 bids');
  assert.equal(t('button.bid', { price: '$5' }), 'Bid $5');
  assert.equal(t('of.a.later.version'), 'of.a.later.version');
  assert.deepEqual([30, 90, 300, 3_600, 86_400].map(lengthText), ['30 s', '90 s', '5 min', '1 h', '1 day']);
});

test('a failure is shown by its code, else by the sentence of the server', () => {
  assert.match(failureText({ code: 'auction_closed', error: 'Auction is closed' }), /too late/);
  assert.equal(failureText({ code: 'of_a_later_version', error: 'No such luck' }), 'No such luck');
  assert.equal(failureText({}), en['error.unknown']);
});
