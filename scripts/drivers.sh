#!/usr/bin/env bash
# The kernels on every driver that a Linux machine without a GPU can have, beyond those that scripts/test.sh runs on:
#
#   wide         lavapipe at 512 bits: subgroups of 16
#   swiftshader  Chromium's software Vulkan: another compiler, subgroups of 4, no f16, offsets in steps of 256
#                (both compile slowly: some cases of each kernel, SwiftShader also those at odd offsets)
#   baseline     a device with WebGPU's default limits and no optional feature, on lavapipe and (some cases) llvmpipe (GL); SwiftShader
#                with --all
#   validation   the Khronos validation layer, core and synchronisation checks: any message is a failure; and lavapipe's fresh
#                memory is filled with garbage
#   races        the same layer's instrumented shaders (accesses out of bounds, races in workgroup memory), on kernels for hardware
#   matrices     cooperative matrices, which Mesa 26's lavapipe has: that of Debian's unstable, in a folder of its own under target/
#                (700 MiB; as root, by debootstrap); only where it is asked for
#
#   scripts/drivers.sh [--all] [RUN …]    all cases instead of the quick ones or a choice; only these runs
#   JOBS=1 scripts/drivers.sh             one run at a time; each keeps about one core busy
#
# SwiftShader and the newest validation layer are part of Chromium; where that is missing and this is Debian, it is installed.
# A machine that cannot have it leaves those runs out, and says so; with `drivers` in DOUBLE_ROUTING_REQUIRE that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-${TMPDIR:-/tmp}}"

quick=--quick
if [ "${1:-}" = --all ]; then
    quick=
    shift
fi
wanted=" ${*:-wide swiftshader baseline validation races} "
target=$PWD/${CARGO_TARGET_DIR:-target}
results=$target/drivers
rm -rf "$results"
mkdir -p "$results"

chromium=
for folder in /usr/lib/chromium /opt/google/chrome /usr/lib/chromium-browser; do
    [ -e "$folder/vk_swiftshader_icd.json" ] && chromium=$folder
done
case "$wanted" in
    *swiftshader* | *baseline* | *validation* | *races*)
        if [ -z "$chromium" ] && command -v apt-get >/dev/null && grep -qs '^ID=debian' /etc/os-release; then
            echo 'SwiftShader and the validation layer: installing chromium' >&2
            root=
            [ "$(id -u)" = 0 ] || root=sudo
            if $root apt-get update -qq && $root env DEBIAN_FRONTEND=noninteractive \
                apt-get install -qq -y --no-install-recommends chromium >/dev/null; then
                chromium=/usr/lib/chromium
            fi
        fi
        ;;
esac
if [ -z "$chromium" ]; then
    echo 'skipped: swiftshader, its baseline, validation and races, which need Chromium (or Chrome)'
    case ",${DOUBLE_ROUTING_REQUIRE:-}," in *,drivers,*) exit 1 ;; esac
fi

scripts/adapters.sh
# What is built meanwhile, as by the mutants' tests, must not take its place.
cp "$target/debug/double-routing" "$results"
command=("$results/double-routing")

# run NAME ADAPTER [VARIABLE=VALUE …] -- [arguments of check]: the adapter's line must have the words ADAPTER.
run() {
    local name=$1 adapter=$2 variables=() began=$SECONDS
    shift 2
    while [ "$1" != -- ]; do
        variables+=("$1")
        shift
    done
    shift
    local log="$results/$name.txt"
    if env "${variables[@]}" "${command[@]}" check "$@" >"$log" 2>&1 && grep -q "^adapter .*$adapter" "$log"; then
        echo "ok      $name: $(grep '^all passed' "$log") ($((SECONDS - began)) s)"
    else
        echo "FAILED  $name:"
        cat "$log"
        return 1
    fi
}

# validated NAME SETTING,… [arguments of check]: under the validation layer, which must have been there and said nothing.
validated() {
    local name=$1 settings=$2 folder="$results/$1"
    shift 2
    mkdir -p "$folder"
    cat >"$folder/VkLayer_khronos_validation.json" <<-END
	{"file_format_version": "1.2.0", "layer": {"name": "VK_LAYER_KHRONOS_validation", "type": "GLOBAL",
	"library_path": "$chromium/libVkLayer_khronos_validation.so", "api_version": "1.3.0", "implementation_version": "1",
	"description": "Khronos validation", "instance_extensions": [{"name": "VK_EXT_debug_utils", "spec_version": "1"},
	{"name": "VK_EXT_validation_features", "spec_version": "2"}]}}
	END
    {
        # naga decorates types in a way that newer rules forbid (gfx-rs/wgpu#7696); wgpu silences that one message too.
        echo 'khronos_validation.message_id_filter = 0xb210f7c2'
        echo "khronos_validation.log_filename = $folder/messages.txt"
        echo 'khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG'
        echo 'khronos_validation.report_flags = error,warn'
        tr ',' '\n' <<<"$settings" | sed 's/.*/khronos_validation.& = true/'
    } >"$folder/vk_layer_settings.txt"
    run "$name" llvmpipe VK_LAYER_PATH="$folder" VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation \
        VK_LAYER_SETTINGS_PATH="$folder" LVP_POISON_MEMORY=true -- --backend vulkan "$@"
    if [ ! -e "$folder/messages.txt" ]; then
        echo "FAILED  $name: the validation layer was not loaded"
        return 1
    fi
    # What the layer says of its own settings is no message about the program.
    local about_itself='VALIDATION-SETTINGS|WARNING-Setting-Limit-Adjusted'
    local messages
    messages=$(grep -E '^Validation (Error|Warning)' "$folder/messages.txt" | grep -Ecv "$about_itself" || true)
    echo "        $name: $messages messages"
    if [ "$messages" != 0 ]; then
        cat "$folder/messages.txt"
        return 1
    fi
}

swiftshader=(VK_DRIVER_FILES="$chromium/vk_swiftshader_icd.json" VK_ICD_FILENAMES="$chromium/vk_swiftshader_icd.json")
jobs=()
plan() {
    case "$wanted" in *" $1 "*) jobs+=("$2") ;; esac
}
some=()
[ -z "$quick" ] || some=(--case x33 --case 259x133 --case 300x100 --case 'softmax 9' --case 'attend 13' --case attending --case 'select 9x1025'
    --case 'route_paths 65' --case 'dispatch 255' --case 'path_load 33' --case 'combine 50x3 of 60x33' --case 'combine 19x2'
    --case 'routing 3x17' --case 'routing 3x7' --case 'levels 3x17' --case moe)
wide() { run wide '512 bits' LP_NATIVE_VECTOR_WIDTH=512 -- $quick --backend vulkan "${some[@]}"; }
swiftshader() {
    # Where an operand may start is what it has of its own.
    run swiftshader SwiftShader "${swiftshader[@]}" -- $quick "${some[@]}" ${quick:+--case shift=1}
}
baseline() { run baseline-vulkan llvmpipe -- $quick --backend vulkan --baseline; }
# Subgroups apart, which GL does not have, its kernels are the ones that the tests run.
baseline_gl() { run baseline-gl llvmpipe -- $quick --backend gl --baseline "${some[@]}"; }
baseline_swiftshader() { run baseline-swiftshader SwiftShader "${swiftshader[@]}" -- $quick --baseline; }
validation() { validated validation validate_core,validate_sync,syncval_shader_accesses_heuristic $quick; }
races() {
    local settings=gpuav_enable,gpuav_shader_instrumentation,gpuav_descriptor_checks,gpuav_shader_sanitizer
    settings+=,gpuav_shared_memory_data_race
    if [ -z "$quick" ]; then
        validated races $settings --quick --class discrete
    else
        # The driver takes seconds to compile an instrumented shader: one case for each way that barriers are used.
        validated races $settings --class discrete \
            --case 'matmul 65x63x31 f32 reals bt bias' --case 'matmul 9x33x5 f32 reals bt' --case 'softmax 9x301x1 extreme' \
            --case 'attend 13x129 f32 reals bias' --case 'select 9x1025 k=128 integers lengths' \
            --case 'route_paths 65x256 8 sigmoid 4of8 sum renormalised by 2.5 usual bias=usual margin shift=1' \
            --case 'route_paths 9x1024 6 softmaxofchosen 8of64 max integers bias=integers margin' \
            --case 'dispatch 255x1 to 2 spread counted' --case 'path_load 33x1 usual counts=some' \
            --case 'path_matmul 5 of 17x27x29 f32 reals gathered=2 bias swish shift=2'
    fi
}

matrices() {
    local root=$target/debian tile='cooperative 8x4 4x2 16 8'
    if [ ! -e "$root/usr/share/vulkan/icd.d" ]; then
        rm -rf "$root"
        command -v debootstrap >/dev/null || { apt-get update -qq && apt-get install -qq -y debootstrap >/dev/null; }
        debootstrap --variant=minbase --include=mesa-vulkan-drivers,libvulkan1 unstable "$root" >"$results/debootstrap.txt"
    fi
    cp "${command[0]}" "$root/double-routing"
    echo "rows<=* columns<=* $tile" >"$root/tuning.txt"
    local command=(chroot "$root" /double-routing)
    run matrices 'Mesa 2[6-9]' XDG_RUNTIME_DIR=/tmp RUST_LOG=double_routing=debug -- --backend vulkan --experimental --tuning /tuning.txt \
        --case a=f16 --case x=f16 --case c=f16 --case y=f16 || return 1
    local products
    products=$(grep -c 'compiling .*TILE_SOURCE=cooperative' "$results/matrices.txt" || true)
    echo "        matrices: $products kernels that use them"
    [ "$products" -ge 10 ]
}

# The longest first.
plan matrices matrices
plan wide wide
[ -z "$chromium" ] || plan swiftshader swiftshader
[ -z "$chromium" ] || plan races races
[ -z "$chromium" ] || [ -n "$quick" ] || plan baseline baseline_swiftshader
plan baseline baseline
[ -z "$chromium" ] || plan validation validation
plan baseline baseline_gl
failed=0
running=0
for job in "${jobs[@]}"; do
    if [ $running -ge "${JOBS:-2}" ]; then
        wait -n || failed=$((failed + 1))
        running=$((running - 1))
    fi
    $job &
    running=$((running + 1))
done
while [ $running -gt 0 ]; do
    wait -n || failed=$((failed + 1))
    running=$((running - 1))
done
[ $failed = 0 ] || { echo "$failed runs failed"; exit 1; }
