'use strict'
// One file on its way up, by tus: it is sent, goes on where the server says after every break, and is done when the
// receipt names the hash and the size that were computed here.

const PIECE_BYTES = 2 * 1024 * 1024
const PAUSE_AT_MOST_MS = 5000
const RATE_OVER_MS = 5000

// What a server refused; `problem` is the last part of its type.
class Refused extends Error {
  constructor(status, problem, text, waitMs) {
    super(text)
    Object.assign(this, { status, problem, waitMs })
  }

  // Whether the same request can succeed later.
  get passes() {
    return this.status === 0 || this.status === 429 || this.status >= 500 ||
      ['offset-mismatch', 'upload-busy', 'incomplete-body', 'body-timeout'].includes(this.problem)
  }

  static of(status, headers, body) {
    let problem = '', text = ''
    try {
      const told = JSON.parse(body)
      problem = String(told.type || '').split(':').pop()
      text = String(told.detail || told.title || '')
    } catch { /* not a problem document: the status has to do */ }
    const seconds = Number(headers('retry-after')) || 0
    return new Refused(status, problem, text || `the server answered ${status}`, seconds * 1000)
  }
}

// The server, for one token.
class Server {
  #token

  constructor(token) {
    this.#token = token
  }

  // Forgets the token.
  leave() {
    this.#token = ''
  }

  headers(more) {
    return { Authorization: `Bearer ${this.#token}`, ...more }
  }

  async ask(method, path, { headers, body } = {}) {
    let answer
    try {
      answer = await fetch(path, {
        method, body, headers: this.headers(headers), cache: 'no-store', credentials: 'omit', redirect: 'error',
      })
    } catch {
      throw new Refused(0, '', 'the server cannot be reached', 0)
    }
    if (!answer.ok) throw Refused.of(answer.status, (name) => answer.headers.get(name), await answer.text())
    return answer
  }

  async json(path) {
    return (await this.ask('GET', path)).json()
  }
}

// Which upload of the server a file belongs to, for a page that is opened again. Kept is a hash of where the file goes
// and which file it is, and the upload's id, which is of no use without a token: no name and no secret.
const known = {
  key: 'culvert.uploads',
  most: 200,

  all() {
    try {
      return JSON.parse(localStorage.getItem(this.key)) || {}
    } catch {
      return {}
    }
  },

  keep(all) {
    try {
      localStorage.setItem(this.key, JSON.stringify(Object.fromEntries(Object.entries(all).slice(-this.most))))
    } catch { /* without storage an upload survives a broken line, not a reloaded page */ }
  },

  mark(cohort, path, file) {
    const text = ['culvert upload', cohort, path, file.size, file.lastModified].join('\0')
    return new Sha256().update(new TextEncoder().encode(text)).hex()
  },

  add(mark, id) {
    this.keep({ ...this.all(), [mark]: id })
  },

  drop(id) {
    this.keep(Object.fromEntries(Object.entries(this.all()).filter(([, one]) => one !== id)))
  },
}

const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)))

class Transfer {
  // 'waiting' | 'sending' | 'broken' | 'paused' | 'checking' | 'done' | 'failed' | 'given up'
  state = 'waiting'
  offset = 0
  resumedAt = 0
  hashed = 0
  sha256 = ''
  error = ''
  fileId = ''
  receipt = ''
  #samples = []
  #request = null
  #wake = () => {}
  #id = ''
  #turn = 0
  #hashing = null
  #hashFault = null

  // `told` is called whenever something changed; `announced` is whether it is worth saying aloud.
  constructor(server, { cohort, path, type, file }, told) {
    Object.assign(this, { server, cohort, path, type, file, told })
    this.mark = known.mark(cohort, path, file)
  }

  get ended() {
    return ['done', 'failed', 'given up'].includes(this.state)
  }

  get id() {
    return this.#id
  }

  get active() {
    return ['sending', 'broken', 'checking'].includes(this.state)
  }

  // Bytes a second over the last few seconds.
  get rate() {
    const now = performance.now()
    this.#samples = this.#samples.filter(([at]) => now - at < RATE_OVER_MS)
    const first = this.#samples.at(0), last = this.#samples.at(-1)
    return this.#samples.length > 1 ? Math.max(0, (last[1] - first[1]) / (now - first[0]) * 1000) : 0
  }

  #become(state, announced = true) {
    if (this.state === state) return
    this.state = state
    if (state !== 'sending') this.#samples = []
    this.told(this, announced)
  }

  #moved(offset) {
    this.offset = offset
    this.#samples.push([performance.now(), offset])
    this.told(this, false)
  }

  pause() {
    if (!this.active && this.state !== 'waiting') return
    this.#stop('paused')
  }

  #stop(state) {
    this.#turn += 1
    this.#become(state)
    this.#request?.abort()
    this.#wake()
  }

  async giveUp() {
    if (this.state === 'done') return
    this.#stop('given up')
    if (this.#id) {
      known.drop(this.#id)
      // What cannot be told now expires by itself.
      await this.server.ask('DELETE', `/v1/uploads/${this.#id}`).catch(() => {})
    }
  }

  // Runs until it is done, paused or refused. Called again, it goes on.
  async run() {
    const turn = ++this.#turn
    this.error = ''
    this.#become('sending')
    this.#hashing ??= this.#hash()
    for (let breaks = 0; ;) {
      const before = this.offset
      try {
        await this.#send(turn)
        break
      } catch (fault) {
        if (turn !== this.#turn) return
        if (!(fault instanceof Refused) || !fault.passes) return this.#fail(fault)
        breaks = this.offset > before ? 1 : breaks + 1
        this.error = fault.message
        this.#become('broken')
        await this.#rest(Math.max(fault.waitMs, Math.min(PAUSE_AT_MOST_MS, 250 * 2 ** breaks)))
        if (turn !== this.#turn) return
        this.#become('sending', false)
      }
    }
    if (turn === this.#turn) await this.#settle(turn)
  }

  async #settle(turn) {
    this.#become('checking', false)
    await this.#hashing
    if (turn !== this.#turn) return
    if (this.#hashFault) return this.#fail(this.#hashFault)
    for (let tries = 0; turn === this.#turn; tries++) {
      try {
        this.receipt = await (await this.server.ask('GET', `/v1/files/${this.fileId}/receipt`)).text()
        break
      } catch (fault) {
        if (!fault.passes || tries === 20) return this.#fail(fault)
        await this.#rest(Math.max(fault.waitMs, 1000))
      }
    }
    if (turn !== this.#turn) return
    known.drop(this.#id)
    const record = JSON.parse(JSON.parse(this.receipt).record)
    if (record.sha256 !== this.sha256 || record.size !== this.file.size) {
      return this.#fail(new Error(
        `THE SERVER STORED SOMETHING ELSE: the receipt says ${record.size} bytes with SHA-256 ${record.sha256}`,
      ))
    }
    this.#become('done')
  }

  #fail(fault) {
    this.error = fault.message
    this.#become('failed')
  }

  #rest(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  // The browser says that it has a network again.
  retry() {
    if (this.state === 'broken') this.#wake()
  }

  // Finds out where to go on, and sends the rest in one request.
  async #send(turn) {
    if (!this.#id) await this.#find()
    const at = await this.#look()
    if (at === null) return
    if (turn !== this.#turn) throw new Refused(0, '', 'stopped', 0)
    this.resumedAt = at
    this.#samples = []
    this.#moved(at)
    const answer = await this.#patch(at)
    if (!answer('culvert-file-id')) throw new Refused(0, '', 'the upload is not finished', 0)
    this.fileId = answer('culvert-file-id')
    this.#moved(this.file.size)
  }

  async #find() {
    this.#id = known.all()[this.mark] || ''
    if (this.#id) return
    let metadata = `path ${base64(this.path)}`
    if (this.type) metadata += `,culvert-file-type ${base64(this.type)}`
    const answer = await this.server.ask('POST', `/v1/cohorts/${this.cohort}/uploads`, {
      headers: { 'Tus-Resumable': '1.0.0', 'Upload-Length': String(this.file.size), 'Upload-Metadata': metadata },
    })
    this.#id = answer.headers.get('location').split('/').pop()
    known.add(this.mark, this.#id)
  }

  // Where the upload is; null: it is a file already.
  async #look() {
    let state
    try {
      state = await this.server.json(`/v1/uploads/${this.#id}`)
    } catch (fault) {
      if (!(fault instanceof Refused) || fault.status !== 404) throw fault
      // It expired, was given up elsewhere, or is somebody else's: begin anew.
      known.drop(this.#id)
      this.#id = ''
      await this.#find()
      state = await this.server.json(`/v1/uploads/${this.#id}`)
    }
    if (!state.complete) return state.offset
    this.fileId = state.receipt.file_id
    this.#moved(this.file.size)
    return null
  }

  #patch(at) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest()
      this.#request = request
      request.open('PATCH', `/v1/uploads/${this.#id}`)
      const headers = {
        'Tus-Resumable': '1.0.0', 'Upload-Offset': String(at), 'Content-Type': 'application/offset+octet-stream',
      }
      for (const [name, value] of Object.entries(this.server.headers(headers))) request.setRequestHeader(name, value)
      request.upload.onprogress = (event) => this.#moved(at + event.loaded)
      const header = (name) => request.getResponseHeader(name)
      request.onload = () => {
        if (request.status >= 200 && request.status < 300) resolve(header)
        else reject(Refused.of(request.status, header, request.responseText))
      }
      request.onerror = () => reject(new Refused(0, '', 'the connection was lost', 0))
      request.onabort = () => reject(new Refused(0, '', 'stopped', 0))
      request.send(this.file.slice(at))
    })
  }

  // Reads the whole file from its beginning, whatever the server has of it: what is compared is what is here.
  async #hash() {
    const hash = new Sha256()
    try {
      for (let at = 0; at < this.file.size; at += PIECE_BYTES) {
        if (this.state === 'given up') return
        hash.update(new Uint8Array(await this.file.slice(at, at + PIECE_BYTES).arrayBuffer()))
        this.hashed = Math.min(at + PIECE_BYTES, this.file.size)
      }
      this.sha256 = hash.hex()
      this.told(this, false)
    } catch {
      this.#hashFault = new Error('the file cannot be read any more: was it changed meanwhile?')
    }
  }
}
