#!/usr/bin/env bash
# Builds the image on bases made here of Debian's packages, and runs the program in a root that holds only what the
# image holds: read-only, as the image's user. Prints sizes, start-up time and memory.
#
# Needs root, a Rust toolchain and about 15 GB for a while. Pulls no image; buildah builds without a daemon, in a chroot.
set -euo pipefail
cd "$(dirname "$0")/../.."

install_seconds=900
build_seconds=3000
run_seconds=600
runtime_packages=(base-files netbase tzdata ca-certificates libc6 libgcc-s1 libgomp1 libstdc++6 libssl3)

[ "$(id -u)" -eq 0 ] || { echo "run this as root: it makes root file systems" >&2; exit 2; }
packages=()
for pair in buildah:buildah debootstrap:debootstrap python3:python3; do
    command -v "${pair%:*}" >/dev/null || packages+=("${pair#*:}")
done
[ "${#packages[@]}" -eq 0 ] || tests/apt-install.sh "${packages[@]}"

work="$(mktemp -d)"
store=(--root "$work/store" --runroot "$work/runroot" --storage-driver vfs)
cleanup() {
    buildah "${store[@]}" umount --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT

# The mirror that this machine's own packages come from.
mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $(. /etc/os-release && echo "$VERSION_CODENAME")" | head -n 1)"

# image NAME ROOT: a base image of a folder.
image() {
    local container
    container="$(buildah "${store[@]}" from scratch)"
    buildah "${store[@]}" add --quiet "$container" "$2" / >/dev/null
    buildah "${store[@]}" config --env PATH=/usr/local/bin:/usr/bin:/bin "$container"
    buildah "${store[@]}" commit --quiet --rm "$container" "$1" >/dev/null
    rm -rf "$2"
}

echo "== build base: Debian 12, gcc, this machine's Rust"
timeout --foreground "$install_seconds" debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates bookworm "$work/build" "$mirror" >/dev/null
sysroot="$(rustc --print sysroot)"
for part in bin lib libexec; do
    [ ! -e "$sysroot/$part" ] || cp -a "$sysroot/$part" "$work/build/usr/local/"
done
image localhost/rust "$work/build"

echo "== runtime base: what distroless' cc-debian12 holds, and no shell"
mkdir -p "$work/packages" "$work/runtime/usr"/{bin,lib,lib64,sbin} "$work/runtime/etc/ssl/certs" "$work/runtime"/{home/nonroot,tmp,proc,dev}
chmod 755 "$work"
for part in bin lib lib64 sbin; do ln -s "usr/$part" "$work/runtime/$part"; done
(cd "$work/packages" && timeout --foreground "$install_seconds" apt-get download -qq "${runtime_packages[@]}")
for package in "$work/packages"/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$work/runtime"
done
cat "$work/runtime/usr/share/ca-certificates/mozilla"/*.crt > "$work/runtime/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' > "$work/runtime/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' > "$work/runtime/etc/group"
rm -rf "$work/runtime/usr/sbin"/* "$work/runtime/usr/bin"/*
image localhost/runtime "$work/runtime"

# Where crates come from is the machine's business, so its settings are lent to the build.
lent=()
cargo_home="${CARGO_HOME:-$HOME/.cargo}"
[ ! -e "$cargo_home/config.toml" ] || lent+=(--volume "$cargo_home/config.toml:/root/.cargo/config.toml:ro")
while read -r name; do lent+=(--env "$name"); done < <(env | sed -n 's/^\(CARGO_[A-Z_]*\|[A-Za-z]*_[Pp][Rr][Oo][Xx][Yy]\|SSL_CERT_FILE\)=.*/\1/p' | grep -v '^CARGO_\(HOME\|TARGET_DIR\|MANIFEST\|PKG\)' || true)
for bundle in "${SSL_CERT_FILE:-}" "${CARGO_HTTP_CAINFO:-}"; do
    [ -z "$bundle" ] || lent+=(--volume "$bundle:$bundle:ro")
done

build() {
    timeout --foreground "$build_seconds" buildah "${store[@]}" bud --isolation chroot --layers --network host \
        --build-arg BUILD_IMAGE=localhost/rust --build-arg RUNTIME_IMAGE=localhost/runtime \
        "${lent[@]}" --tag localhost/crm-relay --file Dockerfile "$1" > "$work/log" 2>&1 || { tail -n 60 "$work/log" >&2; return 1; }
}
mkdir "$work/context"
cp -a Cargo.toml Cargo.lock src .dockerignore "$work/context/"

echo "== build"
begun=$SECONDS
build "$work/context"
echo "first build: $((SECONDS - begun)) s, $(grep -c 'Compiling' "$work/log") crates compiled"
echo "// A change of the source alone." >> "$work/context/src/lib.rs"
begun=$SECONDS
build "$work/context"
compiled="$(grep -c 'Compiling' "$work/log")"
echo "build after a change of the source: $((SECONDS - begun)) s, $compiled crate compiled"
[ "$compiled" -eq 1 ] || { echo "the dependencies were built again: their layer is not cached" >&2; exit 1; }

container="$(buildah "${store[@]}" from --pull-never localhost/crm-relay)"
root="$(buildah "${store[@]}" mount "$container")"
buildah "${store[@]}" inspect --type image --format '{{.OCIv1.Config}}' localhost/crm-relay
echo "image: $(du -sm --apparent-size "$root" | cut -f1) MB, compressed $(tar -C "$root" -c . | gzip | wc -c | awk '{printf "%.1f", $1 / 1e6}') MB; binary: $(stat -c %s "$root/usr/local/bin/crm-relay" | awk '{printf "%.1f", $1 / 1e6}') MB"
timeout --foreground --kill-after=30 "$run_seconds" unshare --mount --pid --fork --mount-proc python3 -B tests/image/run.py "$root"
