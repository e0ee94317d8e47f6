#!/usr/bin/env bash
# Installs what the benchmark needs, if it is missing, and runs it: some forty minutes. Arguments go to the benchmark;
# --quick takes one short round of each. RELAY_RABBITMQ=/path/to/rabbitmq-server takes another broker than Debian's.
set -euo pipefail
cd "$(dirname "$0")/.."

target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
comparison="$target/comparison"
install_seconds=600
build_seconds=3000
run_seconds=3600

packages=()
[ -n "${RELAY_RABBITMQ:-}" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || packages+=(rabbitmq-server)
node -e 'process.exit(parseInt(process.versions.node) < 18)' 2>/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
[ "${#packages[@]}" -eq 0 ] || tests/apt-install.sh "${packages[@]}"

mkdir -p "$comparison"
if ! cmp -s benches/comparison/package-lock.json "$comparison/installed.json"; then
    cp benches/comparison/{package.json,package-lock.json,.npmrc} "$comparison/"
    (cd "$comparison" && timeout --foreground "$install_seconds" npm ci --silent)
    cp benches/comparison/package-lock.json "$comparison/installed.json"
fi
cp benches/comparison/*.mjs "$comparison/"

timeout --foreground "$build_seconds" cargo bench --locked --bench bench --no-run
exec timeout --foreground --kill-after=60 "$run_seconds" cargo bench --locked --quiet --bench bench -- --comparison "$comparison" --out "$target/bench" "$@"
