#!/bin/sh
# After unpacking: make what package scripts would have made, and drop what no workload reads.
set -eu
root=$1
cd "$root"

# Only needed by package scripts, terminals and languages; licences (doc/*/copyright) stay.
find usr/share/doc -type f ! -name copyright -delete
find usr/share/doc -depth -type d -empty -delete
find usr/share -mindepth 1 -maxdepth 1 ! -name doc ! -name ca-certificates -exec rm -r {} +
find usr/bin -mindepth 1 ! -name python3.11 ! -name busybox -delete
rm -rf usr/sbin/* usr/lib/*-linux-gnu/gconv usr/lib/*-linux-gnu/perl-base usr/lib/python3 usr/lib/systemd \
    usr/lib/python3.11/lib2to3 usr/lib/python3.11/pydoc_data usr/lib/python3.11/test usr/lib/python3.11/turtle.py \
    var/cache/debconf var/log/* etc/apt/sources.list* etc/dpkg etc/alternatives etc/cron.daily etc/logrotate.d etc/debconf.conf \
    etc/hostname etc/resolv.conf

# The modules nis and dbm.gnu/ndbm pull in Kerberos and Berkeley DB; tar and dpkg pulled in the rest.
rm -f usr/lib/python3.11/lib-dynload/nis.* usr/lib/python3.11/lib-dynload/_dbm.* \
    usr/lib/python3.11/lib-dynload/_test* usr/lib/python3.11/lib-dynload/_codecs_*
for library in db-5 krb5 krb5support k5crypto gssapi_krb5 com_err keyutils tirpc nsl pcre2-8 pcre2-posix selinux zstd acl; do
    rm -f usr/lib/*-linux-gnu/lib"$library".* usr/lib/*-linux-gnu/lib"$library"-*
done

mkdir -p proc sys dev run tmp etc/ssl/certs home/nonroot usr/local/bin
chmod 1777 tmp
ln -s python3.11 usr/bin/python3
ln -s python3.11 usr/bin/python
ln -s /usr/bin/busybox usr/bin/sh
chroot . /usr/bin/busybox --install -s /usr/bin
cat usr/share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-certificates.crt
rm -r usr/share/ca-certificates

printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nnonroot:x:65532:65532:nonroot:/home/nonroot:/bin/sh\n' > etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n' > etc/group
printf 'passwd: files\ngroup: files\nhosts: files dns\n' > etc/nsswitch.conf
chown 65532:65532 home/nonroot

# A read-only root can't cache compiled modules at run time, and compiling at every start costs a second.
chroot . /usr/bin/python3.11 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3.11
