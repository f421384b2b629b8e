// Text of users: disguising characters are removed, and only addresses that may be pictures become pictures.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clean, uuid } from '../dom.js';
import { pictureAddress, priceOf } from '../views/parts.js';

test('control, invisible and bidirectional characters are removed, all others stay', () => {
  const cases = [
    ['plain', 'plain'],
    ['a\u0000b\u0007c\u001b[31m', 'abc[31m'],
    ['\u202egnp.exe\u202c', 'gnp.exe'],
    ['zero\u200bwidth\ufeff', 'zerowidth'],
    ['\u2066x\u2069', 'x'],
    ['two\nlines\tand a tab', 'two\nlines\tand a tab'],
    ['<b>markup</b> stays text', '<b>markup</b> stays text'],
    ['مرحبا שלום 你好 👩‍👧', 'مرحبا שלום 你好 👩‍👧'],
    [null, ''],
    [undefined, ''],
    [12.5, '12.5'],
  ];
  for (const [text, expected] of cases) assert.equal(clean(text), expected);
});

test('only http and https addresses become pictures', () => {
  assert.equal(pictureAddress('https://example.com/a.jpg'), 'https://example.com/a.jpg');
  assert.equal(pictureAddress('HTTP://example.com/a.jpg'), 'HTTP://example.com/a.jpg');
  for (const bad of ['javascript:alert(1)', 'data:image/svg+xml,x', ' https://a', '//a/b', '', null, undefined]) {
    assert.equal(pictureAddress(bad), null, String(bad));
  }
});

test('the price of a list has the right label', () => {
  const cases = [
    [{ status: 'live', current_high_bid: null, starting_bid: 10 }, 'Starting price', 1_000],
    [{ status: 'live', current_high_bid: 12.5, starting_bid: 10 }, 'Current bid', 1_250],
    [{ status: 'closed', winning_bid: 12.5, current_high_bid: 12.5 }, 'Sold for', 1_250],
    [{ status: 'closed', winning_bid: null, current_high_bid: null }, 'Not sold', null],
  ];
  for (const [auction, label, cents] of cases) assert.deepEqual(priceOf(auction), { label, cents });
});

test('ids are random UUIDs of version 4', () => {
  const ids = new Set(Array.from({ length: 100 }, uuid));
  assert.equal(ids.size, 100);
  for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});
