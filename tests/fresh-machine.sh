#!/usr/bin/env bash
# Runs the README's two commands on a machine as bare as it may be: an empty root file system with Debian 12, Rust and a C
# compiler, a clean clone, no cache. Prints how long each takes.
#
# Needs root and debootstrap (installed if missing). It shares this machine's network and processors, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

install_seconds=900
command_seconds=3000

[ "$(id -u)" -eq 0 ] || { echo "run this as root: it makes a root file system" >&2; exit 2; }
command -v debootstrap >/dev/null || tests/apt-install.sh debootstrap

root="$(mktemp -d)"
trap 'rm -rf --one-file-system "$root"' EXIT
release="$(. /etc/os-release && echo "$VERSION_CODENAME")"
mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $release" | head -n 1)"
timeout --foreground "$install_seconds" debootstrap --variant=minbase --include=gcc,libc6-dev bookworm "$root" "$mirror" >/dev/null
sysroot="$(rustc --print sysroot)"
for part in bin lib libexec; do
    [ ! -e "$sysroot/$part" ] || cp -a "$sysroot/$part" "$root/usr/local/"
done
git clone --quiet . "$root/root/crm-relay"

# What a machine knows of its network: names, and whom to trust.
cp /etc/hosts /etc/resolv.conf "$root/etc/"
lent=(HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8)
for name in SSL_CERT_FILE http_proxy https_proxy no_proxy; do
    value="${!name:-}"
    [ -z "$value" ] || lent+=("$name=$value")
    [ ! -f "$value" ] || install -D -m 644 "$value" "$root$value"
done

# inside COMMAND: in the bare root, with processes and mounts of its own, which end with it.
inside() {
    timeout --foreground --kill-after=30 "$command_seconds" unshare --mount --pid --fork bash -c '
        set -e
        mount --rbind /dev "$1/dev"
        mount -t proc proc "$1/proc"
        exec chroot "$1" /usr/bin/env -i "${@:3}" sh -c "cd /root/crm-relay && $2"' bash "$root" "$1" "${lent[@]}"
}

timed() {
    local begun=$SECONDS
    echo "== $1"
    inside "$1" > "$root/root/log" 2>&1 || { tail -n 60 "$root/root/log" >&2; exit 1; }
    tail -n 3 "$root/root/log"
    echo "$1: $((SECONDS - begun)) s"
}

for command in rabbitmq-server python3 node make; do
    ! inside "command -v $command" >/dev/null || { echo "$command is there: the machine is not bare" >&2; exit 1; }
done
timed "cargo run -- demo --events 20"
timed "tests/run.sh"
