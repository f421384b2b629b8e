// Money: parsing of typed amounts, the API's amounts, formatting, and large jumps.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatMoney, fromWire, isLargeJump, MOST_CENTS, offers, parseMoney, toWire } from '../money.js';

test('typed amounts are read, and ambiguous ones refused', () => {
  const cases = [
    ['12', 1200],
    ['12.5', 1250],
    ['12,50', 1250],
    ['  $ 1,250.50 ', 125050],
    ['1.250,50', 125050],
    ['1,250', 125000],
    ["1'250.00", 125000],
    ['1 250', 125000],
    ['12.50 €', 1250],
    ['.5', 50],
    ['0.01', 1],
    ['99999999.99', MOST_CENTS],
    ['007', 700],
    ['1.250', null],
    ['12.345', null],
    ['1,25,000', null],
    ['12.5.1', null],
    ['1e3', null],
    ['-5', null],
    ['- 5', null],
    ['0', null],
    ['0.00', null],
    ['', null],
    ['abc', null],
    ['NaN', null],
    ['100000000', null],
    ['١٢', null],
    ['12 50 dollars and a lot more', null],
  ];
  for (const [typed, cents] of cases) assert.equal(parseMoney(typed), cents, typed);
});

test('amounts of the API survive the way there and back', () => {
  for (const cents of [1, 10, 99, 100, 101, 1015, 115, 2_999, 123_456_789, MOST_CENTS]) {
    assert.equal(fromWire(toWire(cents)), cents);
    assert.equal(fromWire(Number(toWire(cents))), cents);
  }
  assert.equal(toWire(5), '0.05');
  assert.equal(fromWire(null), null);
  assert.equal(fromWire(undefined), null);
  assert.equal(fromWire(''), null);
  assert.equal(fromWire('x'), null);
});

test('whole amounts are shown without decimals', () => {
  assert.equal(formatMoney(15250, 'USD', 'en-US'), '$152.50');
  assert.equal(formatMoney(125000, 'USD', 'en-US'), '$1,250');
  assert.equal(formatMoney(null), '–');
});

test('only jumps that may be slips are asked about', () => {
  const cases = [
    // amount, lowest, step, asked
    [105_000, 5_000, 100, true], // 1,050 typed for 50
    [10_000, 5_000, 100, true],
    [9_999, 5_000, 100, false],
    [200, 100, 100, false], // two for one is no slip
    [1_100, 100, 100, false],
    [1_200, 100, 100, true],
  ];
  for (const [cents, minimum, step, asked] of cases) assert.equal(isLargeJump(cents, minimum, step), asked, cents);
});

test('offers start at the lowest bid and stay below the largest amount', () => {
  assert.deepEqual(offers(1_000, 100), [1_000, 1_100, 1_200, 1_500]);
  assert.deepEqual(offers(MOST_CENTS, 100), [MOST_CENTS]);
});
