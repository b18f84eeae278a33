// Small tools for building the page. People's text only ever becomes text nodes; the one place where
// HTML is parsed is `setServerHtml`, for what the server rendered from Markdown.

const policy = window.trustedTypes?.createPolicy('server-html', { createHTML: (html) => html });

/** Makes an element: `el('p', { class: 'x', onclick: f }, 'text', child)`. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Shows HTML that the server rendered and made safe. */
export function setServerHtml(node, html) {
  node.innerHTML = policy ? policy.createHTML(html) : html;
}

/** The text of such HTML, parsed in an inert document: nothing in it loads or runs. */
export function plainText(html) {
  const holder = document.implementation.createHTMLDocument('').createElement('template');
  setServerHtml(holder, html);
  return holder.content.textContent.trim().replace(/\s+/g, ' ').slice(0, 300);
}

/** Sets the text only when it differs, so that nothing is redrawn or read out again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Makes the children of `parent` exactly `nodes`, in order, moving as little as possible. */
export function setChildren(parent, nodes) {
  const keep = new Set(nodes);
  for (const child of [...parent.childNodes]) if (!keep.has(child)) child.remove();
  nodes.forEach((node, at) => {
    if (parent.childNodes[at] !== node) parent.insertBefore(node, parent.childNodes[at] ?? null);
  });
}

/** A coloured square with a person's initial. */
export function avatar(login, name) {
  let hash = 0;
  for (const char of login) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
  return el('span', { class: `avatar av${hash % 8}`, 'aria-hidden': 'true' }, [...(name || login)][0]?.toUpperCase() ?? '?');
}

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'medium' });
const dayOfYear = new Intl.DateTimeFormat(undefined, { weekday: 'long', month: 'long', day: 'numeric' });

export const clockTime = (at) => clock.format(new Date(at));
export const fullTime = (at) => full.format(new Date(at));

/** `just now`, `5 min ago`, and the clock after an hour. */
export function relativeTime(at) {
  const seconds = (Date.now() - new Date(at)) / 1000;
  if (seconds < 45) return 'just now';
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  return clockTime(at);
}

export function dayName(at) {
  const day = new Date(at).toDateString();
  if (day === new Date().toDateString()) return 'Today';
  if (day === new Date(Date.now() - 86_400_000).toDateString()) return 'Yesterday';
  return dayOfYear.format(new Date(at));
}

/** A `<time>` whose relative text `refreshTimes` keeps true. */
export function time(at) {
  return el('time', { datetime: at, title: fullTime(at) }, relativeTime(at));
}

export function refreshTimes() {
  for (const node of document.querySelectorAll('time[datetime]')) setText(node, relativeTime(node.dateTime));
}
