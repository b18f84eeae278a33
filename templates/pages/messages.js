// One message as an element. Invariant: a change of a message patches its element in place, so that
// focus, scroll position and what a screen reader reads stay where they are.

import { avatar, clockTime, el, fullTime, relativeTime, setChildren, setServerHtml, setText, time } from './dom.js';
import { REACTIONS, face, icon, spoken } from './icons.js';

// A rendered body taller than this is folded behind a button, in pixels.
const FOLD_ABOVE = 420;

/**
 * Makes the element of a message. `host` is what the message may ask for:
 * `{ me(), react(message, name, on), press(message, value, answer), openThread(id), retry(message),
 *    discard(message), nameOf(login) }`.
 */
export function messageElement(message, host, { inThread }) {
  const parts = {};
  parts.avatar = message.author.bot
    ? el('span', { class: 'avatar bot', 'aria-hidden': 'true' }, icon('server', 20))
    : avatar(message.author.login, message.author.name);
  parts.clock = el('time', { class: 'clock', datetime: '', title: fullTime(message.at) }, clockTime(message.at));
  parts.clock.removeAttribute('datetime');
  parts.body = el('div', { class: 'body' });
  parts.progress = progressElement();
  parts.buttons = el('div', { class: 'buttons' });
  parts.frame = el('div', { class: 'frame' }, parts.body, parts.progress.root, parts.buttons);
  parts.reactions = el('div', { class: 'reactions' });
  parts.replies = el('button', { type: 'button', class: 'replies', hidden: true, onclick: () => host.openThread(node.message.id) });
  parts.status = el('p', { class: 'status', hidden: true });
  parts.only = el('span', { class: 'only', hidden: true }, icon('eye', 14), 'Only visible to you');
  parts.edited = el('span', { class: 'edited', hidden: true });

  const header = el('header', { class: 'byline' },
    el('b', {}, message.author.name),
    message.author.bot ? el('span', { class: 'tag' }, 'bot') : null,
    time(message.at), parts.edited, parts.only);

  const tools = el('div', { class: 'tools' });
  if (!message.pending) {
    tools.append(tool('react', 'React (R)', (event) => openPicker(event.currentTarget, node, host)));
    if (!inThread) tools.append(tool('reply', 'Reply in thread (T)', () => host.openThread(node.message.id)));
  }

  const node = el('article', { class: 'message', tabindex: '-1', 'data-id': message.id },
    el('div', { class: 'gutter' }, parts.avatar, parts.clock),
    el('div', { class: 'content' }, header, parts.frame, parts.status, parts.reactions, parts.replies),
    tools);
  node.parts = parts;
  node.host = host;
  node.inThread = inThread;
  patchMessage(node, message);
  return node;
}

/** Brings an element to the message's present state. */
export function patchMessage(node, message) {
  const { parts, host } = node;
  const before = node.message;
  node.message = message;
  node.dataset.id = message.id;
  node.classList.toggle('pending', Boolean(message.pending));
  node.classList.toggle('failed', Boolean(message.failed));
  node.classList.toggle('private', Boolean(message.only_you));
  parts.only.hidden = !message.only_you;

  if (message.text !== undefined) {
    const command = /^\/metal(\s|$)/.test(message.text);
    if (!before) parts.body.append(command ? el('code', { class: 'command' }, message.text) : el('p', { class: 'typed' }, message.text));
  } else if (!before || before.html !== message.html) {
    setServerHtml(parts.body, message.html);
    parts.body.querySelectorAll('a[href]').forEach((link) => { link.target = '_blank'; });
    fold(node);
  }

  const card = message.card;
  node.classList.toggle('has-card', Boolean(card));
  parts.frame.className = card ? `frame card tone-${card.tone}` : 'frame';
  patchProgress(parts.progress, card?.progress ?? null);
  patchButtons(node, card?.buttons ?? []);
  patchReactions(node);

  const live = message.edited && card && ['working', 'waiting'].includes(card.tone);
  parts.edited.hidden = !message.edited || live;
  if (message.edited) {
    parts.edited.title = fullTime(message.edited);
    setText(parts.edited, card ? `updated ${relativeTime(message.edited)}` : 'edited');
  }

  parts.replies.hidden = node.inThread || !message.replies;
  if (message.replies) {
    setText(parts.replies, `${message.replies} ${message.replies === 1 ? 'reply' : 'replies'}`);
  }
  patchStatus(node);
  const what = parts.body.textContent.trim().slice(0, 160);
  const label = `${message.author.name}${message.only_you ? ', only visible to you' : ''}: ${what}`;
  if (node.getAttribute('aria-label') !== label) node.setAttribute('aria-label', label);
}

/** Marks the button that opens the thread as holding something unread. */
export function markReplies(node, unread) {
  node.parts.replies.classList.toggle('unread', unread);
}

function tool(name, label, onclick) {
  return el('button', { type: 'button', class: 'icon-button', 'aria-label': label, title: label, onclick }, icon(name));
}

function fold(node) {
  const { body } = node.parts;
  if (node.unfolded) return;
  requestAnimationFrame(() => {
    const tall = body.scrollHeight > FOLD_ABOVE;
    body.classList.toggle('folded', tall);
    if (tall && !node.unfold) {
      node.unfold = el('button', {
        type: 'button',
        class: 'unfold',
        onclick: () => {
          node.unfolded = true;
          body.classList.remove('folded');
          node.unfold.remove();
          node.focus();
        },
      }, 'Show all');
      body.after(node.unfold);
    } else if (!tall && node.unfold) {
      node.unfold.remove();
      node.unfold = null;
    }
  });
}

function progressElement() {
  const bar = el('div', { class: 'bar-track', role: 'img' });
  const segments = Object.fromEntries(['succeeded', 'failed', 'running'].map((kind) => {
    const segment = el('span', { class: `segment ${kind}` });
    bar.append(segment);
    return [kind, segment];
  }));
  const legend = el('p', { class: 'legend', 'aria-hidden': 'true' });
  const counts = Object.fromEntries(['succeeded', 'failed', 'running', 'waiting', 'cancelled'].map((kind) => {
    const count = el('span', { class: `count ${kind}` });
    legend.append(count);
    return [kind, count];
  }));
  return { root: el('div', { class: 'progress', hidden: true }, bar, legend), bar, segments, legend, counts };
}

function patchProgress(progress, counts) {
  progress.root.hidden = !counts;
  if (!counts) return;
  const waiting = Math.max(0, counts.total - counts.succeeded - counts.failed - counts.running - counts.cancelled);
  const all = { ...counts, waiting };
  for (const [kind, segment] of Object.entries(progress.segments)) {
    segment.style.width = `${counts.total ? (100 * counts[kind]) / counts.total : 0}%`;
  }
  const words = [];
  for (const [kind, node] of Object.entries(progress.counts)) {
    const text = `${all[kind]} ${kind === 'cancelled' ? 'not started' : kind}`;
    setText(node, text);
    node.hidden = !all[kind];
    if (all[kind]) words.push(text);
  }
  // What has ended is told by the card's text.
  progress.legend.hidden = !counts.running && !waiting;
  const label = `Of ${counts.total} ${counts.total === 1 ? 'host' : 'hosts'}: ${words.join(', ') || 'none started'}`;
  if (progress.bar.getAttribute('aria-label') !== label) progress.bar.setAttribute('aria-label', label);
}

function patchButtons(node, buttons) {
  const root = node.parts.buttons;
  const known = new Map([...root.children].map((button) => [button.dataset.value, button]));
  const hadFocus = root.contains(document.activeElement);
  setChildren(root, buttons.map(({ label, value, style, ask }) => {
    const button = known.get(value) ?? el('button', {
      type: 'button', 'data-value': value, onclick: (event) => press(event.currentTarget, node),
    });
    button.className = `button ${style}`;
    button.question = ask;
    setText(button, label);
    return button;
  }));
  root.hidden = buttons.length === 0;
  if (hadFocus && !root.contains(document.activeElement)) node.focus();
}

// A press in flight leaves the button focusable but dead, so that a double click is one delivery.
async function press(button, node) {
  if (button.getAttribute('aria-disabled') === 'true') return;
  const answer = button.question ? await ask(button.question, button) : '';
  if (answer === null) return;
  button.setAttribute('aria-disabled', 'true');
  button.classList.add('busy');
  try {
    await node.host.press(node.message, button.dataset.value, answer);
    // Usually the card changes and the button goes; if it stays, it may be pressed again.
    await new Promise((done) => setTimeout(done, 1500));
  } finally {
    button.removeAttribute('aria-disabled');
    button.classList.remove('busy');
  }
}

/** Asks for a line or two; `null` when the person thinks better of it. */
function ask(question, button) {
  return new Promise((answered) => {
    const box = el('textarea', { rows: '3', maxlength: '500', 'aria-label': question });
    const end = (answer) => { dialog.remove(); answered(answer); if (button.isConnected) button.focus(); };
    const dialog = el('dialog', { class: 'help ask', 'aria-label': question, oncancel: () => end(null) },
      el('h2', {}, question), box,
      el('div', { class: 'buttons' },
        el('button', { type: 'button', class: `${button.className} answer`, onclick: () => end(box.value) }, button.textContent),
        el('button', { type: 'button', class: 'button plain', onclick: () => end(null) }, 'Back')));
    document.body.append(dialog);
    dialog.showModal();
  });
}

function patchReactions(node) {
  const { message, host, parts } = node;
  const me = host.me().login;
  const known = new Map([...parts.reactions.children].map((chip) => [chip.dataset.name, chip]));
  setChildren(parts.reactions, (message.reactions ?? []).filter(({ people }) => people.length).map(({ name, people }) => {
    const chip = known.get(name) ?? el('button', {
      type: 'button', class: 'chip', 'data-name': name,
      onclick: () => {
        const now = node.message.reactions.find((reaction) => reaction.name === name)?.people ?? [];
        host.react(node.message, name, !now.includes(me));
      },
    }, face(name), el('span'));
    const who = people.map((login) => (login === me ? 'you' : host.nameOf(login))).join(', ');
    chip.title = `${who} reacted with ${spoken(name)}`;
    chip.setAttribute('aria-label', `${spoken(name)}, ${people.length}: ${who}`);
    chip.setAttribute('aria-pressed', String(people.includes(me)));
    setText(chip.lastChild, String(people.length));
    return chip;
  }));
  parts.reactions.hidden = !parts.reactions.children.length;
}

function patchStatus(node) {
  const { message, host, parts } = node;
  parts.status.hidden = !message.failed;
  if (!message.failed) return;
  parts.status.replaceChildren(
    el('span', {}, `Not sent. ${message.failed}`),
    el('button', { type: 'button', class: 'link', onclick: () => host.retry(message) }, 'Try again'),
    el('button', { type: 'button', class: 'link', onclick: () => host.discard(message) }, 'Discard'));
}

let picker = null;

/** Closes the emoji picker; says whether one was open. */
export function closePicker(refocus = true) {
  if (!picker) return false;
  const { root, opener, node } = picker;
  picker = null;
  root.remove();
  node.classList.remove('picking');
  if (refocus) (opener.isConnected ? opener : node).focus();
  return true;
}

/** Opens the emoji picker of a message. */
export function openPicker(opener, node, host) {
  const again = picker?.node === node;
  closePicker();
  if (again || node.message.pending) return;
  const me = host.me().login;
  const root = el('div', { class: 'picker', role: 'toolbar', 'aria-label': 'React with' });
  for (const [name, words] of REACTIONS) {
    const mine = node.message.reactions.find((reaction) => reaction.name === name)?.people.includes(me) ?? false;
    root.append(el('button', {
      type: 'button', class: 'icon-button', 'aria-label': words, title: words, 'aria-pressed': String(mine),
      onclick: () => {
        closePicker();
        host.react(node.message, name, !mine);
      },
    }, face(name, 20)));
  }
  root.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...root.children];
    all[(all.indexOf(document.activeElement) + step + all.length) % all.length].focus();
  });
  root.addEventListener('focusout', (event) => {
    if (!root.contains(event.relatedTarget)) setTimeout(() => picker?.root === root && closePicker(false));
  });
  picker = { root, opener, node };
  node.classList.add('picking');
  node.append(root);
  root.firstChild.focus();
}
