/**
 * The messages of a chat, oldest first: each once, and a bounded number of them. Pure.
 */

/** Messages that are kept: as many as a person scrolls through. */
const MAX_MESSAGES = 100;

/**
 * The messages with a new one; the same list if it is known.
 * @param {any[]} messages
 * @param {any} data
 */
export function withMessage(messages, { message_id, user_id, username, message, is_host, timestamp }) {
  if (messages.some((one) => one.message_id === message_id)) return messages;
  return [...messages, { message_id, user_id, username, message, is_host, timestamp }].slice(-MAX_MESSAGES);
}

/**
 * The messages with the newest ones of the server. A message that the server no longer has was deleted while this page
 * was away, or is older than its newest 50.
 * @param {any[]} messages
 * @param {any[]} newest
 */
export function withNewest(messages, newest) {
  const known = new Set(messages.map((message) => message.message_id));
  const isKept = new Set(newest.map((message) => message.message_id));
  const oldest = newest[0]?.timestamp ?? 0;
  const kept = messages.filter((one) => one.timestamp < oldest || isKept.has(one.message_id));
  return [...kept, ...newest.filter((one) => !known.has(one.message_id))];
}
