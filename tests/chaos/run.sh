#!/usr/bin/env bash
# Installs what the campaign needs, if it is missing, and runs it.
#
#   SEED=7 FAULTS=200 NOTIFICATIONS=5000000 make chaos    the long campaign; MINUTES=240 ends it, whatever came until then
#   QUICK=1 make chaos                                    five minutes, on the program as `cargo test` builds it
#   SOAK=8 make chaos                                     hours at a steady rate
#   SABOTAGE=1 QUICK=1 FAULTS=1 make chaos                must fail: messages are taken away
#
# As root a spool gets a small disk that can be full; with libfaketime clocks jump. What cannot be had is left out.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -z "${RELAY_RABBITMQ:-}" ] && [ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
    tests/apt-install.sh rabbitmq-server
fi
if ! ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1; then
    tests/apt-install.sh libfaketime || echo "no libfaketime: clocks will not jump"
fi

arguments=(--run)
profile=(--release)
if [ -n "${QUICK:-}" ]; then
    arguments+=(--quick)
    profile=()
fi
if [ -n "${SABOTAGE:-}" ]; then
    arguments+=(--sabotage)
fi
for name in SEED FAULTS NOTIFICATIONS MINUTES RATE NODES ONLY SOAK OUT; do
    if [ -n "${!name:-}" ]; then
        arguments+=("--${name,,}" "${!name}")
    fi
done
exec cargo test "${profile[@]}" --test chaos -- "${arguments[@]}"
