/**
 * The person who is signed in: OIDC authorization code with PKCE against the issuer of `/config.json`, tokens renewed
 * before they expire, one session for all tabs.
 */

import { authorizeAddress, base64url, challengeOf, claimsOf, nameOf } from './pkce.js';
import { read, write } from './store.js';

/** Time before its end at which a token is renewed, in milliseconds. The edge sends `token_expiring` at 60 s. */
const RENEW_BEFORE_MS = 90_000;
const KEPT = 'flash.session';
const STARTED = 'flash.signin';

/** @typedef {{id_token: string, refresh_token?: string, expires_at: number}} Tokens */

export class Session extends EventTarget {
  /** @type {Tokens | null} */
  #tokens = null;
  /** @type {Promise<void> | null} */
  #renewing = null;
  /** Whether the session has ended by itself, so that the person must sign in again. */
  isExpired = false;

  /** @param {any} config the content of `/config.json` */
  constructor(config) {
    super();
    this.config = config;
    this.#tokens = read('local', KEPT);
    addEventListener('storage', (event) => {
      if (event.key !== KEPT && event.key !== null) return;
      const before = this.user?.id;
      this.#tokens = read('local', KEPT);
      if (this.user?.id !== before) this.#changed();
    });
  }

  /** Whether people can sign in on this server. */
  get isPossible() {
    return Boolean(this.config.authorize_url && this.config.token_url && this.config.client_id);
  }

  /** @returns {{id: string, name: string} | null} */
  get user() {
    const claims = this.#tokens && claimsOf(this.#tokens.id_token);
    return claims ? { id: String(claims.sub).toLowerCase(), name: nameOf(claims) } : null;
  }

  /**
   * A token that is valid now; undefined if no one is signed in. Fails while the issuer does not answer.
   * @param {boolean} [isRefused] the server has refused the present one
   * @returns {Promise<string | undefined>}
   */
  async token(isRefused = false) {
    if (!this.#tokens) return undefined;
    if (isRefused || this.#tokens.expires_at - Date.now() < RENEW_BEFORE_MS) {
      this.#renewing ??= this.#renew().finally(() => (this.#renewing = null));
      await this.#renewing;
    }
    return this.#tokens?.id_token;
  }

  /** Leaves for the sign-in page, to come back to the present view. */
  async signIn() {
    const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));
    const [verifier, state] = [random(), random()];
    write('session', STARTED, { verifier, state, hash: location.hash });
    const redirect = location.origin + location.pathname;
    location.assign(authorizeAddress(this.config, { state, challenge: challengeOf(verifier), redirect }));
  }

  /**
   * Finishes a sign-in, if the present address is the return from one.
   * @returns {Promise<'none' | 'done' | 'failed'>}
   */
  async finish() {
    const query = new URLSearchParams(location.search);
    if (!query.has('code') && !query.has('error')) return 'none';
    const started = read('session', STARTED);
    write('session', STARTED, null);
    const hash = /^#\//.test(started?.hash ?? '') ? started.hash : '#/';
    history.replaceState(null, '', location.pathname + hash);
    if (!started || query.get('state') !== started.state || !query.has('code')) return 'failed';
    try {
      const redirect = location.origin + location.pathname;
      await this.#ask({
        grant_type: 'authorization_code',
        code: String(query.get('code')),
        redirect_uri: redirect,
        code_verifier: started.verifier,
      });
      return 'done';
    } catch {
      return 'failed';
    }
  }

  /** Forgets the tokens, here and in other tabs, and ends the session at the issuer. */
  signOut() {
    this.#keep(null);
    if (!this.config.logout_url) return;
    const address = new URL(this.config.logout_url);
    address.searchParams.set('client_id', this.config.client_id);
    address.searchParams.set('logout_uri', location.origin + location.pathname);
    address.searchParams.set('post_logout_redirect_uri', location.origin + location.pathname);
    location.assign(address.href);
  }

  /** The server refuses a token that the issuer gave: sign in again. */
  expire() {
    if (!this.#tokens) return;
    this.isExpired = true;
    this.#keep(null);
  }

  async #renew() {
    const renew = async () => {
      // Another tab may have renewed it.
      const kept = read('local', KEPT) ?? this.#tokens;
      const isNewer = kept && kept.id_token !== this.#tokens?.id_token;
      this.#tokens = kept;
      if (isNewer || !kept) return;
      if (!kept.refresh_token) return this.expire();
      await this.#ask({ grant_type: 'refresh_token', refresh_token: kept.refresh_token });
    };
    // One tab after the other: an issuer may take a refresh token only once.
    const locks = globalThis.navigator?.locks;
    await (locks ? locks.request(KEPT, renew) : renew());
  }

  /** @param {Record<string, string>} body */
  async #ask(body) {
    const sent = new URLSearchParams({ ...body, client_id: this.config.client_id });
    const answer = await fetch(this.config.token_url, { method: 'POST', body: sent });
    if (answer.status === 400 || answer.status === 401) {
      this.expire();
      throw new Error('the issuer refused the request');
    }
    if (!answer.ok) throw new Error('the issuer is not available');
    const tokens = await answer.json();
    const token = tokens.id_token ?? tokens.access_token;
    if (!claimsOf(token)) throw new Error('the issuer sent no token');
    this.isExpired = false;
    this.#keep({
      id_token: token,
      refresh_token: tokens.refresh_token ?? body.refresh_token,
      expires_at: Date.now() + Number(tokens.expires_in ?? 3600) * 1000,
    });
  }

  /** @param {Tokens | null} tokens */
  #keep(tokens) {
    const before = this.user?.id;
    this.#tokens = tokens;
    write('local', KEPT, tokens);
    if (this.user?.id !== before) this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event('change'));
  }
}
