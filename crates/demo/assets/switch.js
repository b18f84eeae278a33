// The switch between people: lists them in the side of the console, and makes the visitor one of them.
//
// Runs before the console's own script, so that it hears whom the console begins as.

import { avatar, el, setText } from '/console/assets/dom.js';
import { Problem, post } from '/console/assets/api.js';

let people = [];
let me = null;
let announced = true;

const list = el('ul', { id: 'cast-list', class: 'cast' });
document.querySelector('.side-scroll').append(
  el('section', { id: 'cast', 'aria-labelledby': 'cast-title' }, el('h2', { id: 'cast-title' }, 'Act as'), list));

function draw() {
  list.replaceChildren(...people.map(({ login, name, role }) => el('li', {}, el('button', {
    type: 'button', 'data-login': login, 'aria-pressed': String(login === me?.login), onclick: () => become(login),
  }, avatar(login, name), el('span', { class: 'who' }, el('b', {}, name), el('small', {}, role))))));
  const mine = people.find(({ login }) => login === me?.login);
  if (!mine) return;
  setText(document.querySelector('#me small'), mine.role);
  // Nobody signs out here: the next visit would be signed in again.
  document.querySelector('#me button')?.remove();
}

async function become(login) {
  if (login === me?.login) return;
  try {
    await post('/demo/become', { login });
    announced = false;
    document.dispatchEvent(new Event('metalbot:session-changed'));
  } catch (error) {
    announce(error instanceof Problem ? error.message : 'The switch did not work. Try again.');
  }
}

function announce(text) {
  document.getElementById('announce').append(el('p', {}, text));
}

document.addEventListener('metalbot:signed-in', ({ detail }) => {
  me = detail;
  draw();
  if (!announced) announce(`You are ${me.name} now.`);
  announced = true;
});

fetch('/demo/people').then((answer) => answer.json()).then((answer) => {
  people = answer;
  draw();
});
