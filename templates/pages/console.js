// The console: what is shown, what the keys do, and how the live stream changes it.
//
// Invariant: `messages` holds the newest revision of each message that the server has told of; the
// page is drawn from it. A message never goes back to an older revision, whatever order answers and
// events arrive in.
//
// Another script of the page takes part by two events of the document: it hears
// `metalbot:signed-in` ({ login, name }) whenever the console has begun as somebody, and sends
// `metalbot:session-changed` when it has changed the session of this browser.

import { getMessages, getState, listen, newDelivery, post } from './api.js';
import { avatar, el, plainText, refreshTimes, setChildren, setText } from './dom.js';
import { composer } from './composer.js';
import { icon } from './icons.js';
import { messageList } from './list.js';
import { closePicker, openPicker } from './messages.js';

const $ = (id) => document.getElementById(id);
const app = $('app');

let me = { login: '', name: '' };
let state = { channels: [] };
let channel = '';
let thread = null;
let stream = null;
let lostTimer = 0;
const messages = new Map();   // id -> message; pending ones under `pending-<delivery>`
const names = new Map();      // login -> name, of everybody who was seen to write
const unread = new Map();     // channel -> count
const freshThreads = new Set();
const loaded = new Set();     // channels and `channel/thread` fetched since the last (re)connection

// ---- what is known ----------------------------------------------------------------------------

const order = (a, b) => Boolean(a.pending) - Boolean(b.pending) || a.serial - b.serial;
const heads = (name) => [...messages.values()].filter((m) => m.channel === name && !m.thread).sort(order);
const repliesTo = (id) => [...messages.values()].filter((m) => m.thread === id).sort(order);
const nameOf = (login) => names.get(login) ?? login;

/** Takes a message in; false when it is known already in this revision or a newer one. */
function upsert(message) {
  const known = messages.get(message.id);
  if (known && known.rev >= message.rev) return false;
  message.serial = Number(message.id);
  messages.set(message.id, message);
  names.set(message.author.login, message.author.name);
  if (message.delivery) messages.delete(`pending-${message.delivery}`);
  return true;
}

// What one has read last, by channel, on this device.
const readKey = (name) => `metalbot.read.${me.login}.${name}`;
function lastRead(name) {
  try { return Number(localStorage.getItem(readKey(name)) ?? -1); } catch { return -1; }
}
function storeRead(name, serial) {
  try { localStorage.setItem(readKey(name), String(serial)); } catch { /* unread marks do not survive then */ }
}

// ---- drawing ----------------------------------------------------------------------------------

function draw() {
  drawChannels();
  drawLists();
}

function drawLists() {
  const list = heads(channel);
  channelList.draw(list, loaded.has(channel) ? emptyChannel() : el('p', { class: 'loading' }, 'Loading…'));
  if (thread) {
    const head = messages.get(thread);
    threadList.draw(head ? [head, ...repliesTo(thread)] : [], el('p', { class: 'loading' }, 'Loading…'));
  }
  markRead();
  drawJump();
}

function emptyChannel() {
  const examples = ['/metal help', '/metal list', '/metal status host web03'];
  return el('div', { class: 'empty' },
    el('h3', {}, `This is the beginning of #${channel}`),
    el('p', {}, 'Say what should happen to which machines. Some commands to begin with:'),
    el('ul', {}, ...examples.map((text) => el('li', {}, el('button', {
      type: 'button', class: 'example', onclick: () => channelComposer.restore(text),
    }, text)))));
}

function drawChannels() {
  const known = new Map([...$('channels').children].map((item) => [item.dataset.name, item]));
  setChildren($('channels'), state.channels.map(({ name }) => {
    const item = known.get(name) ?? el('li', { 'data-name': name },
      el('a', { href: `#/${encodeURIComponent(name)}` }, el('span', { class: 'hash', 'aria-hidden': 'true' }, '#'), el('span', { class: 'name' }, name), el('span', { class: 'badge' })));
    const link = item.firstChild;
    const count = unread.get(name) ?? 0;
    if (name === channel) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current');
    link.classList.toggle('unread', count > 0);
    setText(link.lastChild, count > 0 ? (count > 99 ? '99+' : String(count)) : '');
    link.lastChild.setAttribute('aria-label', count > 0 ? `${count} unread` : '');
    return item;
  }));
  const total = [...unread.values()].reduce((sum, count) => sum + count, 0);
  document.title = `${total ? `(${total}) ` : ''}#${channel} · Metalbot`;
}

function drawMe() {
  $('me').replaceChildren(
    avatar(me.login, me.name),
    el('span', { class: 'who' }, el('b', {}, me.name), el('small', {}, me.login)),
    el('button', { type: 'button', class: 'icon-button', 'aria-label': 'Sign out', title: 'Sign out', onclick: signOut }, icon('leave')));
}

function drawJump() {
  const count = channelList.isAtEnd() ? 0 : unread.get(channel) ?? 0;
  $('jump').hidden = count === 0;
  if (count) $('jump').replaceChildren(icon('down', 14), `${count} new ${count === 1 ? 'message' : 'messages'}`);
}

/** What stands at the end of the channel in view, of a window in view, has been read. */
function markRead() {
  if (!channel || document.hidden || !channelList.isAtEnd() || !loaded.has(channel)) return;
  const last = heads(channel).filter((m) => !m.pending).at(-1);
  if (last && last.serial > lastRead(channel)) storeRead(channel, last.serial);
  if (unread.delete(channel)) drawChannels();
  drawJump();
}

function announce(text) {
  const line = el('p', {}, text);
  $('announce').append(line);
  while ($('announce').children.length > 5) $('announce').firstChild.remove();
}

let toastTimer = 0;
function banner(text, kind) {
  clearTimeout(toastTimer);
  $('banner').hidden = !text;
  $('banner').className = `banner ${kind ?? ''}`;
  setText($('banner'), text ?? '');
  if (kind === 'problem') toastTimer = setTimeout(() => banner(null), 6000);
}

// ---- where one is: the address's fragment, so that 'back' works on a phone ------------------------

function go(name, threadId) {
  const path = threadId ? `#/${encodeURIComponent(name)}/${threadId}` : `#/${encodeURIComponent(name)}`;
  if (location.hash === path) follow(); else location.hash = path;
}

function follow() {
  const [, first = '', second = ''] = location.hash.split('/');
  const name = decodeURIComponent(first);
  const found = state.channels.find((entry) => entry.name === name) ?? state.channels[0];
  if (!found) return;
  const wasThread = thread;
  const newChannel = found.name !== channel;
  channel = found.name;
  thread = /^\d+$/.test(second) ? second : null;
  app.dataset.screen = thread ? 'thread' : second === 'channels' ? 'channels' : 'messages';

  setText($('title'), `# ${channel}`);
  setText($('topic'), found.topic ?? '');
  channelComposer.setPlaceholder(`Message #${channel}, or / for a command`);
  if (newChannel) {
    channelList.splitAfter((unread.get(channel) ?? 0) > 0 ? lastRead(channel) : null);
    load(channel, null).then(() => channelList.toEnd());
  }
  $('thread').hidden = !thread;
  if (thread) {
    freshThreads.delete(thread);
    setText($('thread-where'), `#${channel}`);
    if (thread !== wasThread) {
      threadComposer.clear();
      load(channel, thread).then(() => { if (thread) threadList.toEnd(); });
      if (!matchMedia('(pointer: coarse)').matches) threadComposer.box.focus();
    }
  } else if (wasThread) {
    const head = document.querySelector(`#log .message[data-id="${CSS.escape(wasThread)}"]`);
    (head ?? channelComposer.box).focus({ preventScroll: true });
  }
  draw();
}

async function load(name, threadId) {
  const key = threadId ? `${name}/${threadId}` : name;
  if (loaded.has(key)) return;
  try {
    const answer = await getMessages(name, threadId);
    answer.messages.forEach(upsert);
    loaded.add(key);
    draw();
  } catch (error) {
    if (threadId && error.status === 404) { go(name, null); return; }
    banner(error.message, 'problem');
  }
}

// ---- acting -----------------------------------------------------------------------------------

const host = {
  me: () => me,
  nameOf,
  isFresh: (id) => freshThreads.has(id),
  openThread: (id) => go(messages.get(id)?.channel ?? channel, id),
  react: (message, name, on) => act('/console/react', { message: message.id, name, on }),
  press: (message, value, answer) => act('/console/press', { message: message.id, value, answer }),
  retry(message) { messages.delete(message.id); say(message.text, message.channel, message.thread, message.delivery); },
  discard(message) { messages.delete(message.id); draw(); },
};

const channelList = messageList($('scroll'), $('log'), { inThread: false, host });
const threadList = messageList($('thread-scroll'), $('thread-log'), { inThread: true, host });
channelList.onEnd = () => markRead();

async function act(path, body) {
  try {
    await post(path, { delivery: newDelivery(), ...body });
  } catch (error) {
    banner(error.message, 'problem');
  }
}

async function say(text, toChannel, toThread, delivery = newDelivery()) {
  const id = `pending-${delivery}`;
  const pending = {
    id, delivery, channel: toChannel, thread: toThread, text, pending: true, rev: 0, serial: Date.now(), only_you: false,
    author: { login: me.login, name: me.name, bot: false }, at: new Date().toISOString(), reactions: [], replies: 0, card: null,
  };
  messages.set(id, pending);
  drawLists();
  (toThread ? threadList : channelList).toEnd();
  try {
    await post('/console/send', { delivery, channel: toChannel, thread: toThread, text });
  } catch (error) {
    // The live stream may have brought it although the answer was lost.
    if (messages.has(id)) messages.set(id, { ...pending, failed: error.message });
    drawLists();
  }
}

async function signOut() {
  try { await post('/logout', {}); } finally { location.assign('/login'); }
}

// ---- the live stream --------------------------------------------------------------------------

function arrived(message) {
  const known = messages.get(message.id);
  if (!upsert(message)) return;
  if (!known && message.author.login !== me.login) {
    if (!message.thread) unread.set(message.channel, (unread.get(message.channel) ?? 0) + 1);
    else if (message.thread !== thread) freshThreads.add(message.thread);
    if (message.channel === channel) announce(`${message.author.name}: ${plainText(message.html)}`);
  } else if (known?.card && message.card && known.card.tone !== message.card.tone && message.channel === channel) {
    announce(plainText(message.html));
  }
  scheduleDraw();
}

let scheduled = false;
function scheduleDraw() {
  if (scheduled) return;
  scheduled = true;
  const run = () => { scheduled = false; draw(); };
  // A hidden window gets no animation frames, but its title must count what is unread.
  if (document.hidden) setTimeout(run, 50); else requestAnimationFrame(run);
}

function lost() {
  clearTimeout(lostTimer);
  // A blip that heals at once is not worth a word.
  lostTimer = setTimeout(() => banner('Connection lost. Trying again; what you see may be out of date.', 'lost'), 1500);
}

/** The stream says nothing, as behind a proxy that gathers what it passes on. */
function slow() {
  banner('Live updates are held back on the way here, perhaps by a proxy. Asking every 5 seconds instead.', 'slow');
}

/** Fetches what may have been missed. Runs at every (re)connection of the stream. */
async function resync() {
  clearTimeout(lostTimer);
  try {
    state = await getState();
  } catch {
    stream.hurry();
    return;
  }
  if ($('banner').classList.contains('lost')) banner(null);
  // The session of this browser is another one now, perhaps by another window.
  if (state.me.login !== me.login) { await start(); return; }
  loaded.clear();
  countUnread();
  await Promise.all([load(channel, null), thread ? load(channel, thread) : null]);
  draw();
}

// The server tells only each channel's newest message: enough for a dot on channels not in view.
function countUnread() {
  for (const { name, last } of state.channels) {
    const newest = Number(last ?? 0);
    // A first visit, or a database that began anew: nothing counts as unread.
    if (lastRead(name) < 0 || lastRead(name) > newest) storeRead(name, newest);
    else if (name !== channel && !unread.get(name) && newest > lastRead(name)) unread.set(name, 1);
  }
}

/** Begins anew as whoever is signed in. */
async function start() {
  stream?.stop();
  state = await getState();
  me = state.me;
  for (const map of [messages, unread, freshThreads, loaded]) map.clear();
  names.set(me.login, me.name);
  drawMe();
  document.dispatchEvent(new CustomEvent('metalbot:signed-in', { detail: { login: me.login, name: me.name } }));
  countUnread();
  channel = '';
  follow();
  stream = listen({ open: resync, lost, slow, message: arrived });
}

// ---- keys and buttons -------------------------------------------------------------------------

const channelComposer = composer($('compose'), { label: 'Message to the channel', send: (text) => say(text, channel, null), login: () => me.login });
const threadComposer = composer($('thread-compose'), { label: 'Reply in the thread', send: (text) => say(text, channel, thread), login: () => me.login });
threadComposer.setPlaceholder('Reply, or approve / reject because …');

function focusedMessage() {
  return document.activeElement?.closest?.('.message');
}

function switchChannel(step) {
  const names = state.channels.map(({ name }) => name);
  go(names[(names.indexOf(channel) + step + names.length) % names.length], null);
}

document.addEventListener('keydown', (event) => {
  if (event.defaultPrevented || event.isComposing || document.querySelector('dialog[open]')) return;
  const { key } = event;
  const writing = event.target.matches?.('input, textarea, select');
  if (key === 'Escape') {
    if (closePicker()) event.preventDefault();
    else if (writing && event.target.value && event.target !== threadComposer.box) event.target.blur();
    else if (thread) go(channel, null);
    else if (writing) event.target.blur();
    return;
  }
  if (event.altKey && (key === 'ArrowUp' || key === 'ArrowDown')) {
    event.preventDefault();
    switchChannel(key === 'ArrowUp' ? -1 : 1);
    return;
  }
  if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
  const list = thread && $('thread').contains(document.activeElement) ? threadList : channelList;
  const node = focusedMessage();
  const act = {
    '/': () => (list === threadList ? threadComposer : channelComposer).startCommand(),
    '?': () => $('help').showModal(),
    j: () => list.walk(1),
    k: () => list.walk(-1),
    t: () => node && !node.message.pending && host.openThread(node.message.thread ?? node.message.id),
    r: () => node && openPicker(node, node, host),
  }[key];
  if (!act) return;
  event.preventDefault();
  act();
});

$('to-channels').append(icon('back'));
$('to-channels').addEventListener('click', () => { location.hash = `#/${encodeURIComponent(channel)}/channels`; });
$('thread-back').append(icon('back'));
$('thread-close').append(icon('close'));
for (const id of ['thread-back', 'thread-close']) $(id).addEventListener('click', () => go(channel, null));
$('show-help').append(icon('keyboard'));
$('show-help').addEventListener('click', () => $('help').showModal());
$('help-close').append(icon('close'));
$('help-close').addEventListener('click', () => $('help').close());
$('jump').addEventListener('click', () => { channelList.toEnd(); markRead(); });
document.querySelector('.skip').addEventListener('click', (event) => { event.preventDefault(); channelComposer.box.focus(); });
window.addEventListener('hashchange', follow);
window.addEventListener('focus', markRead);
document.addEventListener('metalbot:session-changed', resync);
document.addEventListener('visibilitychange', () => { if (!document.hidden) { stream?.hurry(); markRead(); } });
setInterval(refreshTimes, 20_000);

async function boot() {
  try {
    await start();
    banner(null);
  } catch (error) {
    if (error.status === 401) return;
    banner('The server cannot be reached. Trying again.', 'lost');
    setTimeout(boot, 3000);
  }
}
boot();
