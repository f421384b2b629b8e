// The sign-in's pure half: SHA-256 against node's, the example of RFC 7636, claims and names.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { authorizeAddress, challengeOf, claimsOf, nameOf, sha256 } from '../pkce.js';

test('the hash is SHA-256 at every length around a block', () => {
  for (let length = 0; length < 200; length++) {
    const message = Uint8Array.from({ length }, (_, n) => (n * 31 + length) % 256);
    const expected = createHash('sha256').update(message).digest('hex');
    assert.equal(Buffer.from(sha256(message)).toString('hex'), expected, String(length));
  }
});

test('the challenge is that of RFC 7636, appendix B', () => {
  const verifier = 'dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk';
  assert.equal(challengeOf(verifier), 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM');
});

test('the address of the sign-in page carries the whole request', () => {
  const config = { authorize_url: 'https://issuer.example/login?x=1', client_id: 'page' };
  const address = new URL(authorizeAddress(config, { state: 's', challenge: 'c', redirect: 'http://a/' }));
  assert.equal(address.searchParams.get('x'), '1');
  assert.equal(address.searchParams.get('redirect_uri'), 'http://a/');
  assert.equal(address.searchParams.get('code_challenge_method'), 'S256');
  assert.equal(address.searchParams.get('response_type'), 'code');
});

test('claims are read in UTF-8, and broken tokens are none', () => {
  const body = Buffer.from(JSON.stringify({ sub: 'x', preferred_username: 'Zoë 🎨' })).toString('base64url');
  assert.equal(claimsOf(`a.${body}.b`)?.preferred_username, 'Zoë 🎨');
  for (const broken of ['', 'a', 'a.b', 'a.e30', 'a.!!!.b']) assert.doesNotThrow(() => claimsOf(broken));
  assert.equal(claimsOf('nothing'), null);
});

test('the name is chosen as the server chooses it', () => {
  assert.equal(nameOf({ sub: 'x', preferred_username: 'anna', username: 'b' }), 'anna');
  assert.equal(nameOf({ sub: 'x', 'cognito:username': 'x', email: 'ben@example.com' }), 'ben');
  assert.equal(nameOf({ sub: 'x' }), '');
});
