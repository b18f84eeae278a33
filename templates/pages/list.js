// A list of messages: days, blocks of one author, what is new. Invariant: who reads the end keeps the
// end in view, and who reads further up is never moved.

import { dayName, el, setChildren, setText } from './dom.js';
import { markReplies, messageElement, patchMessage } from './messages.js';

// Messages of one author this close together, in ms, are drawn as one block.
const BLOCK_MS = 5 * 60_000;

/**
 * Draws a list of messages into `log`. `host` is what messages may ask for (see `messages.js`) and
 * `isFresh(id)`: whether the thread under a message holds something unread.
 */
export function messageList(scroll, log, { inThread, host }) {
  const nodes = new Map();
  let atEnd = true;
  let divider = null; // serial above which messages were unread when the list was opened
  let onEnd = () => {};

  scroll.addEventListener('scroll', () => {
    atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
    if (atEnd) onEnd();
  }, { passive: true });
  const toEnd = () => { scroll.scrollTop = scroll.scrollHeight; };
  new ResizeObserver(() => { if (atEnd) toEnd(); }).observe(log);
  new ResizeObserver(() => { if (atEnd) toEnd(); }).observe(scroll);

  function line(key, className, text) {
    const node = nodes.get(key) ?? el('div', { class: className, role: 'separator' }, el('span'));
    setText(node.firstChild, text);
    nodes.set(key, node);
    return node;
  }

  function draw(list, emptyNode) {
    const wanted = [];
    const seen = new Set();
    let before = null;
    let split = false;
    for (const message of list) {
      const key = message.delivery ? `d-${message.delivery}` : message.id;
      let node = nodes.get(key);
      if (node && node.message !== message) {
        // The pending text becomes the server's rendering of it.
        if (node.message.pending && !message.pending) {
          const focused = node === document.activeElement;
          node.remove();
          node = null;
          if (focused) queueMicrotask(() => nodes.get(key)?.focus());
        } else {
          patchMessage(node, message);
        }
      }
      if (!node) node = messageElement(message, host, { inThread });
      nodes.set(key, node);
      seen.add(key);

      const newDay = !before || dayName(before.at) !== dayName(message.at);
      if (newDay && !inThread) {
        const dayKey = `day-${dayName(message.at)}`;
        wanted.push(line(dayKey, 'day', dayName(message.at)));
        seen.add(dayKey);
      }
      const startsUnread = divider !== null && !split && message.serial > divider
        && message.author.login !== host.me().login;
      if (startsUnread) {
        split = true;
        if (before) { wanted.push(line('new', 'day new', 'New')); seen.add('new'); }
      }
      const joins = before && !newDay && !startsUnread && !message.card && !before.card
        && before.author.login === message.author.login && before.only_you === message.only_you
        && new Date(message.at) - new Date(before.at) < BLOCK_MS;
      node.classList.toggle('joined', Boolean(joins));
      markReplies(node, host.isFresh(message.id));
      wanted.push(node);
      before = message;
      if (inThread && message === list[0]) {
        const count = list.length - 1;
        wanted.push(line('count', 'day count', count ? `${count} ${count === 1 ? 'reply' : 'replies'}` : 'No replies yet'));
        seen.add('count');
      }
    }
    if (!list.length) wanted.push(emptyNode);
    for (const key of [...nodes.keys()]) if (!seen.has(key)) nodes.delete(key);
    setChildren(log, wanted);
    if (!log.querySelector('.message[tabindex="0"]')) {
      const last = [...log.querySelectorAll('.message')].at(-1);
      if (last) last.tabIndex = 0;
    }
    if (atEnd) toEnd();
  }

  // One message of the list is a stop of the Tab key; J and K walk from it.
  log.addEventListener('focusin', (event) => {
    const node = event.target.closest('.message');
    if (!node) return;
    log.querySelectorAll('.message[tabindex="0"]').forEach((other) => { other.tabIndex = -1; });
    node.tabIndex = 0;
  });

  return {
    draw,
    toEnd() { atEnd = true; toEnd(); },
    isAtEnd: () => atEnd,
    set onEnd(then) { onEnd = then; },
    splitAfter(serial) { divider = serial; },
    walk(step) {
      const all = [...log.querySelectorAll('.message')];
      const at = all.indexOf(document.activeElement?.closest?.('.message'));
      const next = at < 0 ? all.at(-1) : all[Math.min(all.length - 1, Math.max(0, at + step))];
      next?.focus();
      next?.scrollIntoView({ block: 'nearest' });
    },
  };
}
