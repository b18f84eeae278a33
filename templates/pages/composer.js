// The box one writes in: completion, recall, sending. Two stand on the page: channel and thread.

import { complete } from './api.js';
import { el, setText } from './dom.js';
import { icon } from './icons.js';

/** Longest message, in bytes of UTF-8; the server refuses more. */
const MAX_BYTES = 16 * 1024;
const COMPLETE_AFTER_MS = 40;
const REMEMBERED = 50;

/**
 * Builds a composer in `root`. `send(text)` is called with what was written; `login()` names the person
 * whose history is recalled.
 */
export function composer(root, { label, send, login }) {
  const listId = `${root.id}-list`;
  const box = el('textarea', {
    id: `${root.id}-text`, rows: '1', 'aria-label': label, role: 'combobox', 'aria-autocomplete': 'list',
    'aria-expanded': 'false', 'aria-controls': listId, autocomplete: 'off', autocapitalize: 'none',
    spellcheck: 'false', enterkeyhint: 'send',
  });
  const list = el('ul', { id: listId, class: 'completions', role: 'listbox', 'aria-label': 'Completions', hidden: true });
  const sendButton = el('button', { type: 'button', class: 'send', 'aria-label': 'Send', title: 'Send (Enter)', disabled: true }, icon('send'));
  const note = el('p', { class: 'compose-note', role: 'status' });
  root.append(el('div', { class: 'compose-box' }, box, sendButton), list, note);

  let items = [];       // what the popup shows
  let shownFor = null;  // the text and cursor that `items` complete
  let selected = -1;
  let request = null;
  let timer = 0;
  let recall = -1;
  let draft = '';

  const historyKey = () => `metalbot.history.${login()}`;
  function history() {
    try { return JSON.parse(localStorage.getItem(historyKey())) ?? []; } catch { return []; }
  }
  function remember(text) {
    const entries = [text, ...history().filter((entry) => entry !== text)].slice(0, REMEMBERED);
    try { localStorage.setItem(historyKey(), JSON.stringify(entries)); } catch { /* private mode: no recall later */ }
  }

  function grow() {
    box.style.height = 'auto';
    box.style.height = `${Math.min(box.scrollHeight, 200)}px`;
  }
  function changed() {
    grow();
    const size = new TextEncoder().encode(box.value).length;
    const tooLong = size > MAX_BYTES;
    sendButton.disabled = tooLong || !box.value.trim();
    root.classList.toggle('is-command', box.value.startsWith('/'));
    setText(note, tooLong ? `Too long: ${Math.ceil(size / 1024)} kB of at most 16 kB.` : '');
  }
  function setValue(text, cursor = text.length) {
    box.value = text;
    box.setSelectionRange(cursor, cursor);
    changed();
  }

  function closeList() {
    clearTimeout(timer);
    request?.abort();
    const open = !list.hidden;
    list.hidden = true;
    items = [];
    selected = -1;
    box.setAttribute('aria-expanded', 'false');
    box.removeAttribute('aria-activedescendant');
    return open;
  }
  function isFresh() {
    return !list.hidden && shownFor?.text === box.value && shownFor.cursor === box.selectionStart;
  }
  function select(at) {
    selected = at;
    [...list.children].forEach((option, index) => option.setAttribute('aria-selected', String(index === at)));
    const option = list.children[at];
    if (option) {
      box.setAttribute('aria-activedescendant', option.id);
      option.scrollIntoView({ block: 'nearest' });
    } else {
      box.removeAttribute('aria-activedescendant');
    }
  }
  function show(found, text, cursor) {
    items = found;
    shownFor = { text, cursor };
    if (!items.length) { closeList(); return; }
    list.replaceChildren(...items.map((item, index) => el('li', {
      role: 'option', id: `${listId}-${index}`, 'aria-selected': 'false',
      onmousedown: (event) => { event.preventDefault(); accept(index); },
    }, el('span', { class: 'completion-label' }, item.label), el('span', { class: 'completion-help' }, item.help ?? ''))));
    list.hidden = false;
    box.setAttribute('aria-expanded', 'true');
    select(items.findIndex(extendsWord));
  }
  // Whether the item carries on the word under the cursor. Only then does Enter mean 'accept'
  // without the popup having been entered: otherwise a finished command could not be sent.
  function extendsWord(item) {
    const word = shownFor.text.slice(item.from, shownFor.cursor).toLowerCase();
    const insert = item.insert.trimEnd().toLowerCase();
    return word !== '' && insert !== word && insert.startsWith(word);
  }
  function ask() {
    clearTimeout(timer);
    request?.abort();
    const text = box.value;
    const cursor = box.selectionStart;
    if (!text.startsWith('/') || cursor !== box.selectionEnd) { closeList(); return; }
    timer = setTimeout(async () => {
      request = new AbortController();
      try {
        const answer = await complete(text, cursor, request.signal);
        if (box.value === text && box.selectionStart === cursor && document.activeElement === box) show(answer.items, text, cursor);
      } catch { /* completion is a comfort: without it one types on */ }
    }, COMPLETE_AFTER_MS);
  }
  function accept(index) {
    const item = items[index];
    const cursor = shownFor.cursor;
    const text = box.value.slice(0, item.from) + item.insert + box.value.slice(cursor);
    closeList();
    setValue(text, item.from + item.insert.length);
    ask();
  }
  function submit() {
    const text = box.value.trim();
    if (!text || sendButton.disabled) return;
    closeList();
    remember(text);
    recall = -1;
    setValue('');
    send(text);
  }
  function recallStep(step) {
    const entries = history();
    const next = recall + step;
    if (next < -1 || next >= entries.length) return;
    if (recall === -1) draft = box.value;
    recall = next;
    closeList();
    setValue(next === -1 ? draft : entries[next]);
  }

  box.addEventListener('input', () => { recall = -1; changed(); ask(); });
  box.addEventListener('blur', () => setTimeout(closeList, 100));
  box.addEventListener('click', () => { if (!isFresh()) closeList(); });
  box.addEventListener('keydown', (event) => {
    if (event.isComposing) return;
    const { key } = event;
    const plain = !event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey;
    if (key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      if (isFresh() && selected >= 0) accept(selected);
      else submit();
    } else if (key === 'Tab' && plain && isFresh()) {
      event.preventDefault();
      accept(Math.max(selected, 0));
    } else if (key === 'Escape' && !list.hidden) {
      event.preventDefault();
      event.stopPropagation();
      closeList();
    } else if ((key === 'ArrowDown' || key === 'ArrowUp') && plain) {
      if (isFresh()) {
        event.preventDefault();
        const step = key === 'ArrowDown' ? 1 : -1;
        select(selected < 0 && step < 0 ? items.length - 1 : (selected + step + items.length) % items.length);
      } else if (recall >= 0 || (key === 'ArrowUp' && !box.value)) {
        event.preventDefault();
        recallStep(key === 'ArrowUp' ? 1 : -1);
      }
    }
  });
  sendButton.addEventListener('click', () => { submit(); box.focus(); });

  return {
    box,
    closeList,
    /** Puts the cursor here; an empty box gets the slash that a command begins with. */
    startCommand() {
      box.focus();
      if (!box.value) { setValue('/'); ask(); }
    },
    setPlaceholder(text) { box.placeholder = text; },
    /** Puts text back that could not be sent. */
    restore(text) { if (!box.value) setValue(text); box.focus(); },
    clear() { setValue(''); closeList(); },
  };
}
