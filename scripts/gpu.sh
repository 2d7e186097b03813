#!/bin/sh
# All that a GPU is to be measured by, in one call: is it right, how fast is it, which tiles suit it, and what do other
# libraries reach on the same card. What it prints and writes belongs in benches/results/.
#
#   scripts/gpu.sh RESULTS [part of the adapter's name]
#
# DOUBLE_ROUTING and PEERS name programs that were built elsewhere, for a machine without Cargo; without PEERS and a Cargo that builds them that
# part is left out, and so is PyTorch where Python has none. What the parts print is in RESULTS too, a file each. QUICK=1 tries the script
# itself on a slow adapter; without it a software adapter is refused.
set -eu
results=${1:?usage: scripts/gpu.sh RESULTS [part of the adapter\'s name]}
adapter=${2:-}
mkdir -p "$results"
results=$(cd "$results" && pwd)
OURS=$results/ours.jsonl
export OURS
# Where they are, seen from here.
absolute() { case "$1" in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
DOUBLE_ROUTING=${DOUBLE_ROUTING:+$(absolute "$DOUBLE_ROUTING")}
PEERS=${PEERS:+$(absolute "$PEERS")}
cd "$(dirname "$0")/.."

if [ -z "$DOUBLE_ROUTING" ]; then
    cargo build --release -p double-routing-cli
    DOUBLE_ROUTING=${CARGO_TARGET_DIR:-target}/release/double-routing
fi
if [ -z "$PEERS" ] && command -v cargo >/dev/null && cargo build --release --manifest-path peers/Cargo.toml; then
    PEERS=${CARGO_TARGET_DIR:-peers/target}/release/peers
fi
quick=
large=--large
device=cuda
if [ -n "${QUICK:-}" ]; then
    quick=--quick
    large='--work softmax'
    device=cpu
fi

# A part that fails does not keep the others from being measured.
failed=
part() {
    name=$1
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    log=$results/$(echo "$name" | tr ' ' '-').txt
    # Progress goes to the terminal alone.
    { "$@" && echo passed >"$results/passed"; } | tee "$log"
    [ -e "$results/passed" ] || failed="$failed '$name'"
    rm -f "$results/passed"
}
double_routing() {
    command=$1
    shift
    "$DOUBLE_ROUTING" "$command" ${adapter:+--adapter "$adapter"} "$@"
}

date -u +%Y-%m-%d
"$DOUBLE_ROUTING" adapters | tee "$results/adapters.txt"
# The adapter that is taken, as every report names it.
taken=$(double_routing check --quick --case 'attend 4x4' | sed -n 's/^adapter *//p')
echo "measured: $taken"
case "$taken" in
    *' · software · '*) [ -n "$quick" ] || { echo 'a software adapter: is the driver of the GPU installed? QUICK=1 tries the script on this one' >&2; exit 1; } ;;
esac
part check double_routing check ${quick:+--case softmax}
if double_routing check --quick --experimental --case a=f16 >/dev/null 2>&1; then
    part 'check matrix units' double_routing check --experimental ${quick:+--quick} --case a=f16 --case x=f16
    # The table takes one of these for a product; a tuning of one row has every product of f16 by f16 take it.
    for tile in '32x4 4x2 32 16' '32x4 8x4 32 16'; do
        echo "rows<=* columns<=* cooperative $tile" >"$results/tile.txt"
        part "check cooperative $tile" double_routing check --experimental ${quick:+--quick} --case a=f16 --case x=f16 --tuning "$results/tile.txt"
    done
    part 'bench matrix units' double_routing bench $quick --work f16 --experimental
else
    echo 'left out: matrix units, of which this adapter has none that kernels can use' >&2
fi
part bench double_routing bench $quick --picture "$results/roofline.svg"
part growth double_routing growth ${quick:+--quick} --picture "$results/growth.svg"
part tune double_routing tune $quick --output "$results/tuning.txt"
part 'bench tuned' double_routing bench $quick --work matmul --tuning "$results/tuning.txt"
if [ -n "$PEERS" ]; then
    # shellcheck disable=SC2086 # several words
    part ours sh -c '"$0" "$@" >"$OURS"' "$PEERS" --peer none $large --json ${adapter:+--adapter "$adapter"}
    # shellcheck disable=SC2086
    part burn "$PEERS" --peer burn-wgpu ${quick:+--work softmax} ${adapter:+--adapter "$adapter"}
    if python3 -c 'import torch' 2>/dev/null; then
        part pytorch python3 peers/pytorch/forward.py --device "$device" --join "$OURS" ${quick:+--work softmax}
    else
        echo 'left out: PyTorch, which this Python has not' >&2
    fi
else
    echo 'left out: other libraries, whose program is not there' >&2
fi
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
