"""An independent WireGuard initiator: Noise by the library `noiseprotocol`, WireGuard's own parts by hand.

Written from the WireGuard paper, sections 5.4.1 to 5.4.6. It knows nothing of wgd. For each trial it prints `NAME RESULT`:

  handshake  a handshake, and one ICMP echo through it: `answered` if the echo came back
  replay     the very datagram of that echo again
  old        the very initiation of that handshake again
  mac1       an initiation with one bit of its first MAC turned
  psk        a handshake with another pre-shared key
  stranger   a handshake by a static key that no peer has

Arguments: ADDRESS PORT PRIVATE-KEY RESPONDER-PUBLIC-KEY PRESHARED-KEY OWN-INNER-ADDRESS THEIR-INNER-ADDRESS TRIAL...
"""

import base64
import hashlib
import ipaddress
import os
import socket
import struct
import sys
import time

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection

PROTOCOL = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
PROLOGUE = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4

# An answer on a veth takes less than a millisecond; silence has to be waited for.
ANSWER_SECONDS = 5.0
SILENCE_SECONDS = 0.7


def mac1(receiver_public: bytes, message: bytes) -> bytes:
    key = hashlib.blake2s(b"mac1----" + receiver_public).digest()
    return hashlib.blake2s(message, digest_size=16, key=key).digest()


def tai64n() -> bytes:
    nanoseconds = time.time_ns()
    return struct.pack(">QI", 0x400000000000000A + nanoseconds // 10**9, nanoseconds % 10**9)


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(source: bytes, destination: bytes, identifier: int) -> bytes:
    icmp = struct.pack(">BBHHH", 8, 0, 0, identifier, 1) + b"independent initiator"
    icmp = icmp[:2] + struct.pack(">H", checksum(icmp)) + icmp[4:]
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0, source, destination)
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    return header + icmp


def is_echo_reply(packet: bytes, request: bytes) -> bool:
    """The same addresses the other way round, and the same words; the padding follows them."""
    length = struct.unpack(">H", packet[2:4])[0]
    return (
        packet[9] == 1
        and packet[12:16] == request[16:20]
        and packet[16:20] == request[12:16]
        and packet[20] == 0
        and packet[24:length] == request[24:]
        and not any(packet[length:])
        and len(packet) % 16 == 0
    )


class Initiator:
    def __init__(self, address, port, private, responder, preshared, inner, their_inner):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((address, int(port)))
        self.private, self.responder, self.preshared = map(base64.b64decode, (private, responder, preshared))
        self.inner = ipaddress.IPv4Address(inner).packed
        self.their_inner = ipaddress.IPv4Address(their_inner).packed
        self.index = int.from_bytes(os.urandom(4), "little")
        self.initiation = self.datagram = None

    def receive(self, seconds: float, wanted: int):
        """The next message of a type, or None."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                message = self.socket.recv(65536)
            except TimeoutError:
                return None
            if struct.unpack("<I", message[:4])[0] == wanted:
                return message
        return None

    def initiate(self, private: bytes, preshared: bytes):
        """Message 1 (5.4.2): type, our index, e, encrypted s, encrypted timestamp, mac1, no mac2."""
        noise = NoiseConnection.from_name(PROTOCOL)
        noise.set_as_initiator()
        noise.set_prologue(PROLOGUE)
        noise.set_psks(preshared)
        noise.set_keypair_from_private_bytes(Keypair.STATIC, private)
        noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, self.responder)
        noise.start_handshake()
        self.index = (self.index + 1) % 2**32
        message = struct.pack("<II", INITIATION, self.index) + bytes(noise.write_message(tai64n()))
        message += mac1(self.responder, message)
        return noise, message + bytes(16)

    def complete(self, noise, response) -> bytes:
        """Message 2 (5.4.3); gives the responder's index."""
        kind, theirs, ours = struct.unpack("<III", response[:12])
        assert (kind, ours, len(response)) == (RESPONSE, self.index, 92), response.hex()
        own_public = X25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw()
        assert response[60:76] == mac1(own_public, response[:60]), "the response's mac1 is wrong"
        assert noise.read_message(response[12:60]) == b"", "a response carries nothing"
        assert noise.handshake_finished
        return struct.pack("<I", theirs)

    def handshake(self) -> str:
        noise, self.initiation = self.initiate(self.private, self.preshared)
        self.socket.send(self.initiation)
        response = self.receive(ANSWER_SECONDS, RESPONSE)
        if response is None:
            return "no response"
        theirs = self.complete(noise, response)
        request = echo_request(self.inner, self.their_inner, self.index & 0xFFFF)
        # Message 4 (5.4.6): type, their index, counter, the packet padded to a multiple of 16. Noise's own nonce
        # is the counter: four bytes of zero and eight of the number, little-endian.
        sealed = bytes(noise.encrypt(request + bytes(-len(request) % 16)))
        self.datagram = struct.pack("<I", DATA) + theirs + struct.pack("<Q", 0) + sealed
        self.socket.send(self.datagram)
        expected_counter = 0
        while (reply := self.receive(ANSWER_SECONDS, DATA)) is not None:
            index, counter = struct.unpack("<IQ", reply[4:16])
            assert (index, counter) == (self.index, expected_counter), reply[:16].hex()
            expected_counter += 1
            packet = bytes(noise.decrypt(reply[16:]))
            # A keepalive is empty.
            if packet and is_echo_reply(packet, request):
                return "answered"
        return "no echo"

    def replay(self) -> str:
        self.socket.send(self.datagram)
        return "silence" if self.receive(SILENCE_SECONDS, DATA) is None else "answered"

    def old(self) -> str:
        return self.response_to(self.initiation)

    def mac1(self) -> str:
        _, initiation = self.initiate(self.private, self.preshared)
        damaged = bytearray(initiation)
        damaged[116] ^= 1
        return self.response_to(bytes(damaged))

    def psk(self) -> str:
        """The initiation does not hold the key, so there is a response; it does not open."""
        noise, initiation = self.initiate(self.private, os.urandom(32))
        self.socket.send(initiation)
        response = self.receive(ANSWER_SECONDS, RESPONSE)
        if response is None:
            return "no response"
        try:
            self.complete(noise, response)
        except Exception as error:  # the library's own, or its cipher's
            return f"refused {type(error).__name__}"
        return "agreed"

    def stranger(self) -> str:
        _, initiation = self.initiate(os.urandom(32), self.preshared)
        return self.response_to(initiation)

    def response_to(self, message: bytes) -> str:
        self.socket.send(message)
        return "silence" if self.receive(SILENCE_SECONDS, RESPONSE) is None else "answered"


def main() -> None:
    initiator = Initiator(*sys.argv[1:8])
    for name in sys.argv[8:]:
        print(name, getattr(initiator, name)(), flush=True)


main()
