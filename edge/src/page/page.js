'use strict'
// The page: what is shown, said and clicked. It writes text and attributes, never markup.

const AT_ONCE = 3
const REDRAW_MS = 250
const PAGE_FILES = 100

const $ = (id) => document.getElementById(id)
const shown = (node, is) => { node.hidden = !is }
const say = (text) => { $('said').textContent = text }

function make(name, { text, ...attributes } = {}, ...children) {
  const node = document.createElement(name)
  if (text !== undefined) node.textContent = text
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value)
    else if (value !== undefined) node.setAttribute(key, value)
  }
  node.append(...children)
  return node
}

const button = (text, label, onclick) =>
  make('button', { text, type: 'button', class: 'small', 'aria-label': `${text}: ${label}`, onclick })

function bytes(count) {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024
    unit += 1
  }
  return `${unit === 0 ? count : count.toFixed(count < 10 ? 2 : 1)} ${units[unit]}`
}

function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

const when = (text) => new Date(text).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' })

function save(name, url) {
  const link = make('a', { href: url, download: name })
  document.body.append(link)
  link.click()
  link.remove()
}

function saveText(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: 'application/json' }))
  save(name, url)
  setTimeout(() => URL.revokeObjectURL(url), 60000)
}

let server = null
let cohorts = []
const transfers = new Map()

// --- signing in and out

$('sign-in').addEventListener('submit', async (event) => {
  event.preventDefault()
  const field = $('token')
  const asked = new Server(field.value.trim())
  $('token-error').textContent = ''
  let policy
  try {
    policy = await asked.json('/v1/policy')
  } catch (fault) {
    $('token-error').textContent = fault.status === 401 ? 'This token is not known, or has run out.' : `Not signed in: ${fault.message}.`
    field.select()
    return
  }
  field.value = ''
  server = asked
  cohorts = policy.cohorts
  $('who').textContent = `Signed in as ${policy.user}`
  $('cohort').replaceChildren(...cohorts.map((one) => make('option', { text: one.cohort, value: one.cohort })))
  for (const id of ['who', 'leave', 'inside']) shown($(id), true)
  shown($('entry'), false)
  chooseCohort()
  say(`Signed in as ${policy.user}`)
  $('cohort').focus()
  await showOpen()
})

$('leave').addEventListener('click', () => {
  for (const one of transfers.keys()) one.pause()
  server?.leave()
  server = null
  transfers.clear()
  for (const id of ['transfers', 'open-list', 'list-rows', 'cohort']) $(id).replaceChildren()
  for (const id of ['who', 'leave', 'inside', 'open']) shown($(id), false)
  shown($('entry'), true)
  say('Signed out')
  $('token').focus()
})

addEventListener('beforeunload', (event) => {
  if ([...transfers.keys()].some((one) => one.active)) event.preventDefault()
})

// --- the cohort and its rules

const cohort = () => cohorts.find((one) => one.cohort === $('cohort').value)
const may = (action) => Boolean(cohort()?.actions.includes(action))

function chooseCohort() {
  const chosen = cohort()
  const types = chosen?.file_types ?? []
  shown($('type-field'), types.length > 0)
  $('type').replaceChildren(...types.map((one) => make('option', { text: one, value: one })))
  shown($('drop'), may('upload'))
  const rules = []
  if (!chosen) rules.push('No cohort is open to you.')
  else {
    if (chosen.max_file_bytes) rules.push(`A file may have ${bytes(chosen.max_file_bytes)}.`)
    if (chosen.retention_days) rules.push(`Files stay for ${chosen.retention_days} days.`)
    if (chosen.scan_required) rules.push('Files can be read when they were scanned.')
  }
  $('rules').textContent = rules.join(' ')
  showList()
}
$('cohort').addEventListener('change', chooseCohort)

// --- uploads

const chosen = (files) => {
  if (!server) return
  const folder = $('folder').value.trim().replace(/^\/+|\/+$/g, '').normalize('NFC')
  $('folder-error').textContent = ''
  if (folder.split('/').some((part) => part === '.' || part === '..') || folder.includes('\\')) {
    $('folder-error').textContent = 'A folder is written as 2026/visits, without . and .. and backslashes.'
    $('folder').focus()
    return
  }
  for (const file of files) {
    const path = (folder ? `${folder}/` : '') + file.name.normalize('NFC')
    const order = { cohort: $('cohort').value, path, type: shownType(), file }
    const mark = known.mark(order.cohort, path, file)
    if ([...transfers.keys()].some((one) => one.mark === mark && !one.ended)) continue
    const transfer = new Transfer(server, order, told)
    transfers.set(transfer, new Row(transfer))
  }
  startNext()
}
const shownType = () => ($('type-field').hidden ? '' : $('type').value)

$('files').addEventListener('change', (event) => {
  chosen([...event.target.files])
  event.target.value = ''
})
for (const kind of ['dragenter', 'dragover']) {
  $('drop').addEventListener(kind, (event) => {
    event.preventDefault()
    $('drop').classList.add('over')
  })
}
for (const kind of ['dragleave', 'drop']) $('drop').addEventListener(kind, () => $('drop').classList.remove('over'))
$('drop').addEventListener('drop', (event) => {
  event.preventDefault()
  chosen([...event.dataTransfer.items].filter((item) => item.webkitGetAsEntry()?.isFile).map((item) => item.getAsFile()))
})
// A file that misses the place must not replace the page.
for (const kind of ['dragover', 'drop']) addEventListener(kind, (event) => event.preventDefault())
addEventListener('online', () => transfers.forEach((_, one) => one.retry()))

function startNext() {
  const all = [...transfers.keys()]
  let free = AT_ONCE - all.filter((one) => one.active).length
  for (const one of all) {
    if (free > 0 && one.state === 'waiting') {
      free -= 1
      one.run().finally(startNext)
    }
  }
}

const SAID = {
  sending: 'upload started', broken: 'connection lost, trying again', paused: 'paused',
  done: 'stored, and the receipt has the same hash', failed: 'failed', 'given up': 'given up',
}

function told(transfer, announced) {
  transfers.get(transfer)?.draw()
  if (announced && SAID[transfer.state]) {
    say(`${transfer.file.name}: ${SAID[transfer.state]}${transfer.state === 'failed' ? `: ${transfer.error}` : ''}`)
  }
  if (transfer.state === 'done' && announced) {
    showOpen()
    showList()
  }
}

class Row {
  constructor(transfer) {
    this.transfer = transfer
    const name = transfer.file.name
    this.bar = make('progress', { max: '1', value: '0', 'aria-label': `Upload of ${name}` })
    this.state = make('p', { class: 'state' })
    this.hash = make('p', { class: 'hash' })
    this.actions = {
      pause: button('Pause', name, () => transfer.pause()),
      resume: button('Resume', name, () => transfer.run().finally(startNext)),
      stop: button('Cancel', name, () => transfer.giveUp().finally(startNext)),
      receipt: button('Receipt', name, () => saveText(`${name}.receipt.json`, transfer.receipt)),
      share: button('Share', name, () => share(transfer.fileId, transfer.path)),
      forget: button('Remove', name, () => {
        transfers.delete(transfer)
        this.node.remove()
        $('files').focus()
        showOpen()
      }),
    }
    const actions = make('div', { class: 'actions' }, ...Object.values(this.actions))
    const title = make('p', { class: 'name', text: `${transfer.cohort}/${transfer.path}` })
    this.node = make('li', {}, title, actions, this.bar, this.state, this.hash)
    $('transfers').append(this.node)
    this.#show()
  }

  // At most a few times a second, unless the state has changed.
  draw() {
    const now = performance.now()
    if (this.drawn === this.transfer.state && now - this.drawnAt < REDRAW_MS && this.hasHash === Boolean(this.transfer.sha256)) return
    this.#show()
  }

  #show() {
    const one = this.transfer, size = one.file.size
    Object.assign(this, { drawn: one.state, drawnAt: performance.now(), hasHash: Boolean(one.sha256) })
    this.node.dataset.state = one.state
    this.bar.value = one.state === 'done' ? 1 : size > 0 ? one.offset / size : 0
    shown(this.bar, !one.ended)
    const focused = Object.values(this.actions).includes(document.activeElement)
    shown(this.actions.pause, ['sending', 'broken', 'waiting'].includes(one.state))
    shown(this.actions.resume, ['paused', 'failed'].includes(one.state))
    shown(this.actions.stop, !one.ended && one.state !== 'checking')
    shown(this.actions.receipt, one.state === 'done')
    shown(this.actions.share, one.state === 'done' && one.fileId !== '')
    shown(this.actions.forget, one.ended)
    // The button that had the focus may be gone: the focus goes to what stands in its place.
    if (focused && document.activeElement?.hidden !== false) {
      Object.values(this.actions).find((action) => !action.hidden)?.focus()
    }
    this.state.className = `state ${{ done: 'good', failed: 'bad', broken: 'warn' }[one.state] ?? ''}`
    this.state.textContent = this.#words(one, size)
    this.hash.textContent = one.sha256 ? `SHA-256 ${one.sha256}` : ''
  }

  #words(one, size) {
    const far = `${bytes(one.offset)} of ${bytes(size)}`
    switch (one.state) {
      case 'waiting': return `Waiting, ${bytes(size)}`
      case 'sending': {
        const rate = one.rate
        const from = one.resumedAt > 0 ? `, resumed at ${bytes(one.resumedAt)}` : ''
        return rate > 0 ? `${far}, ${bytes(rate)}/s, ${duration((size - one.offset) / rate)} left${from}` : `${far}${from}`
      }
      case 'broken': return `${far}. ${one.error}; trying again`
      case 'paused': return `Paused at ${far}`
      case 'checking': return `Sent. Computing the hash: ${bytes(one.hashed)} of ${bytes(size)}`
      case 'done': return `Stored and verified, ${bytes(size)}: the receipt has the hash that was computed here`
      case 'failed': return `Failed: ${one.error}`
      default: return 'Given up; nothing was stored'
    }
  }
}

setInterval(() => transfers.forEach((row, one) => one.active && row.draw()), REDRAW_MS)

// Uploads of this user that wait for the rest of their bytes.
async function showOpen() {
  if (!server) return
  let told
  try {
    told = await server.json('/v1/uploads')
  } catch {
    return
  }
  const ids = new Set(Object.values(known.all()))
  const here = new Set([...transfers.keys()].map((one) => one.id))
  const rows = told.uploads.filter((one) => !one.complete && !here.has(one.upload_id)).map((one) => {
    const size = one.length === undefined ? '' : ` of ${bytes(one.length)}`
    const whence = ids.has(one.upload_id) ? 'begun in this browser' : 'begun elsewhere'
    const text = `${bytes(one.offset)}${size}, ${whence}, kept until ${when(one.expires_at)}`
    const drop = button('Discard', text, async () => {
      known.drop(one.upload_id)
      await server.ask('DELETE', `/v1/uploads/${one.upload_id}`).catch((fault) => say(fault.message))
      await showOpen()
    })
    return make('li', {}, make('span', { text }), drop)
  })
  $('open-list').replaceChildren(...rows)
  shown($('open'), rows.length > 0)
}

// --- the list

let listing = 0

async function showList(cursor) {
  const mine = ++listing
  if (!cursor) $('list-rows').replaceChildren()
  shown($('more'), false)
  if (!server || !may('list')) {
    shown($('list'), false)
    $('list-state').textContent = server && cohort() ? 'You may not list this cohort.' : ''
    return
  }
  const query = new URLSearchParams({ limit: String(PAGE_FILES) })
  const days = $('since').value
  if (days !== '') query.set('from', new Date(Date.now() - Number(days) * 86400000).toISOString().slice(0, 10))
  if (cursor) query.set('cursor', cursor)
  $('list-state').textContent = 'Loading'
  let page
  try {
    page = await server.json(`/v1/cohorts/${cohort().cohort}/files?${query}`)
  } catch (fault) {
    if (mine === listing) $('list-state').textContent = `The list cannot be shown: ${fault.message}.`
    return
  }
  if (mine !== listing) return
  $('list-rows').append(...page.files.map(fileRow))
  const count = $('list-rows').children.length
  shown($('list'), count > 0)
  $('list-state').textContent = count === 0 && !page.next_cursor ? 'Nothing arrived in this time.' : `${count} ${count === 1 ? 'file' : 'files'}${page.next_cursor ? ' so far' : ''}`
  shown($('more'), Boolean(page.next_cursor))
  $('more').onclick = () => showList(page.next_cursor)
}

function fileRow(file) {
  const name = file.path
  const actions = make('div', { class: 'actions' })
  if (file.state === 'available' && may('download')) {
    actions.append(button('Download', name, () => download(file)))
    actions.append(button('Share', name, () => share(file.file_id, name)))
  }
  actions.append(button('Receipt', name, async () => {
    try {
      const receipt = await server.ask('GET', `/v1/files/${file.file_id}/receipt`)
      saveText(`${name.split('/').pop()}.receipt.json`, await receipt.text())
    } catch (fault) {
      $('list-state').textContent = `No receipt: ${fault.message}.`
    }
  }))
  const state = { held: ' (waits to be scanned)', rejected: ' (rejected by the scan)' }[file.state] ?? ''
  return make('tr', {},
    make('th', { scope: 'row', class: 'name', text: name + state }),
    make('td', { class: 'number', text: bytes(file.size) }),
    make('td', { class: 'when', text: when(file.created_at) }),
    make('td', {}, make('code', { class: 'hash', text: `${file.sha256.slice(0, 16)}…`, title: file.sha256 })),
    make('td', {}, actions))
}

// By a link for one use: a browser's own download cannot show a token.
async function download(file) {
  try {
    const link = await presign(file.file_id, 300, 1)
    save(file.path.split('/').pop(), link.url)
    say(`Download of ${file.path} began`)
  } catch (fault) {
    $('list-state').textContent = `Not downloaded: ${fault.message}.`
  }
}

async function presign(fileId, seconds, uses) {
  const answer = await server.ask('POST', `/v1/files/${fileId}/presign`, {
    headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ expires_in: seconds, max_uses: uses }),
  })
  return answer.json()
}

$('refresh').addEventListener('click', () => showList())
$('since').addEventListener('change', () => showList())

// --- links

let shared = null

function share(fileId, name) {
  shared = { fileId, link: null }
  $('share-name').textContent = name
  $('share-error').textContent = ''
  $('share-note').textContent = ''
  shareMade(false)
  $('share').showModal()
  $('share-hours').focus()
}

function shareMade(is) {
  shown($('share-result'), is)
  shown($('share-copy'), is)
  shown($('share-end'), is)
  shown($('share-make'), !is)
}

$('share-form').addEventListener('submit', async (event) => {
  event.preventDefault()
  $('share-error').textContent = ''
  try {
    const made = await presign(shared.fileId, Number($('share-hours').value) * 3600, Number($('share-uses').value))
    shared.link = made.capability_id
    $('share-link').value = new URL(made.url, location.href).href
    $('share-until').textContent = `until ${when(made.expires)}`
    shareMade(true)
    $('share-note').textContent = 'The link is made.'
    $('share-link').focus()
    $('share-link').select()
  } catch (fault) {
    $('share-error').textContent = `No link: ${fault.message}.`
  }
})

$('share-copy').addEventListener('click', async () => {
  $('share-link').select()
  try {
    await navigator.clipboard.writeText($('share-link').value)
    $('share-note').textContent = 'Copied.'
  } catch {
    $('share-note').textContent = 'The link is selected: copy it with the keyboard.'
    $('share-link').focus()
  }
})

$('share-end').addEventListener('click', async () => {
  try {
    await server.ask('DELETE', `/v1/presign/${shared.link}`)
    $('share-link').value = ''
    shareMade(false)
    $('share-note').textContent = ''
    say('The link is ended')
    $('share-make').focus()
  } catch (fault) {
    $('share-error').textContent = `The link still works: ${fault.message}.`
  }
})

$('share-close').addEventListener('click', () => $('share').close())
$('share').addEventListener('close', () => {
  $('share-link').value = ''
  shared = null
})

$('token').focus()
