// Uploads a file with Uppy in a real browser, as a page with a form would.
// Arguments: a JSON object (origin, endpoint, token, file, path, bundle, profile, and options of Uppy's Tus).
const fs = require('node:fs')
const { Browser } = require('./browser.cjs')

const { origin, endpoint, token, file, path, bundle, profile, ...options } = JSON.parse(process.argv[2])

// Runs in the page.
async function upload(asked) {
  // A browser on a machine without a network thinks that it is offline, and Uppy then waits for one.
  Object.defineProperty(navigator, 'onLine', { get: () => true })
  const uppy = new window.Uppy.Uppy()
  uppy.use(window.Uppy.Tus, {
    endpoint: asked.endpoint, headers: { Authorization: `Bearer ${asked.token}` }, retryDelays: Array(800).fill(20), ...asked.options,
  })
  const data = document.getElementById('picked').files[0]
  uppy.addFile({ name: data.name, type: data.type, data, meta: { path: asked.path } })
  const { successful, failed } = await uppy.upload()
  return { successful: successful.length, failed: failed.map((one) => String(one.error)) }
}

async function main() {
  const browser = await Browser.start({ profile })
  // Any page of the origin does.
  await browser.send('Page.navigate', { url: origin })
  await browser.until('the page', `document.readyState === 'complete' && location.href.startsWith('${origin}')`)
  await browser.evaluate("document.body.append(Object.assign(document.createElement('input'), { type: 'file', id: 'picked' }))")
  await browser.pick('#picked', [file])
  await browser.evaluate(`${fs.readFileSync(bundle, 'utf8')}\n;0`)
  const outcome = await browser.evaluate(`(${upload})(${JSON.stringify({ endpoint, token, path, options })})`)
  console.log(JSON.stringify(outcome))
  browser.end()
  process.exit(outcome.successful === 1 && outcome.failed.length === 0 ? 0 : 1)
}

main().catch((error) => {
  console.error(error.stack)
  process.exit(1)
})
