#!/usr/bin/env bash
# Installs what the tests need, if it is missing, and runs every test.
#
# The tests start private RabbitMQ nodes of their own on free ports in temporary folders; no service
# has to run. RELAY_RABBITMQ=/path/to/rabbitmq-server runs them against another version.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${RELAY_RABBITMQ:-}" ] && [ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
    tests/apt-install.sh rabbitmq-server
fi
exec cargo test "$@"
