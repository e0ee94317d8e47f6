#!/usr/bin/env bash
# Plants each bug of bugs/ in a copy of the source, and expects the histories to find it.
# With --check: only whether every patch still applies.
set -euo pipefail
cd "$(dirname "$0")/../.."

bugs=(tests/histories/bugs/*.patch)
if [ "${1:-}" = --check ]; then
    for bug in "${bugs[@]}"; do git apply --check "$bug"; done
    exit
fi

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
# A bug may leave code that nobody calls.
export RUSTFLAGS=-Awarnings CARGO_TARGET_DIR="$PWD/target/planted-bugs" HISTORIES="${HISTORIES:-10000}"
unfound=0
for bug in none "${bugs[@]}"; do
    rm -rf "${copy:?}"/*
    cp -r Cargo.toml Cargo.lock src tests benches schemas README.md "$copy"
    if [ "$bug" != none ]; then (cd "$copy" && git apply "$OLDPWD/$bug"); fi
    name=$(basename "$bug" .patch)
    (cd "$copy" && cargo test --quiet --test histories --no-run)
    if found=$(cd "$copy" && cargo test --quiet --test histories histories 2>&1); then found=""; fi
    first=$(grep -m 1 '^history [0-9]*:' <<<"$found" || true)
    printf '%-28s %s\n' "$name" "${first:-not found in $HISTORIES histories}"
    if { [ "$bug" = none ] && [ -n "$first" ]; } || { [ "$bug" != none ] && [ -z "$first" ]; }; then
        unfound=$((unfound + 1))
    fi
done
exit "$unfound"
