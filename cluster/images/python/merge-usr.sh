#!/bin/sh
# Before unpacking: /bin, /lib, ... are links into /usr, as on every current Debian.
set -eu
root=$1
for dir in bin sbin lib lib64; do
    mkdir -p "$root/usr/$dir"
    ln -s "usr/$dir" "$root/$dir"
done
