// The countdown: texts, spoken marks, and the server's clock on a machine whose own is wrong.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Clock, countdownText, Marks, nextChangeIn, urgency } from '../countdown.js';

test('texts are rounded up, so that zero means over', () => {
  const cases = [
    [0, '0.0'],
    [-5, '0.0'],
    [1, '0.1'],
    [9_400, '9.4'],
    [9_401, '9.5'],
    [10_000, '10.0'],
    [10_001, '0:11'],
    [59_999, '1:00'],
    [60_000, '1:00'],
    [249_000, '4:09'],
    [3_849_000, '1:04:09'],
    [86_400_000 + 3_600_000 * 4 + 1, '1 d 4 h'],
  ];
  for (const [ms, text] of cases) assert.equal(countdownText(ms), text, ms);
});

test('the text changes when it was said to', () => {
  for (let ms = 12_000; ms > 0; ms -= 137) {
    const next = nextChangeIn(ms);
    assert.ok(next > 0 && next <= 1_000);
    if (ms - next > 0) assert.notEqual(countdownText(ms - next - 1), countdownText(ms), ms);
  }
});

test('urgency rises at one minute and at ten seconds', () => {
  assert.deepEqual([60_001, 60_000, 10_001, 10_000, 0].map(urgency), ['calm', 'soon', 'soon', 'last', 'last']);
});

test('each mark is spoken once, and again after an extension', () => {
  const marks = new Marks();
  const seen = [90_000, 61_000, 59_900, 59_000, 29_900, 9_900, 5_000, 35_000, 29_000].map((ms) => marks.see(ms));
  assert.deepEqual(seen, [null, null, 60, null, 30, 10, null, null, 30]);
});

test('a view that opens late speaks no mark that has passed', () => {
  const marks = new Marks();
  assert.equal(marks.see(5_000), null);
  assert.equal(marks.see(4_000), null);
});

test('the server clock is found on a machine that is ten minutes wrong', () => {
  for (const wrong of [-600_000, 0, 600_000]) {
    const clock = new Clock();
    // Frames arrive 5 to 180 ms after they were sent.
    [80, 5, 180, 40].forEach((late, n) => clock.see(1_000_000 + n * 1_000, 1_000_000 + n * 1_000 + late + wrong));
    assert.equal(clock.offset(), -wrong - 5);
  }
});

test('a clock that jumps is noticed at the next frame', () => {
  const clock = new Clock();
  clock.see(1_000, 1_010);
  clock.see(2_000, 2_010 + 600_000);
  assert.equal(clock.offset(), -600_010);
});
