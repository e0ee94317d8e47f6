#!/usr/bin/env bash
# Installs what other people's clients need, if it is missing, and lets them look at a running relay.
#
# Debian's packages are installed where a command is missing; Python's and Node's go into target/interop and
# stay there for the next run. RELAY_RABBITMQ=/path/to/rabbitmq-server takes another broker than Debian's.
set -euo pipefail
cd "$(dirname "$0")/../.."

target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
tools="$target/interop"
install_seconds=600
build_seconds=3000
run_seconds=900

missing_packages() {
    [ -n "${RELAY_RABBITMQ:-}" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || echo rabbitmq-server
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    node -e 'process.exit(parseInt(process.versions.node) < 18)' 2>/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
    command -v go >/dev/null || echo golang-go
    [ -d /usr/share/gocode/src/github.com/rabbitmq/amqp091-go ] || echo golang-github-rabbitmq-amqp091-go-dev
}

# Whether a file of ours is as it was when its packages were installed.
unchanged() { cmp -s "tests/interop/$1" "$tools/$1"; }

install_python() {
    unchanged requirements.txt && return
    rm -rf "$tools/venv"
    python3 -m venv "$tools/venv"
    timeout --foreground "$install_seconds" "$tools/venv/bin/pip" install -q --disable-pip-version-check -r tests/interop/requirements.txt
    cp tests/interop/requirements.txt "$tools/"
}

install_node() {
    unchanged package-lock.json && return
    mkdir -p "$tools/npm"
    cp tests/interop/package.json tests/interop/package-lock.json tests/interop/.npmrc "$tools/npm/"
    (cd "$tools/npm" && timeout --foreground "$install_seconds" npm ci --silent)
    cp tests/interop/package-lock.json "$tools/"
}

mkdir -p "$tools"
mapfile -t packages < <(missing_packages)
[ "${#packages[@]}" -eq 0 ] || tests/apt-install.sh "${packages[@]}"
install_python
install_node
# As `cargo test` builds it: nothing is built twice.
timeout --foreground "$build_seconds" cargo build --locked --quiet --profile test --bin crm-relay --example rust
exec timeout --foreground --kill-after=60 "$run_seconds" "$tools/venv/bin/python" -B tests/interop/run.py "$target/debug/crm-relay" "$tools/npm/node_modules"
