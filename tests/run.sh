#!/usr/bin/env bash
# Installs what the tests need, if it is missing, and runs every test.
#
# The tests start private RabbitMQ nodes of their own on free ports in temporary folders; no service
# has to run. RELAY_RABBITMQ=/path/to/rabbitmq-server runs them against another version.
set -euo pipefail
cd "$(dirname "$0")/.."

have_rabbitmq() {
    [ -n "${RELAY_RABBITMQ:-}" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]
}

install_rabbitmq() {
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    # Without this the package starts a broker of its own, which nobody asked for.
    local policy=/usr/sbin/policy-rc.d made=no
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod +x "$policy"
        made=yes
    fi
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends rabbitmq-server
    [ "$made" = no ] || "${as_root[@]}" rm -f "$policy"
}

have_rabbitmq || install_rabbitmq
exec cargo test "$@"
