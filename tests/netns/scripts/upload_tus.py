"""Uploads a file with tuspy. Arguments: a JSON object (endpoint, token, file, path, chunk_size, checksum)."""

import hashlib
import json
import sys

from tusclient import client
from tusclient.uploader import Uploader

asked = json.loads(sys.argv[1])
# The library hashes with SHA-1 unless told otherwise.
Uploader.CHECKSUM_ALGORITHM_PAIR = ("sha256", hashlib.sha256)
edge = client.TusClient(asked["endpoint"], headers={"Authorization": "Bearer " + asked["token"]})
uploader = edge.uploader(
    asked["file"],
    chunk_size=asked["chunk_size"],
    metadata={"path": asked["path"]},
    metadata_encoding="utf-8",
    retries=400,
    retry_delay=0.02,
    upload_checksum=asked["checksum"],
)
uploader.upload()
print(json.dumps({"url": uploader.url, "offset": uploader.offset}))
