// A headless Chromium, driven by its own protocol over two pipes: no library, and no port that somebody else could use.
const { spawn } = require('node:child_process')

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

class Browser {
  #next = 1
  #waiting = new Map()
  #rest = ''
  // What the page complains of: exceptions, errors on its console, violations of its policy. That a request failed is no
  // complaint: that is what some of this is about.
  complaints = []

  static async start({ profile, downloads }) {
    const browser = new Browser()
    await browser.#start(profile, downloads)
    return browser
  }

  async #start(profile, downloads) {
    const flags = [
      '--remote-debugging-pipe', '--no-sandbox', '--no-first-run', `--user-data-dir=${profile}`, '--disable-gpu',
      '--disable-background-networking', '--disable-component-update', '--window-size=1100,900', 'about:blank',
    ]
    this.process = spawn('chromium-headless-shell', flags, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] })
    this.process.on('error', (error) => { throw error })
    this.process.stdio[4].setEncoding('utf8').on('data', (text) => this.#read(text))
    const { targetInfos } = await this.send('Target.getTargets')
    const { targetId } = targetInfos.find((one) => one.type === 'page')
    this.session = (await this.send('Target.attachToTarget', { targetId, flatten: true })).sessionId
    for (const domain of ['Page', 'Runtime', 'Log', 'DOM', 'Network', 'Accessibility']) await this.send(`${domain}.enable`)
    await this.send('Page.addScriptToEvaluateOnNewDocument', {
      source: "addEventListener('securitypolicyviolation', (event) => console.error('CSP', event.violatedDirective, event.blockedURI))",
    })
    if (downloads) await this.send('Browser.setDownloadBehavior', { behavior: 'allow', downloadPath: downloads }, null)
  }

  #read(text) {
    const messages = (this.#rest + text).split('\0')
    this.#rest = messages.pop()
    for (const message of messages.map((one) => JSON.parse(one))) {
      const waiting = this.#waiting.get(message.id)
      if (!waiting) {
        this.#event(message)
        continue
      }
      this.#waiting.delete(message.id)
      if (message.error) waiting.reject(new Error(`${waiting.method}: ${message.error.message}`))
      else waiting.resolve(message.result)
    }
  }

  #event({ method, params }) {
    if (method === 'Runtime.exceptionThrown') this.complaints.push(JSON.stringify(params.exceptionDetails))
    if (method === 'Runtime.consoleAPICalled') this.complaints.push(JSON.stringify(params.args))
    if (method === 'Log.entryAdded' && params.entry.source !== 'network' && params.entry.level !== 'verbose') {
      this.complaints.push(params.entry.text)
    }
    if (method === 'Page.javascriptDialogOpening') this.send('Page.handleJavaScriptDialog', { accept: true })
  }

  send(method, params = {}, sessionId = this.session) {
    const id = this.#next++
    const message = { id, method, params, ...(sessionId ? { sessionId } : {}) }
    this.process.stdio[3].write(JSON.stringify(message) + '\0')
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject, method }))
  }

  async evaluate(expression) {
    const asked = { expression, returnByValue: true, awaitPromise: true }
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', asked)
    if (exceptionDetails) throw new Error(`${expression.slice(0, 300)}: ${exceptionDetails.exception?.description}`)
    return result.value
  }

  // Waits until an expression is true, and gives it.
  async until(what, expression, seconds = 40) {
    let fault = ''
    for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(40)) {
      // While a page is being left, or is half there, nothing can be asked of it.
      const value = await this.evaluate(expression).catch((error) => { fault = error.message })
      if (value) return value
    }
    throw new Error(`waited ${seconds} s for ${what}; ${fault}; the page says: ${await this.evaluate('document.body.innerText')}`)
  }

  async key(name, code, text) {
    const key = { key: name, code: name, windowsVirtualKeyCode: code }
    await this.send('Input.dispatchKeyEvent', { type: 'keyDown', ...key, text })
    await this.send('Input.dispatchKeyEvent', { type: 'keyUp', ...key })
  }

  type(text) {
    return this.send('Input.insertText', { text })
  }

  // Picks files, as the dialog of an `<input type=file>` does.
  async pick(selector, files) {
    const { root } = await this.send('DOM.getDocument')
    const { nodeId } = await this.send('DOM.querySelector', { nodeId: root.nodeId, selector })
    await this.send('DOM.setFileInputFiles', { nodeId, files })
  }

  end() {
    this.process.kill()
  }
}

module.exports = { Browser, sleep }
