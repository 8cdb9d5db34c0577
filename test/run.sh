#!/usr/bin/env bash
# What `npm test` runs: installs the foreign clients that are missing (Debian packages), builds, checks types and
# style, runs every test, and ends with one line "N passed, N failed". Arguments go to vitest, for example the
# name of a test file.
set -euo pipefail
cd "$(dirname "$0")/.."

report=.test-report/vitest.json

give_up() {
  echo "test/run.sh: $1" >&2
  echo "0 passed, 1 failed"
  exit 1
}

# Most programs of mkfs and losetup's kind are not in the PATH of ordinary users.
PATH=$PATH:/usr/sbin:/sbin
export PATH

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi

missing=()
need() { # package, programs...
  local package=$1 program
  shift
  for program; do
    if ! command -v "$program" >/dev/null; then
      missing+=("$package")
      return
    fi
  done
}

need libnbd-bin nbdinfo nbdcopy nbdfuse
need qemu-utils qemu-img qemu-io qemu-nbd
need gnutls-bin certtool psktool
need openssl openssl
need fio fio
need nocache cachestats
need nbdkit nbdkit
need e2fsprogs mkfs.ext4 e2fsck
need xfsprogs mkfs.xfs
need btrfs-progs mkfs.btrfs
need fuse3 fusermount3
need mount losetup mount umount
need util-linux setpriv unshare
need iproute2 ss
need fdisk sfdisk
need gdisk sgdisk
need strace strace
need diffutils cmp
need systemd systemd-socket-activate systemd-analyze
need mandoc mandoc
need groff-base groff
need bash bash
need zsh zsh
need fish fish
need chromium chromium
need curl curl
# The bindings belong to Debian's own interpreter, which need not be the first python3 in PATH.
/usr/bin/python3 -c 'import nbd' 2>/dev/null || missing+=(python3-libnbd)

if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]}"
  command -v apt-get >/dev/null || give_up "please install these Debian packages: ${missing[*]}"
  if [ ${#as_root[@]} -gt 0 ]; then
    "${as_root[@]}" true || give_up "root or sudo is needed to install ${missing[*]}"
  fi
  install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
  "${install[@]}" update || give_up "apt-get update failed; please install ${missing[*]}"
  "${install[@]}" install --no-install-recommends "${missing[@]}" </dev/null ||
    give_up "apt-get could not install ${missing[*]}"
fi

# Of the package prometheus only the checker is wanted: installed, it would start a server.
if ! command -v promtool >/dev/null && [ ! -x .test-tools/usr/bin/promtool ]; then
  echo "fetching promtool"
  rm -rf .test-tools
  mkdir -p .test-tools
  (cd .test-tools && apt-get -q -o APT::Sandbox::User=root download prometheus >/dev/null &&
    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool && rm prometheus_*.deb) ||
    give_up "promtool is missing, and apt-get could not download the Debian package prometheus"
fi

[ -x node_modules/.bin/vitest ] || give_up "node_modules is missing or incomplete: run npm ci first"

if [ -f build/Makefile ]; then addon=build:native; else addon=install; fi
npm run --silent "$addon" || give_up "the addon does not build"
npm run --silent build || give_up "the program does not build"
npm run --silent check || give_up "npm run check found errors"

rm -rf .test-report
status=0
node_modules/.bin/vitest run --reporter=default --reporter=json --outputFile.json="$report" "$@" </dev/null ||
  status=$?
node test/support/report-summary.mjs "$report" "$status"
