// The session: tokens are renewed once, in time, and a refused renewal ends it.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

/** @type {Map<string, string>} */
const kept = new Map();
const storage = {
  getItem: (/** @type {string} */ key) => kept.get(key) ?? null,
  setItem: (/** @type {string} */ key, /** @type {string} */ value) => void kept.set(key, value),
  removeItem: (/** @type {string} */ key) => void kept.delete(key),
};
Object.assign(globalThis, { localStorage: storage, sessionStorage: storage, addEventListener() {} });
const { Session } = await import('../session.js');

const CONFIG = { authorize_url: 'http://i/a', token_url: 'http://i/t', client_id: 'page' };
const tokenOf = (/** @type {string} */ sub, nth = 0) =>
  `x.${Buffer.from(JSON.stringify({ sub, preferred_username: 'anna', nth })).toString('base64url')}.y`;

/** @param {number} seconds left of the token that is kept */
function keep(seconds) {
  const tokens = { id_token: tokenOf('A1'), refresh_token: 'r', expires_at: Date.now() + seconds * 1_000 };
  kept.set('flash.session', JSON.stringify(tokens));
}

/** Answers the token requests; the bodies are collected. @param {any[]} answers */
function issuer(...answers) {
  /** @type {Record<string, string>[]} */
  const asked = [];
  globalThis.fetch = /** @type {any} */ (
    async (/** @type {string} */ _, /** @type {any} */ { body }) => {
      asked.push(Object.fromEntries(body));
      const { status = 200, ...data } = answers.shift() ?? {};
      return { ok: status === 200, status, json: async () => data };
    }
  );
  return asked;
}

beforeEach(() => kept.clear());

test('no one is signed in without tokens', async () => {
  const session = new Session(CONFIG);
  assert.equal(session.user, null);
  assert.equal(await session.token(), undefined);
  assert.equal(new Session({}).isPossible, false);
});

test('a token that lasts is used as it is', async () => {
  keep(600);
  const asked = issuer();
  const session = new Session(CONFIG);
  assert.deepEqual(session.user, { id: 'a1', name: 'anna' });
  assert.equal(await session.token(), tokenOf('A1'));
  assert.equal(asked.length, 0);
});

test('a token that ends soon is renewed once, however many ask', async () => {
  keep(30);
  const asked = issuer({ id_token: tokenOf('A1', 1), expires_in: 3600 });
  const session = new Session(CONFIG);
  const tokens = await Promise.all([session.token(), session.token(), session.token()]);
  assert.deepEqual(new Set(tokens), new Set([tokenOf('A1', 1)]));
  assert.deepEqual(asked, [{ grant_type: 'refresh_token', refresh_token: 'r', client_id: 'page' }]);
  assert.match(kept.get('flash.session') ?? '', /"refresh_token":"r"/);
});

test('a refused renewal ends the session', async () => {
  keep(30);
  issuer({ status: 400, error: 'invalid_grant' });
  const session = new Session(CONFIG);
  let changes = 0;
  session.addEventListener('change', () => changes++);
  await assert.rejects(session.token());
  assert.deepEqual([session.user, session.isExpired, changes], [null, true, 1]);
});

test('an issuer that does not answer ends nothing', async () => {
  keep(30);
  issuer({ status: 503 }, { id_token: tokenOf('A1', 2), expires_in: 3600 });
  const session = new Session(CONFIG);
  await assert.rejects(session.token());
  assert.notEqual(session.user, null);
  assert.equal(await session.token(), tokenOf('A1', 2));
});

test('a token that the server refuses is renewed before its end', async () => {
  keep(600);
  issuer({ id_token: tokenOf('A1', 3), expires_in: 3600 });
  assert.equal(await new Session(CONFIG).token(true), tokenOf('A1', 3));
});
