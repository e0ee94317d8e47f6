#!/usr/bin/env bash
# Installs Debian packages, by name, without starting the services that some of them bring.
set -euo pipefail

# One at a time.
exec 9<"$0"
flock 9

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
seconds=600

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod +x "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
"${as_root[@]}" timeout --foreground "$seconds" apt-get update -qq
"${as_root[@]}" timeout --foreground "$seconds" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
