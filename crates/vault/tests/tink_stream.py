"""Opens or makes one stream with Tink: tink_stream.py open|seal DEK_HEX AAD_HEX SEGMENT_BYTES < in > out"""

import io
import sys

import tink
from tink import cleartext_keyset_handle, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2 as stream_pb2
from tink.proto import common_pb2, tink_pb2

what, dek, aad, segment_bytes = sys.argv[1:]
key = stream_pb2.AesGcmHkdfStreamingKey(
    version=0,
    key_value=bytes.fromhex(dek),
    params=stream_pb2.AesGcmHkdfStreamingParams(
        ciphertext_segment_size=int(segment_bytes),
        derived_key_size=32,
        hkdf_hash_type=common_pb2.SHA256,
    ),
)
keyset = tink_pb2.Keyset(
    primary_key_id=1,
    key=[
        tink_pb2.Keyset.Key(
            key_data=tink_pb2.KeyData(
                type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
                value=key.SerializeToString(),
                key_material_type=tink_pb2.KeyData.SYMMETRIC,
            ),
            status=tink_pb2.ENABLED,
            key_id=1,
            output_prefix_type=tink_pb2.RAW,
        )
    ],
)
streaming_aead.register()
handle = cleartext_keyset_handle.read(tink.BinaryKeysetReader(keyset.SerializeToString()))
primitive = handle.primitive(streaming_aead.StreamingAead)
data, aad = sys.stdin.buffer.read(), bytes.fromhex(aad)
if what == "open":
    with primitive.new_decrypting_stream(io.BytesIO(data), aad) as stream:
        sys.stdout.buffer.write(stream.read())
else:
    sealed = io.BytesIO()
    sealed.close = lambda: None
    with primitive.new_encrypting_stream(sealed, aad) as stream:
        stream.write(data)
    sys.stdout.buffer.write(sealed.getvalue())
