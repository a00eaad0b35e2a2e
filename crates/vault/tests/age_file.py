"""Opens or makes one file with age's own library: age_file.py open|seal IDENTITY_OR_RECIPIENT < in > out"""

import sys

import pyrage
from pyrage import x25519

what, key = sys.argv[1:]
data = sys.stdin.buffer.read()
if what == "open":
    sys.stdout.buffer.write(pyrage.decrypt(data, [x25519.Identity.from_str(key)]))
else:
    sys.stdout.buffer.write(pyrage.encrypt(data, [x25519.Recipient.from_str(key)]))
