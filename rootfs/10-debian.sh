#!/bin/bash
# Stage 1: Debian's packages, as a tar. The one stage that needs the network.
#   10-debian.sh SUITE SOURCES PACKAGES OUT.tar      SOURCES: a list for apt; PACKAGES: names, separated by commas
set -euo pipefail
suite=$1 sources=$2 packages=$3 out=$4

# Nobody reads manuals on an appliance; what a licence wants kept stays.
mmdebstrap --quiet --variant=essential --mode=root --skip=output/dev \
    --include="$packages" \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/i18n/*' \
    --dpkgopt='path-exclude=/usr/lib/udev/hwdb.d/*' \
    "$suite" "$out" < "$sources"
