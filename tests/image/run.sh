#!/usr/bin/env bash
# Builds the image on bases made here of Debian's packages, and runs the program in a root that holds only what the
# image holds: read-only, as the image's user. Prints sizes, start-up time and memory.
#
# Pulls no image. buildah builds without a daemon and without privileges, as a user that is made for it and removed
# again. Needs root, since root file systems are made and mounted; a Rust toolchain; about 15 GB for a while.
set -euo pipefail
cd "$(dirname "$0")/../.."

install_seconds=900
build_seconds=3000
run_seconds=600
runtime_packages=(base-files netbase tzdata ca-certificates libc6 libgcc-s1 libgomp1 libstdc++6 libssl3)

[ "$(id -u)" -eq 0 ] || { echo "run this as root: it makes root file systems" >&2; exit 2; }
packages=()
for pair in buildah:buildah debootstrap:debootstrap newuidmap:uidmap python3:python3; do
    command -v "${pair%:*}" >/dev/null || packages+=("${pair#*:}")
done
[ -n "${RELAY_RABBITMQ:-}" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || packages+=(rabbitmq-server)
[ "${#packages[@]}" -eq 0 ] || tests/apt-install.sh "${packages[@]}"

work="$(mktemp -d)"
user="image-test-$$"
cleanup() {
    "${as_user[@]}" buildah umount --all >/dev/null 2>&1 || true
    userdel "$user" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
chmod 755 "$work"
useradd --create-home --home-dir "$work/home" --shell /bin/sh "$user"
install -d -o "$user" -m 700 "$work/home/run"

# Begins a command that is to run without privileges, with a store of its own.
as_user=(runuser -u "$user" -- env -C "$work/home" HOME="$work/home" XDG_RUNTIME_DIR="$work/home/run" STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot)

# The mirror that this machine's own packages come from.
mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $(. /etc/os-release && echo "$VERSION_CODENAME")" | head -n 1)"

# image NAME ROOT [KEY=VALUE...]: a base image of a folder. A user may not make device nodes; a container gets its own.
image() {
    local container variable
    tar -C "$2" --exclude='./dev/*' -cf "$work/base.tar" .
    rm -rf "$2"
    container="$("${as_user[@]}" buildah from scratch)"
    "${as_user[@]}" buildah add --quiet "$container" "$work/base.tar" / >/dev/null
    for variable in PATH=/usr/local/bin:/usr/bin:/bin "${@:3}"; do "${as_user[@]}" buildah config --env "$variable" "$container"; done
    "${as_user[@]}" buildah commit --quiet --rm "$container" "$1" >/dev/null
    rm "$work/base.tar"
}

# Where crates come from is the machine's business: its settings are lent to the stage that builds.
environment=()
volumes=()
while IFS='=' read -r name value; do
    [[ "$name" =~ ^(CARGO_(HOME|TARGET_DIR|MANIFEST.*|PKG.*))$ ]] || environment+=("$name=$value")
done < <(env | grep -E '^(CARGO_[A-Z_]*|[A-Za-z]*_[Pp][Rr][Oo][Xx][Yy]|SSL_CERT_FILE)=' || true)
cargo_config="${CARGO_HOME:-$HOME/.cargo}/config.toml"
if [ -e "$cargo_config" ]; then
    install -m 644 "$cargo_config" "$work/cargo-config.toml"
    volumes+=(--volume "$work/cargo-config.toml:/root/.cargo/config.toml:ro")
fi
for bundle in "${SSL_CERT_FILE:-}" "${CARGO_HTTP_CAINFO:-}"; do
    [ -z "$bundle" ] || volumes+=(--volume "$bundle:$bundle:ro")
done

echo "== build base: Debian 12, gcc, this machine's Rust"
timeout --foreground "$install_seconds" debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates bookworm "$work/build" "$mirror" >/dev/null
sysroot="$(rustc --print sysroot)"
for part in bin lib libexec; do
    [ ! -e "$sysroot/$part" ] || cp -a "$sysroot/$part" "$work/build/usr/local/"
done
image localhost/rust "$work/build" "${environment[@]}"

echo "== runtime base: what distroless' cc-debian12 holds, and no shell"
mkdir -p "$work/packages" "$work/runtime/usr"/{bin,lib,lib64,sbin} "$work/runtime/etc/ssl/certs" "$work/runtime"/{home/nonroot,tmp,proc,dev}
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

build() {
    timeout --foreground "$build_seconds" "${as_user[@]}" buildah bud --layers --network host \
        --build-arg BUILD_IMAGE=localhost/rust --build-arg RUNTIME_IMAGE=localhost/runtime \
        "${volumes[@]}" --tag localhost/crm-relay --file "$work/context/Dockerfile" "$work/context" > "$work/log" 2>&1 || { tail -n 60 "$work/log" >&2; return 1; }
}
mkdir "$work/context"
cp -a Cargo.toml Cargo.lock src .dockerignore Dockerfile "$work/context/"
chown -R "$user" "$work/context"

echo "== build"
begun=$SECONDS
build
echo "first build: $((SECONDS - begun)) s, $(grep -c 'Compiling' "$work/log") crates compiled"
echo "// A change of the source alone." >> "$work/context/src/lib.rs"
begun=$SECONDS
build
compiled="$(grep -c 'Compiling' "$work/log")"
echo "build after a change of the source: $((SECONDS - begun)) s, $compiled crate compiled"
[ "$compiled" -eq 1 ] || { echo "the dependencies were built again: their layer is not cached" >&2; exit 1; }

inspect() { "${as_user[@]}" buildah inspect --type image --format "$1" localhost/crm-relay; }
inspect 'user {{.OCIv1.Config.User}}, entry point {{.OCIv1.Config.Entrypoint}}, command {{.OCIv1.Config.Cmd}}{{println}}'
strange="$(inspect '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' | grep -vE '^(PATH|MALLOC_MMAP_THRESHOLD_|CRM_RELAY_[A-Z_]+)=' | grep . || true)"
[ -z "$strange" ] || { echo "the image's environment has what the Dockerfile has not: $strange" >&2; exit 1; }

# What the image holds, with its owners as they are inside.
"${as_user[@]}" buildah unshare sh -c 'tar -C "$(buildah mount "$(buildah from --pull-never localhost/crm-relay)")" -c .' > "$work/image.tar"
root="$work/image"
mkdir "$root"
tar -C "$root" -xf "$work/image.tar"
megabytes() { awk '{ printf "%.1f MB", $1 / 1e6 }'; }
echo "image: $(wc -c < "$work/image.tar" | megabytes), compressed $(gzip -c "$work/image.tar" | wc -c | megabytes); binary: $(stat -c %s "$root/usr/local/bin/crm-relay" | megabytes)"
timeout --foreground --kill-after=30 "$run_seconds" unshare --mount --pid --fork --mount-proc python3 -B tests/image/run.py "$root"
