#!/usr/bin/env bash
# Lints the Dockerfile.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv="$(realpath -m "${CARGO_TARGET_DIR:-target}")/image/lint"
install_seconds=300

python3 -c 'import ensurepip, venv' 2>/dev/null || tests/apt-install.sh python3-venv
if ! cmp -s tests/image/requirements.txt "$venv/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    timeout --foreground "$install_seconds" "$venv/bin/pip" install -q --disable-pip-version-check -r tests/image/requirements.txt
    cp tests/image/requirements.txt "$venv/"
fi
"$venv/bin/hadolint" Dockerfile
