/**
 * Requests to `/api`: one timeout, one kind of failure, a token only where one is needed.
 */

/** Time for the answer to a request, in milliseconds. Longer than the three seconds that the server takes at most. */
const ANSWER_WITHIN_MS = 10_000;
/** Attempts at a request whose outcome is unknown, with the same key, and the pause between them, in milliseconds. */
const ATTEMPTS = 4;
const PAUSE_MS = 700;

/** A request that failed. `code` is one of CONTRACT.md, Codes, or `network`, `timeout`, `issuer_unavailable`. */
export class ApiError extends Error {
  /**
   * @param {string} code
   * @param {number} status 0 without an answer
   * @param {any} [data] the answer's body
   */
  constructor(code, status, data) {
    super(data?.error ?? code);
    this.code = code;
    this.status = status;
    this.data = data ?? {};
  }
}

/** @typedef {{body?: any, key?: string, isPublic?: boolean, signal?: AbortSignal}} RequestOptions */

export class Api {
  /**
   * @param {{token: (isRefused?: boolean) => Promise<string | undefined>}} session
   * @param {string} [base]
   */
  constructor(session, base = '/api') {
    this.session = session;
    this.base = base;
  }

  /**
   * @param {string} path
   * @param {RequestOptions} [options]
   */
  get(path, options) {
    return this.request('GET', path, options);
  }

  /**
   * @param {string} path
   * @param {any} [body]
   * @param {RequestOptions} [options]
   */
  post(path, body, options) {
    return this.request('POST', path, { ...options, body });
  }

  /**
   * Sends a request until its outcome is known. Safe only with a key or a bid id, by which the server knows it again.
   * @param {string} path
   * @param {any} body
   * @param {RequestOptions} options
   */
  async postSurely(path, body, options = {}) {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.post(path, body, options);
      } catch (error) {
        const again = ['network', 'timeout', 'outcome_unknown', 'unavailable', 'overloaded'];
        if (attempt >= ATTEMPTS || !(error instanceof ApiError) || !again.includes(error.code)) throw error;
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS * attempt));
      }
    }
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {RequestOptions} [options]
   * @returns {Promise<any>}
   */
  async request(method, path, options = {}) {
    let token = options.isPublic ? undefined : await this.#token();
    let answer = await this.#send(method, path, options, token);
    if (answer.status === 401 && token) {
      // The clock of the server decides whether a token has expired: ask for another one, once.
      token = await this.#token(true);
      answer = await this.#send(method, path, options, token);
    }
    const data = await answer.json().catch(() => null);
    if (answer.ok && data) return data;
    throw new ApiError(data?.code ?? (answer.status === 404 ? 'not_found' : 'unavailable'), answer.status, data);
  }

  /** @param {boolean} [isRefused] */
  #token(isRefused) {
    return this.session.token(isRefused).catch(() => {
      throw new ApiError('issuer_unavailable', 0);
    });
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {RequestOptions} options
   * @param {string | undefined} token
   */
  async #send(method, path, { body, key, signal }, token) {
    const timeout = new AbortController();
    const timer = setTimeout(() => timeout.abort(), ANSWER_WITHIN_MS);
    const stop = () => timeout.abort();
    signal?.addEventListener('abort', stop);
    try {
      /** @type {Record<string, string>} */
      const headers = { accept: 'application/json' };
      if (body !== undefined) headers['content-type'] = 'application/json';
      if (token) headers.authorization = `Bearer ${token}`;
      if (key) headers['idempotency-key'] = key;
      const sent = body === undefined ? undefined : JSON.stringify(body);
      return await fetch(this.base + path, { method, headers, body: sent, signal: timeout.signal, cache: 'no-store' });
    } catch {
      if (signal?.aborted) throw new ApiError('aborted', 0);
      throw new ApiError(timeout.signal.aborted ? 'timeout' : 'network', 0);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
    }
  }
}
