// A person at the upload page, played with a real browser: keys and clicks go in, what is shown comes out.
// Arguments: a JSON object (url, token, small, big, downloads, shots). Milestones and findings are lines of JSON.
const crypto = require('node:crypto')
const fs = require('node:fs')
const path = require('node:path')
const { Browser, sleep } = require('./browser.cjs')

const { url, token, small, big, downloads, shots } = JSON.parse(process.argv[2])
const tell = (what, more) => console.log(JSON.stringify({ what, ...more }))
const insist = (is, text) => {
  if (!is) throw new Error(text)
}

async function main() {
  const browser = await Browser.start({ profile: '/tmp/profile', downloads })
  const evaluate = (expression) => browser.evaluate(expression)
  const until = (what, expression, seconds) => browser.until(what, expression, seconds)
  const enter = () => browser.key('Enter', 13, '\r')
  const tab = () => browser.key('Tab', 9)
  // By the keyboard alone: from where the focus is to the control of this name.
  const tabTo = async (name) => {
    for (let steps = 0; steps < 60; steps++) {
      const at = await evaluate("(document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.labels?.[0]?.innerText ?? document.activeElement?.innerText ?? '').trim()")
      if (at.startsWith(name)) return
      await tab()
    }
    throw new Error(`the keyboard does not lead to ${name}`)
  }
  const choose = (files) => browser.pick('#files', files)
  const row = (file) => `[...document.querySelectorAll('#transfers > li')].findLast((one) => one.querySelector('.name').textContent.endsWith('/${path.basename(file)}'))`
  const state = (file, wanted) => `${row(file)}?.dataset.state === '${wanted}'`
  const share = (file) => `${row(file)}.querySelector('progress').value`
  const shot = async (name) => {
    if (!shots) return
    const { data } = await browser.send('Page.captureScreenshot', { captureBeyondViewport: true })
    fs.writeFileSync(`${shots}/${name}.png`, Buffer.from(data, 'base64'))
  }
  const signIn = async () => {
    await until('the sign-in', "document.activeElement?.id === 'token'")
    await browser.type(token)
    await enter()
    await until('the inside', "!document.getElementById('inside').hidden")
  }
  const throttle = (bytesPerSecond) => browser.send('Network.emulateNetworkConditions', {
    offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: bytesPerSecond,
  })
  // What a screen reader is told: each control has a name.
  const named = async (where) => {
    const { nodes } = await browser.send('Accessibility.getFullAXTree')
    const controls = ['button', 'textbox', 'combobox', 'progressbar', 'spinbutton', 'dialog', 'table', 'list']
    for (const node of nodes.filter((one) => !one.ignored && controls.includes(one.role?.value))) {
      insist(node.name?.value || node.role.value === 'list', `${where}: a ${node.role.value} has no name`)
    }
  }
  // Text against what is behind it (WCAG 2.2, 1.4.3), in light and in dark.
  const readable = async (where) => {
    for (const value of ['light', 'dark']) {
      await browser.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value }] })
      const faults = await evaluate(`(${contrast})()`)
      insist(faults.length === 0, `${where}, ${value}: ${faults.join('; ')}`)
      await shot(`${where}-${value}`)
    }
    await browser.send('Emulation.setEmulatedMedia', { features: [] })
  }

  await browser.send('Page.navigate', { url })
  await until('the page', "document.readyState === 'complete'")
  await named('sign-in')
  await readable('sign-in')

  // A wrong token is told, and the right one works by the keyboard alone.
  await browser.type('cvt_wrong')
  await enter()
  await until('a refusal', "document.getElementById('token-error').textContent.includes('not known')")
  await signIn()

  // The hash of the page's own code, at the lengths where padding turns over.
  for (const length of [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1000]) {
    const seen = await evaluate(`new Sha256().update(new Uint8Array(${length}).fill(7)).hex()`)
    insist(seen === crypto.createHash('sha256').update(Buffer.alloc(length, 7)).digest('hex'), `SHA-256 of ${length} bytes`)
  }

  await tabTo('Folder')
  await browser.type('2026')
  await choose([small])
  await until('the small file', state(small, 'done'))
  await until('the list', "document.querySelectorAll('#list-rows tr').length === 1")
  insist(await evaluate("document.getElementById('said').textContent.includes('stored')"), 'nobody who cannot see is told')

  await throttle(6 << 20)
  await choose([big])
  await until('some of the big file', `${share(big)} > 0.15`)
  await readable('sending')
  await named('sending')
  await tabTo('Pause: ')
  await enter()
  await until('the pause', state(big, 'paused'))
  const paused = await evaluate(share(big))
  await sleep(400)
  insist((await evaluate(share(big))) === paused, 'bytes go on after the pause')
  // The focus went where the button was.
  await tabTo('Resume: ')
  await enter()
  await until('more of the big file', `${share(big)} > 0.4`)
  tell('cut now')
  await until('the cut to be seen', state(big, 'broken'))
  tell('restore now')
  await until('it to go on', `${state(big, 'sending')} && ${share(big)} > 0.6`, 60)

  // Closed in the middle, and opened again: nothing of the user is left in the browser but the mark of the upload.
  await browser.send('Page.reload')
  await until('the page again', "!document.getElementById('entry').hidden && document.readyState === 'complete'")
  const kept = await evaluate('JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])')
  for (const secret of [token, token.slice(4, 20), path.basename(big)]) insist(!kept.includes(secret), `the browser keeps ${kept}`)
  await signIn()
  await until('the unfinished upload', "document.querySelectorAll('#open-list li').length === 1")
  await tabTo('Folder')
  await browser.type('2026')
  await choose([big])
  await until('the resumed upload', `${row(big)}?.querySelector('.state').textContent.includes('resumed at')`)
  const resumed = await evaluate(share(big))
  insist(resumed > 0.3, `it began again: ${resumed}`)
  await throttle(-1)
  await until('the big file', state(big, 'done'), 60)
  const sha256 = await evaluate(`${row(big)}.querySelector('.hash').textContent.split(' ').pop()`)
  await until('both in the list', "document.querySelectorAll('#list-rows tr').length === 2")
  await readable('done')

  await tabTo('Receipt: ')
  await enter()
  await tabTo('Share: ')
  await enter()
  await until('the dialog', "document.getElementById('share').open")
  await named('share')
  await tabTo('Make a link')
  await enter()
  const link = await until('the link', "document.getElementById('share-link').value")
  await readable('share')
  await browser.key('Escape', 27)
  await until('the end of the dialog', "!document.getElementById('share').open")
  await tabTo(`Download: 2026/${path.basename(big)}`)
  await enter()
  const names = [path.basename(big), `${path.basename(big)}.receipt.json`]
  for (const end = Date.now() + 20000; !names.every((name) => fs.existsSync(`${downloads}/${name}`)); await sleep(50)) {
    insist(Date.now() < end, `downloaded was ${fs.readdirSync(downloads)}`)
  }

  // Signed out, the token is forgotten.
  await evaluate("document.getElementById('leave').focus()")
  await enter()
  await until('the sign-in', "!document.getElementById('entry').hidden && document.getElementById('inside').hidden")
  insist(browser.complaints.length === 0, `the browser complains: ${browser.complaints.join('\n')}`)
  tell('done', { sha256, link, downloads: names.map((name) => `${downloads}/${name}`) })
  browser.end()
}

// Runs in the page.
function contrast() {
  const parse = (text) => (text.match(/[\d.]+/g) ?? []).map(Number)
  const light = ([r, g, b]) => [r, g, b]
    .map((one) => one / 255).map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0)
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor)
      if (colour.length === 3 || colour[3] === 1) return colour
    }
    return [255, 255, 255]
  }
  const faults = []
  for (const node of document.querySelectorAll('h1, h2, h3, p, label, button, td, th, span, code, select, input, .button')) {
    const text = node.value || node.textContent.trim()
    if (!text || !node.checkVisibility() || node.closest('.unseen')) continue
    const [one, other] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a)
    const ratio = (one + 0.05) / (other + 0.05)
    if (ratio < 4.5) faults.push(`"${text.slice(0, 30)}" has ${ratio.toFixed(2)}`)
  }
  return faults
}

main().catch((error) => {
  console.error(error.stack)
  process.exit(1)
})
