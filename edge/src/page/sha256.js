'use strict'
// SHA-256 (FIPS 180-4) over pieces: WebCrypto hashes only what lies in memory as a whole, and a page that is served
// without TLS has no WebCrypto at all.

const SHA256_ROUNDS = Int32Array.of(
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
)
const SHA256_START = Int32Array.of(
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
)

class Sha256 {
  #state = SHA256_START.slice()
  #words = new Int32Array(64)
  #rest = new Uint8Array(64)
  #kept = 0
  #length = 0

  // Takes the next bytes, a Uint8Array.
  update(bytes) {
    this.#length += bytes.length
    let at = 0
    if (this.#kept > 0) {
      at = Math.min(64 - this.#kept, bytes.length)
      this.#rest.set(bytes.subarray(0, at), this.#kept)
      this.#kept += at
      if (this.#kept < 64) return this
      this.#blocks(this.#rest, 0, 64)
      this.#kept = 0
    }
    const whole = at + ((bytes.length - at) & ~63)
    this.#blocks(bytes, at, whole)
    this.#rest.set(bytes.subarray(whole))
    this.#kept = bytes.length - whole
    return this
  }

  // Ends it, and gives 64 hexadecimal digits.
  hex() {
    const bits = new Uint8Array(8)
    new DataView(bits.buffer).setBigUint64(0, BigInt(this.#length) * 8n)
    const fill = (this.#kept < 56 ? 56 : 120) - this.#kept
    const end = new Uint8Array(fill)
    end[0] = 0x80
    this.update(end).update(bits)
    return Array.from(this.#state, (word) => (word >>> 0).toString(16).padStart(8, '0')).join('')
  }

  #blocks(bytes, from, to) {
    const state = this.#state, w = this.#words, k = SHA256_ROUNDS
    for (let at = from; at < to; at += 64) {
      for (let i = 0, j = at; i < 16; i++, j += 4) {
        w[i] = bytes[j] << 24 | bytes[j + 1] << 16 | bytes[j + 2] << 8 | bytes[j + 3]
      }
      for (let i = 16; i < 64; i++) {
        const x = w[i - 15], y = w[i - 2]
        const s0 = (x >>> 7 | x << 25) ^ (x >>> 18 | x << 14) ^ x >>> 3
        const s1 = (y >>> 17 | y << 15) ^ (y >>> 19 | y << 13) ^ y >>> 10
        w[i] = w[i - 16] + s0 + w[i - 7] + s1 | 0
      }
      let a = state[0], b = state[1], c = state[2], d = state[3]
      let e = state[4], f = state[5], g = state[6], h = state[7]
      for (let i = 0; i < 64; i++) {
        const s1 = (e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7)
        const t1 = h + s1 + (e & f ^ ~e & g) + k[i] + w[i] | 0
        const s0 = (a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10)
        const t2 = s0 + (a & b ^ a & c ^ b & c) | 0
        h = g; g = f; f = e; e = d + t1 | 0
        d = c; c = b; b = a; a = t1 + t2 | 0
      }
      state[0] += a; state[1] += b; state[2] += c; state[3] += d
      state[4] += e; state[5] += f; state[6] += g; state[7] += h
    }
  }
}
