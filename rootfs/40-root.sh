#!/bin/bash
# Stage 4: the tree as one file, in which the kernel can verify every block.
#   40-root.sh TREE OUT      makes OUT/root.img, OUT/roothash, OUT/blocks
#
#   | erofs (lz4hc), padded to 4 KiB | verity superblock, a block | tree of SHA-256 |
#
# Salt and UUID of the hash tree are the digest of what they are for, so that the same tree is the same file.
set -euo pipefail
tree=$1 out=$2
image=$out/root.img
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

rm -f "$image"
mkfs.erofs --quiet -zlz4hc -T"$SOURCE_DATE_EPOCH" -U 6d1e0c5e-5f3c-4d6f-9d5c-63756c766572 -x-1 "$image" "$tree" >/dev/null
truncate -s %4096 "$image"
size=$(stat -c %s "$image")
salt=$(sha256sum "$image" | cut -c1-64)
uuid=${salt:0:8}-${salt:8:4}-${salt:12:4}-${salt:16:4}-${salt:20:12}
veritysetup format --hash=sha256 --data-block-size=4096 --hash-block-size=4096 --salt="$salt" --uuid="$uuid" \
    --hash-offset="$size" "$image" "$image" | sed -n 's/^Root hash:[[:space:]]*//p' > "$out/roothash"
echo $((size / 4096)) > "$out/blocks"
