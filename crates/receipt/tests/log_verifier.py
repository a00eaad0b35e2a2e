"""Verifies a log with aics-tlog, which shares no code with Culvert: RFC 6962 proofs, C2SP tiles, notes, checkpoints.

    log_verifier.py <FILE.json

Prints a line for each kind of proof: how many were accepted, and how many with one flipped bit were refused. Any
surprise ends it with an error.
"""

import base64
import hashlib
import json
import sys

from aics_tlog import leaf_hash, parse_note, parse_vkey, verify_checkpoint, verify_consistency, verify_leaf_inclusion
from aics_tlog.tiles import MemoryTileReader, tile_path, tree_root_from_tiles


def b64(text):
    return base64.b64decode(text, validate=True)


def flips(data):
    """`data` with one bit flipped, once for each byte."""
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        yield bytes(changed)


def checkpoint_is_right(note, key):
    try:
        return verify_checkpoint(parse_note(note), parse_vkey(key), expected_origin=parse_vkey(key).name).ok
    except (ValueError, UnicodeDecodeError):
        return False


def each(kind, items):
    """`items` yields (accepted, [refused…]) for each proof."""
    accepted = refused = 0
    for right, wrong in items:
        assert right, f"{kind}: a proof is refused"
        accepted += 1
        for one in wrong:
            assert not one, f"{kind}: a flipped bit is accepted"
            refused += 1
    print(f"{kind}: {accepted} accepted, {refused > accepted and 'each flipped bit refused' or refused}")


def paths(hashes):
    """The path with a flipped bit in each byte, and without its end."""
    for at, one in enumerate(hashes):
        for changed in flips(one):
            yield hashes[:at] + [changed] + hashes[at + 1 :]
    if hashes:
        yield hashes[:-1]


def main():
    log = json.load(sys.stdin.buffer)
    leaves = [b64(leaf) for leaf in log["leaves"]]
    key = log["key"]
    roots = {head["size"]: b64(head["root"]) for head in log["heads"]}

    def checkpoints():
        for head in log["heads"]:
            note = head["checkpoint"].encode()
            parsed = verify_checkpoint(parse_note(note), parse_vkey(key))
            assert (parsed.size, parsed.root) == (head["size"], b64(head["root"]))
            yield checkpoint_is_right(note, key), (checkpoint_is_right(bad, key) for bad in flips(note))

    def inclusions():
        for proof in log["inclusions"]:
            index, size = proof["index"], proof["size"]
            hashes = [b64(one) for one in proof["hashes"]]
            leaf, root = leaves[index], roots[size]

            def check(leaf, hashes, root, index=index, size=size):
                return verify_leaf_inclusion(leaf, index, size, hashes, root)

            wrong = [check(leaf, bad, root) for bad in paths(hashes)]
            wrong += [check(bad, hashes, root) for bad in flips(leaf)]
            wrong += [check(leaf, hashes, bad) for bad in flips(root)]
            yield check(leaf, hashes, root), wrong

    def consistencies():
        for proof in log["consistencies"]:
            start, end = proof["from"], proof["to"]
            hashes = [b64(one) for one in proof["hashes"]]
            old, new = roots[start], roots[end]

            def check(old, new, hashes, start=start, end=end):
                return verify_consistency(start, end, old, new, hashes)

            wrong = [check(old, new, bad) for bad in paths(hashes)]
            wrong += [check(bad, new, hashes) for bad in flips(old)]
            wrong += [check(old, bad, hashes) for bad in flips(new)]
            yield check(old, new, hashes), wrong

    def tiles():
        size = len(leaves)
        tiles = {}
        for tile in log["tiles"]:
            hashes = b64(tile["hashes"])
            width = len(hashes) // 32
            tiles[tile_path(tile["level"], tile["index"], None if width == 256 else width)] = hashes
            if tile["level"] == 0:
                first = tile["index"] * 256
                assert hashes == b"".join(leaf_hash(leaf) for leaf in leaves[first : first + width])
        yield tree_root_from_tiles(MemoryTileReader(tiles), size) == roots[size], []

    def receipts():
        for receipt in log["receipts"]:
            record, salt = receipt["record"].encode(), b64(receipt["salt"])
            head = verify_checkpoint(parse_note(receipt["checkpoint"]), parse_vkey(receipt["log_key"]))
            hashes = [b64(one) for one in receipt["inclusion"]]

            def check(record, salt, index=receipt["leaf_index"], head=head, hashes=hashes):
                leaf = hashlib.sha256(b"culvert record v1\n" + salt + record).digest()
                return verify_leaf_inclusion(leaf, index, head.size, hashes, head.root)

            wrong = [check(bad, salt) for bad in flips(record)] + [check(record, bad) for bad in flips(salt)]
            yield head.ok and receipt["log_key"] == key and check(record, salt), wrong

    each("checkpoints", checkpoints())
    each("inclusion", inclusions())
    each("consistency", consistencies())
    each("tiles", tiles())
    each("receipts", receipts())


main()
