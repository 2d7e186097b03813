#!/bin/sh
# Every shader through the compilers of other platforms, as `double-routing shader` exports it:
#
#   hlsl       Microsoft's DXC, with wgpu's profile and options, but with its warnings
#   spirv      spirv-val, for the oldest and the newest Vulkan that wgpu writes for
#   wgsl       tint, Chrome's compiler, where it is installed
#   registers  Mesa's RADV, which compiles for AMD's GPUs without one: registers, spills and occupancy, as a table
#
#   scripts/shaders.sh [--all] [hlsl] [spirv] [wgsl] [registers]
#
# By default a sample of each kernel's variants, which is enough to meet every value of every name; --all takes every variant.
# What a part needs and is not there is fetched or installed (as root, or with sudo), and what cannot be had is skipped, with a
# line that says why (and fails, where DOUBLE_ROUTING_REQUIRE names the part). For Metal there is no compiler but Apple's: what is known to go wrong there is looked for by the tests of
# the command.
set -eu
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
work=$target/shaders
threads=$(getconf _NPROCESSORS_ONLN)
# A prime, so that the sample does not keep step with the names' values. DXC takes a third of a second for a variant.
every=41
every_hlsl=83
parts=
for argument in "$@"; do
    case "$argument" in
        --all) every=1 every_hlsl=1 ;;
        hlsl | spirv | wgsl | registers) parts="$parts $argument" ;;
        *) echo "scripts/shaders.sh [--all] [hlsl] [spirv] [wgsl] [registers]: what is $argument?" >&2; exit 2 ;;
    esac
done
parts=${parts:-hlsl spirv wgsl registers}
failed=

# As the tests have it built: for another choice of packages cargo would build their dependencies once more.
cargo test --quiet --workspace --no-run
mkdir -p "$work"

skip() {
    echo "$1: skipped: $2"
    case ",${DOUBLE_ROUTING_REQUIRE:-}," in *",$1,"*) failed="$failed $1" ;; esac
}

# export FOLDER OPTION...: the variants in a folder of that name.
export_to() {
    folder=$work/$1
    shift
    rm -rf "$folder"
    "$target/debug/double-routing" shader --all --output "$folder" "$@"
}

count() { find "$1" -name "*.$2" | wc -l; }

# install COMMAND PACKAGE: whether the command is there now.
install() {
    command -v "$1" >/dev/null && return
    root=
    [ "$(id -u)" = 0 ] || root=sudo
    command -v apt-get >/dev/null && command -v ${root:-true} >/dev/null || return
    echo "Installing $2" >&2
    $root apt-get update -qq && $root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "$2" >/dev/null && command -v "$1" >/dev/null
}

# DXC's library for Linux and its headers come in the source distribution of a Python package.
fetch_dxc() {
    dxc=$work/dxc
    library=$dxc/compushady-0.17.5/compushady/backends
    [ "$(uname -sm)" = 'Linux x86_64' ] || { skip hlsl "DXC is fetched for Linux on x86_64"; return 1; }
    command -v g++ >/dev/null || { skip hlsl "no g++"; return 1; }
    mkdir -p "$dxc"
    if [ ! -e "$library/dxcapi.h" ]; then
        python3 -m pip download --quiet --no-binary :all: --no-deps --dest "$dxc" compushady==0.17.5 >&2 &&
            tar -xzf "$dxc/compushady-0.17.5.tar.gz" -C "$dxc" ||
            { skip hlsl "DXC cannot be fetched: pip download compushady==0.17.5 failed"; return 1; }
    fi
    g++ -std=c++17 -O1 -isystem "$library" -o "$dxc/dxc" scripts/dxc.cpp -ldl -pthread
    library=$library/libdxcompiler_x86_64.so.3.7
}

hlsl() {
    fetch_dxc || return 0
    # wgpu takes the newest profile of the compiler; this one is DXC 1.7.
    export_to hlsl --target hlsl --language 6.7 --every "$every_hlsl"
    one=$(find "$work/hlsl" -name '*.json' | head -n 1)
    options=$(sed -n '/"compiler_options"/,/]/s/^ *"\([^"]*\)",\{0,1\}$/\1/p' "$one")
    # naga puts comparisons into parentheses of their own, which a compiler of C takes for a mistyped assignment.
    find "$work/hlsl" -name '*.hlsl' | sort |
        xargs -n 2000 "$dxc/dxc" "$library" "$threads" $options -Wno-parentheses-equality -- ||
        failed="$failed hlsl"
}

spirv() {
    install spirv-val spirv-tools || { skip spirv "no spirv-val; Debian and Ubuntu have it in spirv-tools"; return 0; }
    # With checks, then as on devices that do them.
    for way in '1.3 vulkan1.1' '1.6 vulkan1.3 --robust-buffers'; do
        set -- $way
        language=$1 environment=$2
        shift 2
        export_to spirv --target spirv --language "$language" "$@" --every "$every"
        # A validator older than cooperative matrices knows their capability not even by name.
        find "$work/spirv" -name '*.spv' -print0 |
            xargs -0 -n 1 -P "$threads" sh -c '
                said=$(spirv-val --target-env "$0" "$1" 2>&1) || case "$said" in
                    *"Invalid capability operand: 6022"*) echo "$1" ;;
                    *) echo "$said: $1" >&2; exit 1 ;;
                esac' "$environment" >"$work/unknown.txt" ||
            failed="$failed spirv"
        unknown=$(wc -l <"$work/unknown.txt")
        echo "spirv-val, $environment: $(count "$work/spirv" spv) files, but for $unknown whose capabilities it does not know"
    done
}

wgsl() {
    command -v tint >/dev/null || { skip wgsl "no tint, Chrome's compiler"; return 0; }
    # Variants with 64-bit integers are left out: these are naga's addition to the language.
    export_to wgsl --target wgsl --every "$every"
    find "$work/wgsl" -name '*.wgsl' -print0 |
        xargs -0 -n 1 -P "$threads" sh -c '
            said=$(tint --format wgsl --output-name /dev/null "$0" 2>&1) && [ -z "$said" ] || { echo "$0: $said" >&2; exit 1; }' ||
        failed="$failed wgsl"
    echo "tint: $(count "$work/wgsl" wgsl) files"
}

# A table for each chip: every tile and every storage type, with whole quads.
registers() {
    icd=$(find /usr/share/vulkan/icd.d /etc/vulkan/icd.d -name 'radeon_icd*.json' 2>/dev/null | head -n 1)
    [ -n "$icd" ] || { skip registers "no RADV; Debian and Ubuntu have it in mesa-vulkan-drivers"; return 0; }
    export_to registers matmul --target spirv --language 1.6 --robust-buffers B_TRANSPOSED=true \
        a_ACCESS=quads b_ACCESS=quads c_ACCESS=quads a_TYPE=f32
    for chip in navi21 gfx1100; do
        table=$work/registers-$chip.md
        if VK_ICD_FILENAMES=$icd RADV_FORCE_FAMILY=$chip "$target/debug/examples/registers" "$work/registers" >"$table"; then
            echo "registers: $table: $(head -n 1 "$table")"
        else
            skip registers "this RADV does not compile for $chip"
        fi
    done
}

for part in $parts; do
    started=$(date +%s)
    $part
    echo "$part: $(($(date +%s) - started)) s"
done
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
