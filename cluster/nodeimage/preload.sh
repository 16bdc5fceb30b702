#!/bin/bash
# Run in a container that becomes a node image: adds the images of the archive on stdin to its store, and unpacks them.
# $1 is a volume to work on, since containerd can't lay one overlayfs on another.
#
# kind gives every node a volume of its own for /var, into which the engine copies what the image has there: 350 MB in
# each node, which the nodes then unpacked at first use, all at the same time. So what is large lies in $kept, which all
# nodes share, on the disk and in memory, and /var has links to it.
set -euo pipefail

volume=$1 store=/var/lib/containerd kept=/kind/store
blobs=io.containerd.content.v1.content/blobs/sha256 snapshots=io.containerd.snapshotter.v1.overlayfs/snapshots

ctr() { command ctr --namespace=k8s.io "$@"; }

# The layers of the image that this digest names; none where it names an index, as the whole archive is one.
layers_of() { ctr content get "$1" | jq --raw-output '.layers // [] | .[].digest'; }

# Whether one of these layers removes what another has. The mark of that, a device with the numbers 0, 0, has its
# meaning in the node image too, so it can't be kept there.
remove_files() {
  local layer
  for layer; do
    # grep reads to the end: tar would fail if nobody did.
    if tar --list --file "$volume/$blobs/${layer#sha256:}" | grep '\(^\|/\)\.wh\.' >/dev/null; then return 0; fi
  done
  return 1
}

# Moves what is in a folder of the store to $kept and leaves links.
keep() {
  mkdir --parents "$kept/$2"
  find "$volume/$1" -mindepth 1 -maxdepth 1 -not -type l -print0 | while IFS= read -r -d '' found; do
    cp --archive "$found" "$kept/$2/"
    rm --recursive "$found"
    ln --symbolic "$kept/$2/${found##*/}" "$found"
  done
}

mkdir --parents "$store"
cp --archive "$store/." "$volume/"
containerd --log-level error --root "$volume" </dev/null &
timeout 60 sh -c 'until ctr version >/dev/null 2>&1; do sleep 0.1; done'
ctr images import --all-platforms --no-unpack --digests -
for digest in $(ctr images list | awk 'NR > 1 { print $3 }' | sort --unique); do
  mapfile -t layers < <(layers_of "$digest")
  if (( ${#layers[@]} )) && ! remove_files "${layers[@]}"; then
    ctr snapshots --snapshotter=overlayfs unpack "$digest" >/dev/null
  fi
done
kill %1
wait %1 || true
rm -rf /run/containerd

keep "$blobs" blobs
keep "$snapshots" snapshots
rm -rf "$store"
cp --archive "$volume" "$store"
