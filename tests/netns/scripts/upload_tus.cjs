// Uploads a file with tus-js-client, as an application would: told once, and left to get over broken connections.
// Arguments: a JSON object (endpoint, token, file, path, protocol, and options of the library).
const fs = require('node:fs')
const tus = require('tus-js-client')

const { endpoint, token, file, path, protocol, ...options } = JSON.parse(process.argv[2])
const upload = new tus.Upload(fs.readFileSync(file), {
  endpoint,
  protocol,
  headers: { Authorization: `Bearer ${token}` },
  metadata: { path, filetype: 'text/csv' },
  retryDelays: Array(400).fill(20),
  ...options,
  onError: (error) => {
    console.error(String(error))
    process.exit(1)
  },
  onSuccess: ({ lastResponse }) => {
    console.log(JSON.stringify({ url: upload.url, file: lastResponse.getHeader('Culvert-File-Id') }))
  },
})
upload.start()
