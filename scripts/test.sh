#!/bin/sh
# Runs all tests, on every adapter that scripts/adapters.sh sees to.
#
#   scripts/test.sh [arguments for cargo test]
set -eu
cd "$(dirname "$0")/.."

# Where this is not set, as in a container, Wayland's library complains once for every GL adapter that is opened.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-${TMPDIR:-/tmp}}"

scripts/adapters.sh
cargo test --workspace "$@"
