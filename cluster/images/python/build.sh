#!/bin/sh
# The root file system of all our Python workloads where no registry answers: python3.11, busybox, CA certificates.
# Usage: build.sh OUT.tar ARCH      (ARCH in Debian's words: amd64, arm64; needs mmdebstrap and apt's own sources)
#
# `extract` unpacks packages without configuring them, so the few things their scripts would have made are made
# in the hook: links, users, the certificate bundle, compiled modules.
set -eu
out=$1 arch=$2
here=$(cd "$(dirname "$0")" && pwd)
export here

# shellcheck disable=SC2016  # $1 and $here belong to the hooks' own shells
mmdebstrap --variant=extract --architectures="$arch" \
    --include=python3.11,libstdc++6,ca-certificates,busybox-static,netbase \
    --setup-hook='sh "$here/merge-usr.sh" "$1"' \
    --extract-hook='sh "$here/finish.sh" "$1"' \
    bookworm "$out"
