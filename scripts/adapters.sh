#!/bin/sh
# Sees to it that the adapters that tests run on are there. On Linux they need a Vulkan and a GL adapter; where one is missing and
# this is Debian or Ubuntu, Mesa's software adapters are installed (as root, or with sudo). macOS has Metal, Windows DX12.
#
# A machine that cannot have one of the two: DOUBLE_ROUTING_WITHOUT=gl
set -eu
cd "$(dirname "$0")/.."

# As the tests have it built: for another choice of packages cargo would build their dependencies once more.
cargo test --workspace --no-run
there=$("${CARGO_TARGET_DIR:-target}/debug/double-routing" adapters --json)
there=$(printf %s "$there" | tr -d ' \n')
case "$(uname -s)" in
    Darwin) wanted=metal ;;
    MINGW* | MSYS* | CYGWIN*) wanted=dx12 ;;
    *) wanted="vulkan gl" ;;
esac
missing=
for backend in $wanted; do
    case "$there" in
        *"\"backend\":\"$backend\""*) ;;
        *) case ",${DOUBLE_ROUTING_WITHOUT:-}," in
               *",$backend,"*) ;;
               *) missing="$missing $backend" ;;
           esac ;;
    esac
done

if [ -n "$missing" ]; then
    packages="mesa-vulkan-drivers libvulkan1 libegl1 libgl1-mesa-dri"
    root=
    [ "$(id -u)" = 0 ] || root=sudo
    if command -v apt-get >/dev/null && command -v ${root:-true} >/dev/null; then
        echo "No adapter for:$missing. Installing Mesa's software adapters: $packages" >&2
        $root apt-get update -qq
        $root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null
    else
        echo "No adapter for:$missing. Install a driver for it. Software ones: $packages (Debian, Ubuntu)," >&2
        echo "mesa-vulkan-drivers mesa-dri-drivers (Fedora), vulkan-swrast mesa (Arch)." >&2
        exit 1
    fi
fi
