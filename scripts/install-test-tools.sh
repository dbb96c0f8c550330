#!/bin/sh
# Installs what some tests need of a Debian machine: strace, and the makers of the file systems that
# the lock is tried on. May be run again and again; does nothing where everything is there.
#
# Tests whose tool is missing skip themselves and say so. So this never fails a set-up: not on
# another system, not without root, not without a network.
set -u

# What a test calls, and the package it comes in.
missing=""
while read -r tool package; do
  command -v "$tool" >/dev/null 2>&1 || missing="$missing $package"
done <<TOOLS
strace strace
mkfs.ext4 e2fsprogs
mkfs.xfs xfsprogs
mkfs.btrfs btrfs-progs
mkfs.vfat dosfstools
mkfs.f2fs f2fs-tools
mkfs.exfat exfatprogs
mount.exfat-fuse exfat-fuse
bindfs bindfs
fuse-overlayfs fuse-overlayfs
unshare util-linux
prlimit util-linux
faketime faketime
pg_createcluster postgresql
pgbouncer pgbouncer
ip iproute2
TOOLS

[ -n "$missing" ] || exit 0

skip() {
  echo "test tools not installed ($1):$missing; the tests that need them will be skipped" >&2
  exit 0
}

command -v apt-get >/dev/null 2>&1 || skip "no apt-get"
[ "$(id -u)" = 0 ] || skip "not root"

# shellcheck disable=SC2086 # a list of words
install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing \
    </dev/null >/dev/null 2>&1
}

# The package lists may be there already, or be out of date.
install || { apt-get update -qq </dev/null >/dev/null 2>&1 && install; } || skip "apt-get failed"
