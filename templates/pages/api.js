// Requests and the live stream. Invariant: a POST carries its delivery id, so that repeating it after
// a lost answer is harmless.

let token = '';

/** A refusal with a text for people, or a failure to reach the server (status 0). */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function call(path, init) {
  let response;
  try {
    response = await fetch(path, { credentials: 'same-origin', cache: 'no-store', ...init });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, 'The server cannot be reached.');
  }
  if (response.status === 401) {
    location.assign('/');
    throw new Problem(401, 'You are signed out.');
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Problem(response.status, problem.detail || problem.title || 'The server had a problem. Try again.');
  }
  const type = response.headers.get('content-type') || '';
  return type.includes('json') ? response.json() : null;
}

export function newDelivery() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

export async function getState() {
  const state = await call('/console/state');
  token = state.csrf;
  return state;
}

export function getMessages(channel, thread) {
  const query = new URLSearchParams({ channel });
  if (thread) query.set('thread', thread);
  return call(`/console/messages?${query}`);
}

export function complete(text, cursor, signal) {
  return call(`/console/complete?${new URLSearchParams({ text, cursor })}`, { signal });
}

/** POSTs JSON; tries three times when the server cannot be reached, under one delivery id. */
export async function post(path, body) {
  for (let turn = 0; ; turn += 1) {
    try {
      return await call(path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-csrf-token': token },
        body: JSON.stringify(body),
      });
    } catch (error) {
      const again = error.status === 0 || error.status === 502 || error.status === 503;
      if (!again || turn === 2) throw error;
      await new Promise((done) => setTimeout(done, 400 * 2 ** turn));
    }
  }
}

/**
 * Keeps one event stream open. `on.open` runs at every (re)connection: what was missed must be
 * fetched then. `on.lost` runs when the stream breaks. A stream that stays silent for 40 s is dead,
 * because the server sends something every 15 s, and first of all at once: one that says nothing for 5 s
 * is held back on the way. `on.slow` runs then, and `on.open` every 5 s until something is heard.
 *
 * Browsers allow six connections to a server over HTTP/1.1, so the windows of one session share a
 * stream: the one that holds the lock has it and passes everything on. Where there are no locks, each
 * window has its own; so has one that hears nothing from the holder.
 */
export function listen(on) {
  const name = `metalbot-stream-${token.slice(0, 16)}`;
  const bus = navigator.locks ? new BroadcastChannel(name) : null;
  let source = null;
  let holds = false;
  let release = () => {};
  let failures = 0;
  let watchdog;
  let retry;
  let mute;
  let asking;
  let stopped = false;

  function take(kind, data) {
    if (stopped) return;
    clearTimeout(watchdog);
    if (kind !== 'lost') watchdog = setTimeout(broken, 40_000);
    if (kind === 'open') on.open();
    else if (kind === 'lost') on.lost();
    else if (kind === 'slow') on.slow();
    else if (kind === 'message') on.message(data);
    else if (kind === 'bye') location.assign('/');
  }
  function tell(kind, data) {
    take(kind, data);
    if (holds) bus.postMessage({ kind, data });
  }
  function heard() {
    clearTimeout(mute);
    clearInterval(asking);
  }
  function askInstead() {
    tell('slow');
    tell('open');
    asking = setInterval(() => tell('open'), 5_000);
  }
  function broken() {
    heard();
    source?.close();
    if (stopped) return;
    failures += 1;
    tell('lost');
    const wait = Math.min(15_000, 500 * 2 ** failures) * (0.7 + Math.random() * 0.6);
    clearTimeout(retry);
    retry = setTimeout(connect, wait);
  }
  function connect() {
    clearTimeout(retry);
    source?.close();
    source = new EventSource('/console/events');
    watchdog = setTimeout(broken, 40_000);
    heard();
    mute = setTimeout(askInstead, 5_000);
    source.onopen = () => { failures = 0; tell('open'); };
    source.onerror = broken;
    for (const kind of ['message', 'ping', 'resync', 'bye']) {
      source.addEventListener(kind, (event) => {
        heard();
        if (kind === 'message') tell(kind, JSON.parse(event.data));
        else tell(kind === 'resync' ? 'open' : kind);
      });
    }
  }
  function hurry() {
    if (!stopped && source?.readyState === EventSource.CLOSED) connect();
  }
  function stop() {
    stopped = true;
    clearTimeout(retry);
    clearTimeout(watchdog);
    heard();
    window.removeEventListener('online', hurry);
    source?.close();
    bus?.close();
    release();
  }

  window.addEventListener('online', hurry);
  if (bus) {
    bus.onmessage = ({ data: { kind, data } }) => { if (!holds) take(kind, data); };
    navigator.locks.request(name, () => {
      if (stopped) return undefined;
      holds = true;
      connect();
      return new Promise((done) => { release = done; });
    });
    // The stream of another window is open already and will not say so again.
    setTimeout(() => { if (!holds) take('open'); }, 100);
  } else {
    connect();
  }
  return { stop, hurry };
}
