#!/bin/bash
# Runs a command in a new Debian that has Rust and nothing else, on as many cores as wanted:
#
#     packaging/fresh.sh FOLDER CORES COMMAND…
#     packaging/fresh.sh /var/tmp/fresh 0,1 .ci/run
#
# It makes a Debian in FOLDER with debootstrap (as root; 10 GB), copies this machine's Rust into it, clones the
# last commit, and runs COMMAND there. What it has is what `debootstrap --variant=minbase` gives: no compiler,
# no make, no git, no browser. FOLDER is left for a second run, which goes on with what is there.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,9s/^# \?//p' "$0"; exit 2; }
folder=$(realpath -m "$1") cores=$2
shift 2
here=$(realpath "$(dirname "$0")/..")

mounts() { for point in proc sys dev dev/pts; do echo "$folder/$point"; done; }
# Never leave the machine's /dev in a folder that somebody is going to remove.
unmount() { mounts | tac | while read -r point; do ! mountpoint -q "$point" || umount "$point"; done; }
trap unmount EXIT

if [ ! -d "$folder/root/resuni" ]; then
    echo "== a new Debian in $folder"
    debootstrap --variant=minbase bookworm "$folder" http://deb.debian.org/debian >"$folder.log"
    mkdir -p "$folder/root/.cargo"
    cp -a "${RUSTUP_HOME:-$HOME/.rustup}" "$folder/root/.rustup"
    cp -a "${CARGO_HOME:-$HOME/.cargo}/bin" "$folder/root/.cargo/bin"
    # Who can fetch Rust has certificates, those of the machine's own authorities among them.
    mkdir -p "$folder/usr/local/share/ca-certificates"
    cp -rL /etc/ssl/certs "$folder/etc/ssl/"
    cp /usr/local/share/ca-certificates/* "$folder/usr/local/share/ca-certificates/" 2>/dev/null || true
    cp /etc/resolv.conf "$folder/etc/"
    echo '127.0.0.1 localhost' >"$folder/etc/hosts"
    git clone -q "$here" "$folder/root/resuni"
else
    git --git-dir="$folder/root/resuni/.git" --work-tree="$folder/root/resuni" pull -q
fi
mount -t proc proc "$folder/proc"
mount -t sysfs sys "$folder/sys"
mount --bind /dev "$folder/dev"
mount --bind /dev/pts "$folder/dev/pts"
time taskset -c "$cores" chroot "$folder" /usr/bin/env -i HOME=/root TERM=dumb \
    PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /bin/bash -c 'cd /root/resuni && exec "$@"' fresh "$@"
