// The console's pictures, drawn here so that they need neither a font nor a server.

const NS = 'http://www.w3.org/2000/svg';

// Line icons on a 20 x 20 field: path data, stroked.
const LINES = {
  reply: 'M4 4.5h12a1.5 1.5 0 0 1 1.5 1.5v6.5A1.5 1.5 0 0 1 16 14h-6l-4 3.2V14H4a1.5 1.5 0 0 1-1.5-1.5V6A1.5 1.5 0 0 1 4 4.5z',
  react: 'M12 3.3A7 7 0 1 0 16.7 8M7.2 12c.7 1 1.7 1.5 2.8 1.5s2.1-.5 2.8-1.5M7.6 8.3v.4M12.4 8.3v.4M16 1.8v5M13.5 4.3h5',
  close: 'M5 5l10 10M15 5L5 15',
  back: 'M12.5 4.5L7 10l5.5 5.5',
  keyboard: 'M3.5 5h13A1.5 1.5 0 0 1 18 6.5v7a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 2 13.5v-7A1.5 1.5 0 0 1 3.5 5zM5.5 8.5v.1M8.5 8.5v.1M11.5 8.5v.1M14.5 8.5v.1M6.5 12h7',
  eye: 'M2 10s2.8-5 8-5 8 5 8 5-2.8 5-8 5-8-5-8-5zM10 12.3a2.3 2.3 0 1 0 0-4.6 2.3 2.3 0 0 0 0 4.6z',
  send: 'M4 10h11M10.5 5.5L15 10l-4.5 4.5',
  leave: 'M8 4H5a1.5 1.5 0 0 0-1.5 1.5v9A1.5 1.5 0 0 0 5 16h3M12.5 6.5L16 10l-3.5 3.5M16 10H8',
  server: 'M4.5 3.5h11a1 1 0 0 1 1 1v3a1 1 0 0 1-1 1h-11a1 1 0 0 1-1-1v-3a1 1 0 0 1 1-1zM4.5 11.5h11a1 1 0 0 1 1 1v3a1 1 0 0 1-1 1h-11a1 1 0 0 1-1-1v-3a1 1 0 0 1 1-1zM6.5 6v.1M6.5 14v.1M10 6h3.5M10 14h3.5',
  down: 'M10 4v11M5.5 10.5L10 15l4.5-4.5',
};

// Reactions: [element, attributes] on a 20 x 20 field.
const FACES = {
  white_check_mark: [
    ['rect', { x: 2, y: 2, width: 16, height: 16, rx: 4, fill: '#2f9e56' }],
    ['path', { d: 'M6 10.3l2.7 2.8L14 7.3', fill: 'none', stroke: '#fff', 'stroke-width': 2.2, 'stroke-linecap': 'round', 'stroke-linejoin': 'round' }],
  ],
  '+1': [
    ['path', { d: 'M7 9l3.3-6.2c1.4 0 2.3 1 2 2.4L11.7 8H16c1.2 0 2 1 1.8 2.2l-.9 5.2A2.2 2.2 0 0 1 14.7 17H7z', fill: '#f2b33d', stroke: '#b57b12', 'stroke-width': .8, 'stroke-linejoin': 'round' }],
    ['rect', { x: 2.2, y: 8.6, width: 4, height: 8.8, rx: 1.2, fill: '#4c7dd6' }],
  ],
  x: [
    ['path', { d: 'M5 5l10 10M15 5L5 15', fill: 'none', stroke: '#e0443e', 'stroke-width': 3.2, 'stroke-linecap': 'round' }],
  ],
  eyes: [
    ['ellipse', { cx: 6, cy: 10, rx: 3.8, ry: 5.6, fill: '#fff', stroke: '#7b8494', 'stroke-width': .9 }],
    ['ellipse', { cx: 14, cy: 10, rx: 3.8, ry: 5.6, fill: '#fff', stroke: '#7b8494', 'stroke-width': .9 }],
    ['circle', { cx: 7.2, cy: 11, r: 1.9, fill: '#2b2f36' }],
    ['circle', { cx: 15.2, cy: 11, r: 1.9, fill: '#2b2f36' }],
  ],
  tada: [
    ['path', { d: 'M3 17.5L7.3 7.2l5.7 5.6z', fill: '#f2b33d', stroke: '#b57b12', 'stroke-width': .8, 'stroke-linejoin': 'round' }],
    ['path', { d: 'M10 6.5c1.5-1 1.5-2.5.8-3.8M13.8 10.2c1.3-1 2.8-1 4-.2M12.2 8l3-3', fill: 'none', stroke: '#4c7dd6', 'stroke-width': 1.3, 'stroke-linecap': 'round' }],
    ['circle', { cx: 7, cy: 3.5, r: 1, fill: '#e0443e' }],
    ['circle', { cx: 17, cy: 6.5, r: 1, fill: '#2f9e56' }],
    ['circle', { cx: 16.5, cy: 14, r: 1, fill: '#e0443e' }],
  ],
};

function svg(size) {
  const root = document.createElementNS(NS, 'svg');
  root.setAttribute('viewBox', '0 0 20 20');
  root.setAttribute('width', size);
  root.setAttribute('height', size);
  root.setAttribute('aria-hidden', 'true');
  root.setAttribute('focusable', 'false');
  return root;
}

function add(root, tag, attributes) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  root.append(node);
}

/** A line icon in the colour of the text around it. */
export function icon(name, size = 18) {
  const root = svg(size);
  add(root, 'path', {
    d: LINES[name], fill: 'none', stroke: 'currentColor', 'stroke-width': 1.5,
    'stroke-linecap': 'round', 'stroke-linejoin': 'round',
  });
  return root;
}

/** The picture of a reaction; one that has none here shows its name. */
export function face(name, size = 16) {
  if (!FACES[name]) return document.createTextNode(`:${name}:`);
  const root = svg(size);
  for (const [tag, attributes] of FACES[name]) add(root, tag, attributes);
  return root;
}

/** The reactions of the picker, with the words that a screen reader says. */
export const REACTIONS = [
  ['white_check_mark', 'check mark'],
  ['+1', 'thumbs up'],
  ['x', 'cross'],
  ['eyes', 'eyes'],
  ['tada', 'party popper'],
];

/** What a screen reader says for a reaction. */
export function spoken(name) {
  return REACTIONS.find(([known]) => known === name)?.[1] ?? name.replaceAll('_', ' ');
}
