/**
 * "Verify this auction": reads the facts of an auction that is over, and says what the check has found.
 */

import { el, fill, icon, setAttribute, setText, show } from '../dom.js';
import { failureText, t } from '../text.js';
import { Verification } from '../verify.js';

/** Facts that are checked on this device: some tens of megabytes and seconds. */
const MAX_FACTS = 100_000;
/** Attempts, and the pause between them, in milliseconds: the facts are public a moment after the end. */
const ATTEMPTS = 5;
const PAUSE_MS = 1_000;

/**
 * @param {import('../main.js').App} app
 * @param {import('../room.js').Room} room
 */
export function verifyPanel(app, room) {
  const button = el('button', { type: 'button', text: t('verify.button') });
  const found = el('div', { class: 'findings', role: 'status' });
  const node = el('div', { class: 'verify', hidden: true }, button, found);
  let isRunning = false;
  let isClosed = false;

  /** @param {number | string} after */
  const page = async (after) => {
    for (let attempt = 1; ; attempt++) {
      try {
        return await app.api.get(`/auctions/${room.id}/facts?after=${after}`, { isPublic: !room.isHost });
      } catch (/** @type {any} */ error) {
        const again = ['wrong_state', 'overloaded', 'unavailable', 'network', 'timeout'].includes(error.code);
        if (!again || attempt >= ATTEMPTS || isClosed) throw error;
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    }
  };

  const check = async () => {
    const verification = new Verification();
    /** @type {number | string | null} */
    let after = 0;
    while (after !== null && !isClosed && verification.count <= MAX_FACTS) {
      const { facts, next_after } = await page(after);
      verification.add(facts);
      after = next_after;
      setText(button, t('verify.running', { count: verification.count }));
    }
    if (verification.count === 0) return fill(found, el('p', { text: t('verify.archived') }));
    if (after !== null) return fill(found, el('p', { text: t('verify.long') }));
    // The result comes with the auction object, a moment after the end.
    await room.load();
    drawFindings(found, verification.finish(room.auction, room.bids));
  };

  button.addEventListener('click', async () => {
    if (isRunning) return;
    isRunning = true;
    setAttribute(button, 'aria-disabled', 'true');
    setText(button, t('verify.running', { count: 0 }));
    try {
      await check();
    } catch (/** @type {any} */ error) {
      const early = error.code === 'wrong_state' && t('verify.early');
      fill(found, el('p', { class: 'field-error', text: early || failureText(error) }));
    }
    isRunning = false;
    setAttribute(button, 'aria-disabled', null);
    setText(button, t('verify.button'));
  });
  return {
    node,
    // Where bidders have aliases, the record is for the host alone.
    draw: () => show(node, room.isOver && (room.isHost || app.features.has('facts'))),
    close: () => (isClosed = true),
  };
}

/**
 * @param {HTMLElement} node
 * @param {import('../verify.js').Findings} findings
 */
function drawFindings(node, { faults, facts, hidden, seen, head }) {
  const isWhole = faults.length === 0;
  setAttribute(node, 'data-whole', String(isWhole));
  const heading = el('h3', {}, icon(isWhole ? 'check' : 'warning'), t(isWhole ? 'verify.whole' : 'verify.broken'));
  const whole = [
    t('verify.whole.text', { count: facts }),
    seen > 0 && t('verify.seen', { count: seen }),
    hidden > 0 && t('verify.hidden', { count: hidden }),
    t('verify.print', { head }),
  ];
  const lines = isWhole ? whole.filter(Boolean) : faults.map((fault) => t(`verify.fault.${fault}`));
  const list = el('ul', {}, ...lines.map((text) => el('li', { text })));
  fill(node, heading, list);
}
