'use strict'

// The station draws the page; what comes over the stream is HTML that it made.
// This script puts it in place, sends what is scanned and touched, and says when
// the station is not heard any more.

const $ = id => document.getElementById(id)
const field = $('field'), said = $('said')

// ---- may this page act?

// The token comes in the address, once, and stays with this origin: a cookie
// alone would be shown to every server on this machine.
const given = location.hash.match(/^#act=([\w-]+)$/)
if (given) {
  localStorage.setItem('act', given[1])
  history.replaceState(null, '', '/')
}
const token = localStorage.getItem('act') ?? ''
if (!token) delete document.body.dataset.acts

// ---- what the station shows

// put makes the old node like the new one and keeps what need not change: a
// button must not be exchanged under a finger.
function put(old, now) {
  if (old.nodeName !== now.nodeName || old.id !== now.id) return old.replaceWith(now)
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== now.data) old.data = now.data
    return
  }
  for (const a of [...old.attributes]) if (!now.hasAttribute(a.name)) old.removeAttribute(a.name)
  for (const a of now.attributes) if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value)
  const before = [...old.childNodes], after = [...now.childNodes]
  after.forEach((n, i) => i < before.length ? put(before[i], n) : old.append(n))
  before.slice(after.length).forEach(n => n.remove())
}

function part(html) {
  const made = document.createElement('template')
  made.innerHTML = html
  const now = made.content.firstElementChild, old = $(now.id)
  if (old) put(old, now)
}

const silence = 6000 // ms: the station says something every 2 seconds
const longestPause = 5000
let stream = null, heard = 0, pause = 250

function connect() {
  heard = Date.now()
  stream = new EventSource('/events')
  stream.addEventListener('life', e => {
    // Another process: its slots, its words and whom it lets act may be others.
    if (JSON.parse(e.data) !== document.body.dataset.life) location.reload()
  })
  stream.addEventListener('part', e => {
    part(JSON.parse(e.data))
    found()
  })
  stream.addEventListener('beat', found)
  stream.onerror = lost
}

function found() {
  heard = Date.now()
  pause = 250
  delete document.body.dataset.lost
  document.body.dataset.live = ''
  $('lost').hidden = true
}

function lost() {
  if (!stream) return
  stream.close()
  stream = null
  if (!('lost' in document.body.dataset)) {
    document.body.dataset.lost = ''
    $('since').textContent = new Date(heard).toLocaleTimeString('en-GB')
    $('lost').hidden = false
  }
  setTimeout(connect, pause)
  pause = Math.min(2 * pause, longestPause)
}

setInterval(() => { if (Date.now() - heard > silence) lost() }, 1000)
connect()

// ---- what is said to the operator

function say(kind, sentence, next, ...buttons) {
  const sign = { ok: '✔', no: '✘', ask: '?', slot: '▣' }[kind]
  const line = (name, text) => {
    const p = document.createElement('p')
    p.className = name
    p.textContent = text
    return p
  }
  const words = document.createElement('div')
  words.append(line('sentence', sign + ' ' + sentence))
  if (next) words.append(line('next', next))
  said.className = kind
  if (sentence.length > 80) said.classList.add('long')
  said.replaceChildren(words)
  if (buttons.length) {
    const row = document.createElement('div')
    row.className = 'buttons'
    for (const [text, act] of buttons) {
      const b = document.createElement('button')
      b.type = 'button'
      b.textContent = text
      b.onclick = act
      row.append(b)
    }
    said.append(row)
  }
}

// ask asks the station. A refusal is said, and the answer is then null.
async function ask(method, path, body) {
  let problem
  try {
    const resp = await fetch(path, {
      method, signal: AbortSignal.timeout(10000),
      headers: method === 'GET' ? {} : { 'Content-Type': 'application/json', 'Nameplate-Page': token },
      body: method === 'GET' ? undefined : JSON.stringify(body ?? {}),
    })
    if (resp.ok) return resp.status === 204 ? {} : await resp.json()
    problem = await resp.json()
  } catch {
    problem = { sentence: 'The station did not answer.', next: 'Look at the slots, then try again.' }
  }
  say('no', problem.sentence, '→ ' + problem.next)
  return null
}

// ---- what the operator does

let chosen = ''

function choose(slot) {
  if (chosen) $('place-' + chosen)?.removeAttribute('data-chosen')
  chosen = slot
  if (!slot) return
  $('place-' + slot).setAttribute('data-chosen', '')
  const tile = $('slot-' + slot), why = tile.querySelector('.why')
  const buttons = [['✕ Leave', leave]]
  if (tile.classList.contains('running')) buttons.unshift(['■ Cancel', () => cancel(slot)])
  else if (tile.classList.contains('in')) buttons.unshift(['▶ Start', () => start(slot)])
  say('slot', 'Slot ' + slot.toUpperCase() + (why ? ': ' + why.textContent : ' is chosen.'),
    why ? tile.querySelector('.do').textContent : '→ Scan or touch its order.', ...buttons)
}

function leave() {
  choose('')
  said.replaceChildren()
  said.className = ''
}

async function start(slot) {
  choose('')
  if (await ask('POST', '/api/v1/slots/' + slot + '/start')) say('ok', 'Slot ' + slot.toUpperCase() + ' starts.')
}

async function cancel(slot) {
  choose('')
  if (await ask('POST', '/api/v1/slots/' + slot + '/cancel')) say('ok', 'The passage in slot ' + slot.toUpperCase() + ' is being cancelled.')
}

const names = slots => slots.length > 6 ? slots.length + ' slots' : slots.map(s => s.toUpperCase()).join(', ')

async function pick(order) {
  const slot = chosen
  choose('')
  const p = await ask('POST', '/api/v1/orders/' + encodeURIComponent(order) + '/pick', { slot })
  if (p) say('ok', order + ' is the order of ' + names(p.slots) + '.', p.busy && 'Still running with their old order: ' + names(p.busy) + '.')
}

async function scanned(text) {
  const m = await ask('GET', '/api/v1/scan?' + new URLSearchParams({ text, slot: chosen }))
  switch (m?.means) {
    case 'order': return pick(m.order)
    case 'start': return start(m.slot)
    case 'slot': return choose(m.slot)
    case 'unit': return say('ok', m.sentence, '→ ' + m.next)
  }
}

// A scanner may read the next label before the station has answered.
let queue = Promise.resolve()

$('scan').addEventListener('submit', e => {
  e.preventDefault()
  const text = field.value.trim()
  field.value = ''
  if (text) queue = queue.then(() => scanned(text))
})

document.addEventListener('click', e => {
  const order = e.target.closest('[data-order]'), started = e.target.closest('[data-start]'), tile = e.target.closest('[data-slot]')
  if (order) {
    // A sleeve touches too: a wrong order would be a wrong name on every board.
    const id = order.dataset.order, where = chosen ? 'slot ' + chosen.toUpperCase() : 'all slots that are not running'
    say('ask', id + ' for ' + where + '?', '', ['✔ Yes', () => pick(id)], ['✘ No', leave])
  } else if (started) start(started.dataset.start)
  else if (tile) tile.dataset.slot === chosen ? leave() : choose(tile.dataset.slot)
  field.focus()
})

// The field has the focus, whatever happens.
document.addEventListener('focusout', () => setTimeout(() => field.focus()))
addEventListener('focus', () => field.focus())
document.addEventListener('keydown', e => {
  if (e.key === 'Escape') {
    field.value = ''
    leave()
  }
  if (!e.ctrlKey && !e.altKey && !e.metaKey) field.focus()
}, true)
field.focus()
