#!/usr/bin/env bash
# Renders k8s/, validates it strictly, scans it, and holds it against the program.
#
# Debian's packages are installed where a command is missing; Python's and kustomize go into target/manifests.
set -euo pipefail
cd "$(dirname "$0")/../.."

target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
tools="$target/manifests"
install_seconds=600
build_seconds=3000
run_seconds=300

# Debian 12 has no kustomize that knows components. Debian 13's package needs nothing that 12 has not, and comes, signed, from
# the mirror that this machine's other packages come from.
fetch_kustomize() {
    local apt="$tools/apt" release mirror options
    release="$(. /etc/os-release && echo "$VERSION_CODENAME")"
    mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $release" | head -n 1)"
    rm -rf "$apt"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$apt/sources.list"
    options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$apt/lists"
        -o "Dir::Cache=$apt" -o Acquire::Languages=none -o APT::Sandbox::User=root)
    timeout --foreground "$install_seconds" apt-get "${options[@]}" update
    (cd "$apt" && timeout --foreground "$install_seconds" apt-get "${options[@]}" download kustomize && dpkg-deb -x kustomize_*.deb root)
    install -D "$apt/root/usr/bin/kustomize" "$tools/bin/kustomize"
    rm -rf "$apt"
}

mkdir -p "$tools"
packages=()
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
command -v promtool >/dev/null || packages+=(prometheus)
[ -n "${RELAY_RABBITMQ:-}" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || packages+=(rabbitmq-server)
[ "${#packages[@]}" -eq 0 ] || tests/apt-install.sh "${packages[@]}"
if ! cmp -s tests/manifests/requirements.txt "$tools/requirements.txt"; then
    rm -rf "$tools/venv"
    python3 -m venv "$tools/venv"
    timeout --foreground "$install_seconds" "$tools/venv/bin/pip" install -q --disable-pip-version-check -r tests/manifests/requirements.txt
    cp tests/manifests/requirements.txt "$tools/"
fi
[ -x "$tools/bin/kustomize" ] || fetch_kustomize
# As `cargo test` builds it (the example brings the features of dev-dependencies), or what other tests are running would be replaced.
timeout --foreground "$build_seconds" cargo build --locked --quiet --profile test --bin crm-relay --example rust
export PATH="$tools/bin:$tools/venv/bin:$PATH"
exec timeout --foreground --kill-after=30 "$run_seconds" "$tools/venv/bin/python" -B tests/manifests/run.py "$target/debug/crm-relay"
