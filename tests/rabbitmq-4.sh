#!/usr/bin/env bash
# Runs the tests that talk to RabbitMQ against Debian 13's package of RabbitMQ 4.0, in a root file system of its own under
# target/. Needs root and debootstrap (installed if missing). Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

install_seconds=900

[ "$(id -u)" -eq 0 ] || { echo "run this as root: it makes a root file system" >&2; exit 2; }
command -v debootstrap >/dev/null || tests/apt-install.sh debootstrap

folder="$(realpath -m "${CARGO_TARGET_DIR:-target}")/rabbitmq-4"
if [ ! -x "$folder/root/usr/lib/rabbitmq/bin/rabbitmq-server" ]; then
    rm -rf --one-file-system "$folder"
    mkdir -p "$folder"
    release="$(. /etc/os-release && echo "$VERSION_CODENAME")"
    mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $release" | head -n 1)"
    timeout --foreground "$install_seconds" debootstrap --variant=minbase --include=rabbitmq-server trixie "$folder/root" "$mirror" >/dev/null
fi

# Each program runs in that root, with this machine's processes, network and temporary folder.
for program in rabbitmq-server rabbitmqctl; do
    cat > "$folder/$program" <<WRAPPER
#!/bin/sh
exec unshare --mount sh -c 'mount --rbind /tmp "\$1/tmp" && mount -t proc proc "\$1/proc" && mount --rbind /dev "\$1/dev" &&
    mount --bind /etc/hosts "\$1/etc/hosts" && root="\$1" && shift && exec chroot "\$root" "\$@"' sh "$folder/root" /usr/lib/rabbitmq/bin/$program "\$@"
WRAPPER
    chmod +x "$folder/$program"
done
RELAY_RABBITMQ="$folder" exec cargo test --test it "$@"
