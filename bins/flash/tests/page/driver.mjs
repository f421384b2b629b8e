/**
 * Drives Chromium for the tests of the page: people with a window each, what they press and read, and a look at the
 * page in each size and colour scheme (a screenshot, and the rules of axe).
 *
 * The test that runs a script answers its requests: `ask` writes one JSON line and waits for one.
 */

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const require = createRequire(`${process.env.MODULES}/package.json`);
const puppeteer = require('puppeteer-core');
const AXE = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

/** Address of the page, without the slash, and the folder for screenshots. */
export const origin = process.env.PAGE.replace(/\/$/, '');
export const screenshots = process.env.SCREENSHOTS;
/** Time in which something expected must be on the page, in milliseconds. A busy machine takes seconds. */
const WITHIN_MS = 30_000;
/** Presses of the Tab key after which a control counts as out of reach. */
const MAX_TABS = 80;
/** Sizes in which the page is looked at: a phone as wide as the narrowest common ones, and a laptop. */
export const SIZES = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 800 } };
const SCHEMES = ['light', 'dark'];
/** Rules that the page promises to follow (WCAG 2.2 AA), and those of good practice. */
const RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
/** Messages of the browser about requests that failed, which scripts cause on purpose. */
const FAILED_REQUEST = /Failed to load resource|WebSocket connection to|net::ERR_/;

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Writes a line for the person who reads the output of the test. */
export const log = (text) => process.stderr.write(`${text}\n`);

/** Sends a request to the test and returns its answer. */
export async function ask(what, data = {}) {
  process.stdout.write(`${JSON.stringify({ what, data })}\n`);
  const { value } = await lines.next();
  return JSON.parse(value).data;
}

/** Gives the test a result. */
export const report = (what, data) => process.stdout.write(`${JSON.stringify({ report: what, data })}\n`);

/** A token of the person with this name. */
export const tokenOf = (name, seconds = 3600) => ask('token', { name, seconds });

/** Sends a request to the API in the name of a person. */
export async function api(method, path, name, body) {
  const headers = { authorization: `Bearer ${await tokenOf(name)}`, 'content-type': 'application/json' };
  const answer = await fetch(`${origin}/api${path}`, { method, headers, body: body && JSON.stringify(body) });
  const data = await answer.json();
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${JSON.stringify(data)}`);
  return data;
}

/** Runs a scenario in a browser of its own; the process ends with it. */
export async function run(scenario) {
  const browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM,
    headless: true,
    // Over a pipe, so that the browser ends with this process, however that ends.
    pipe: true,
    // The sandbox refuses root. Shared memory is small in containers. Over TLS the stack has an authority of its own.
    args: [
      '--no-sandbox',
      '--disable-dev-shm-usage',
      '--disable-gpu',
      '--lang=en-US',
      '--ignore-certificate-errors',
    ],
  });
  mkdirSync(screenshots, { recursive: true });
  const people = [];
  const open = async (name, options) => {
    const person = await Person.open(browser, name, options);
    people.push(person);
    return person;
  };
  try {
    await scenario(open, browser);
    for (const person of people) {
      assert.deepEqual(person.faults, [], `faults in the window of ${person.name}`);
    }
    report('done', {});
  } catch (error) {
    log(String(error.stack));
    for (const person of people) await person.keepRemains();
    process.exitCode = 1;
  } finally {
    await browser.close();
    // Bots, servers and the input may still be open.
    process.exit();
  }
}

/** One person with a window, and everything that the page must not do in it. */
export class Person {
  /** Errors of scripts, breaches of the policy, requests to others. */
  faults = [];

  static async open(browser, name, { clockMs = 0, size = 'phone', token } = {}) {
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    const person = new Person();
    Object.assign(person, { name, page, context, size });
    person.tools = await page.createCDPSession();
    // Every window is as one in front: hidden ones draw nothing.
    await person.tools.send('Emulation.setFocusEmulationEnabled', { enabled: true });
    await page.setViewport(SIZES[size]);
    page.setDefaultTimeout(WITHIN_MS);
    page.on('pageerror', (error) => person.faults.push(String(error?.stack ?? error)));
    page.on('console', (message) => {
      const text = message.text();
      if (message.type() === 'error' && !FAILED_REQUEST.test(text)) person.faults.push(text);
    });
    // Scripts cut the network and restart the edge; what the edge answers is another thing.
    page.on('response', (response) => {
      const [status, url] = [response.status(), response.url()];
      const isMissing = status === 404 && /\/(page\/|client\.js|config\.json)/.test(url);
      if (isMissing || (status >= 500 && status !== 503)) person.faults.push(`${status} ${url}`);
    });
    if (clockMs !== 0) await page.evaluateOnNewDocument(turnClock, clockMs);
    await page.goto(`${origin}/`, { waitUntil: 'load' });
    return person;
  }

  /** Opens an address of the page, with its router. */
  async go(hash) {
    await this.page.evaluate((target) => (location.hash = target), hash);
  }

  async reload() {
    await this.page.reload({ waitUntil: 'load' });
  }

  /** Waits until the function is true in the page. */
  async until(what, test, ...args) {
    try {
      return await this.page.waitForFunction(test, { polling: 50, timeout: WITHIN_MS }, ...args);
    } catch (error) {
      throw new Error(`${this.name} never saw ${what}`, { cause: error });
    }
  }

  /** Waits until an element with this selector shows this text (or one that fits the pattern). */
  async sees(text, selector = 'body') {
    const [source, flags] = text instanceof RegExp ? [text.source, text.flags] : [quoted(text), ''];
    const shows = (wanted, source, flags) => {
      const pattern = new RegExp(source, flags);
      return [...document.querySelectorAll(wanted)].some((node) => {
        return node.checkVisibility({ visibilityProperty: true }) && pattern.test(node.innerText);
      });
    };
    await this.until(`"${text}" in ${selector}`, shows, selector, source, flags);
  }

  /** The control with this role and name, as assistive technology finds it. */
  async find(role, name) {
    try {
      return await this.page.waitForSelector(`::-p-aria([role="${role}"][name="${name}"])`, { visible: true });
    } catch (error) {
      throw new Error(`${this.name} never had the ${role} "${name}"`, { cause: error });
    }
  }

  async press(role, name) {
    const control = await this.find(role, name);
    await control.click();
  }

  /** Replaces the content of a field by typing. */
  async type(name, text, role = 'textbox') {
    const field = await this.find(role, name);
    await field.evaluate((node) => {
      node.focus();
      node.select();
    });
    await this.page.keyboard.press('Backspace');
    await field.type(text);
  }

  /** Turns a switch on or off, or opens and closes details, by the keyboard. */
  async toggle(selector) {
    await this.page.focus(selector);
    await this.page.keyboard.press('Space');
  }

  async value(name, role = 'textbox') {
    return (await this.find(role, name)).evaluate((field) => field.value);
  }

  /** Moves the focus by the Tab key to the control that fits; fails if it is out of reach or without a mark. */
  async tabTo(selector) {
    for (let presses = 0; presses < MAX_TABS; presses++) {
      await this.page.keyboard.press('Tab');
      const found = await this.page.evaluate((wanted) => {
        const active = document.activeElement;
        if (!active?.matches(wanted)) return null;
        // A link that covers its card has the mark around the card.
        const parts = [active, active.closest('.card, .row, .chip')].filter(Boolean).map((one) => getComputedStyle(one));
        return { isMarked: parts.some((one) => one.outlineStyle !== 'none' && one.outlineWidth !== '0px') };
      }, selector);
      if (!found) continue;
      assert.ok(found.isMarked, `the focus on ${selector} cannot be seen`);
      return;
    }
    assert.fail(`${selector} cannot be reached by the Tab key`);
  }

  /** Signs in on the page of the issuer, by the keyboard, and comes back. */
  async signIn() {
    await this.page.waitForSelector('#name', { visible: true });
    await this.page.type('#name', this.name);
    await this.page.keyboard.press('Enter');
    await this.until('the way back', (home) => location.origin === home, new URL(origin).origin);
    await this.find('button', `Account of ${this.name}`);
  }

  /** The text of the bid button. */
  async button() {
    await this.page.waitForSelector('.bid-button', { visible: true });
    return this.page.$eval('.bid-button', (node) => node.innerText.replace(/\s+/g, ' ').trim());
  }

  /** Seconds on the countdown. */
  async secondsLeft() {
    await this.page.waitForSelector('.timer', { visible: true });
    return this.page.$eval('.timer', (node) => {
      return node.innerText.split(':').reduce((sum, part) => sum * 60 + Number(part), 0);
    });
  }

  /** Waits until bids are taken, then bids what the button says. */
  async bid() {
    await this.until('a button that takes a bid', () => {
      const button = document.querySelector('.bid-button');
      return ['bid', 'outbid'].includes(button?.dataset.kind) && button.getAttribute('aria-disabled') !== 'true';
    });
    await this.page.click('.bid-button');
  }

  /**
   * Looks at the page in each size and colour scheme: a screenshot, no rule of axe broken, nothing wider than the
   * window.
   */
  async look(state) {
    await this.page.evaluate(AXE);
    for (const [size, viewport] of Object.entries(SIZES)) {
      await this.page.setViewport(viewport);
      for (const scheme of SCHEMES) {
        await this.page.emulateMediaFeatures([
          { name: 'prefers-color-scheme', value: scheme },
          { name: 'prefers-reduced-motion', value: 'reduce' },
        ]);
        await this.page.screenshot({ path: `${screenshots}/${state}-${size}-${scheme}.png` });
        const { broken, width } = await this.page.evaluate(judge, RULES);
        assert.deepEqual(broken, [], `${state}, ${size}, ${scheme}`);
        assert.ok(width <= viewport.width, `${state}, ${size}: ${width} pixels wide`);
      }
    }
    await this.page.setViewport(SIZES[this.size]);
  }

  /** After a failure: what the person saw last. */
  async keepRemains() {
    const path = `${screenshots}/failed-${this.name.replace(/\W+/g, '-')}.png`;
    await this.page.screenshot({ path }).catch(() => {});
    const text = await this.page.evaluate(() => `${location.href}\n${document.body.innerText}`).catch(String);
    log(`--- ${this.name} saw:\n${text}\n${this.faults.join('\n')}`);
  }
}

/** @param {string} text */
const quoted = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** Runs in the page before its scripts: a clock that is wrong by this time. */
function turnClock(ms) {
  const Right = Date;
  const now = () => Right.now() + ms;
  globalThis.Date = class extends Right {
    constructor(...parts) {
      if (parts.length === 0) super(now());
      else super(...parts);
    }
    static now() {
      return now();
    }
  };
}

/** Runs in the page: rules that are broken, each with its elements, and the width of the content. */
async function judge(rules) {
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  const options = { runOnly: { type: 'tag', values: rules }, resultTypes: ['violations'] };
  const { violations } = await globalThis.axe.run(document, options);
  const broken = violations.map(({ id, help, nodes }) => {
    return { id, help, nodes: nodes.slice(0, 3).map((node) => `${node.html.slice(0, 200)} ${node.failureSummary}`) };
  });
  return { broken, width: document.documentElement.scrollWidth };
}
