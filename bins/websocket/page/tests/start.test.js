// The opening of a new auction: possible times, and the pause after another lot.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { gapOf, isPossibleStart } from '../views/start.js';

const NOW = Date.parse('2026-03-01T12:00:00Z');
const DAY_MS = 86_400_000;

test('an auction opens at once, or within the time that the server takes', () => {
  const at = (/** @type {number} */ ms) => new Date(NOW + ms).toISOString();
  assert.ok(isPossibleStart('', NOW));
  assert.ok(isPossibleStart(at(30 * DAY_MS), NOW));
  for (const text of [at(0), at(-1), at(30 * DAY_MS + 1), 'tomorrow']) assert.ok(!isPossibleStart(text, NOW), text);
});

test('the pause after another lot is in whole seconds of at most a day', () => {
  const pauses = { '': 0, ' 30 ': 30, 0: 0, 86400: 86_400 };
  for (const [text, seconds] of Object.entries(pauses)) assert.equal(gapOf(text), seconds, text);
  for (const text of ['86401', '-1', '1.5', '1e3', 'soon']) assert.equal(gapOf(text), null, text);
});
