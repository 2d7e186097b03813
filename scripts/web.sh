#!/bin/sh
# Builds the page of web/ into target/web/, whole and ready to be served.
#
#   scripts/web.sh            builds it
#   scripts/web.sh --serve    … and serves it on this machine (PORT, or 8080)
#   scripts/web.sh --test     … and tests it in headless Chromium
#
# A toolchain with the target wasm32-unknown-unknown is all that the build needs: rustup target add wasm32-unknown-unknown.
# Where it cannot be had and this is Debian, Debian's own rustc for the web is unpacked into target/, installed nowhere.
# A test that cannot be done is skipped with a line that says why; with `web` in DOUBLE_ROUTING_REQUIRE that is a failure.
set -eu
cd "$(dirname "$0")/.."
target=$PWD/${CARGO_TARGET_DIR:-target}
case "${CARGO_TARGET_DIR:-}" in /*) target=$CARGO_TARGET_DIR ;; esac
work=$target/wasm
page=$target/web
wasm=wasm32-unknown-unknown
part=${1:-}

# What is missing keeps a test from being done, and a build from being one.
missing() {
    case "$part ,${DOUBLE_ROUTING_REQUIRE:-}," in
        --test*,web,*) ;;
        --test*)
            echo "web: skipped: $1"
            exit 0
            ;;
    esac
    echo "web: $1" >&2
    exit 1
}
step() {
    printf '== web: %s (%d s)\n' "$1" "$(($(date +%s) - began))"
}
began=$(date +%s)

# Unpacks Debian packages, once.
unpack() {
    folder=$1
    shift
    [ -e "$folder/complete" ] && return
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    rm -rf "$folder" && mkdir -p "$folder/packages"
    (cd "$folder/packages" && apt-get download -qq "$@" >/dev/null 2>&1) || return 1
    for package in "$folder"/packages/*.deb; do dpkg-deb -x "$package" "$folder"; done
    rm -r "$folder/packages"
    touch "$folder/complete"
}

debian_rust() {
    command -v apt-cache >/dev/null || return 1
    of() { apt-cache depends "$@" 2>/dev/null; }
    # A machine that never looked does not know its packages.
    [ -n "$(of libstd-rust-web-dev)" ] || apt-get update -qq >/dev/null 2>&1 || return 1
    library=$(of libstd-rust-web-dev | grep -oE 'libstd-rust-web-[0-9][^ ]*') || return 1
    # shellcheck disable=SC2086 # several names
    llvm=$(of $library rustc-web | grep -oE 'libllvm[0-9]+' | sort -u) || return 1
    # shellcheck disable=SC2086
    unpack "$work/rust" rustc-web rust-web-src libstd-rust-web-dev $library $llvm
}

sysroot=$(rustc --print sysroot)
if [ -d "$sysroot/lib/rustlib/$wasm/lib" ]; then
    in_toolchain() { "$@"; }
    standard=
else
    step 'unpacking a compiler'
    debian_rust || missing "the toolchain has no $wasm: rustup target add $wasm"
    linker=$(echo "$sysroot"/lib/rustlib/*/bin/rust-lld)
    [ -x "$linker" ] || missing "the toolchain has no rust-lld: rustup target add $wasm"
    in_toolchain() {
        env RUSTC="$work/rust/usr/bin/rustc" RUSTC_BOOTSTRAP=1 LD_LIBRARY_PATH="$(echo "$work"/rust/usr/lib/*-linux-gnu)" \
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$linker" "$@"
    }
    standard=-Zbuild-std=std,panic_abort
fi

step 'compiling the program'
# What is only tested need not be small and fast.
if [ "$part" = --test ]; then
    export CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_OPT_LEVEL=2 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
fi
(cd web && in_toolchain env CARGO_TARGET_DIR="$work/cargo" \
    cargo build --locked --release --target $wasm -p double-routing-web $standard)
step 'compiling what writes its JavaScript'
(cd web && CARGO_TARGET_DIR="$work/host" cargo build --locked -p bindgen)

rm -rf "$page.new"
mkdir -p "$page.new/program"
"$work/host/debug/bindgen" "$work/cargo/$wasm/release/double_routing_web.wasm" "$page.new/program"
cp web/index.html web/page.css web/page.js cli/data/languages.safetensors cli/data/held_out.tsv cli/data/NOTICE "$page.new"
rm -rf "$page"
mv "$page.new" "$page"
program=$page/program/double_routing_web_bg.wasm
step "the page is in $page; its program has $(($(wc -c <"$program") / 1000)) kB, $(($(gzip -9c "$program" | wc -c) / 1000)) kB gzipped"

case "$part" in
    '') ;;
    --serve)
        command -v python3 >/dev/null || missing "no python3 to serve it with; any server of files does: $page"
        echo "http://localhost:${PORT:-8080}/"
        exec python3 -m http.server --bind 127.0.0.1 --directory "$page" "${PORT:-8080}"
        ;;
    --test)
        command -v python3 >/dev/null || missing 'no python3 to drive a browser with'
        chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || missing 'no chromium to test in'
        driver=$(command -v chromedriver) || {
            # Of the version of the Chromium that is there.
            version=$(dpkg-query -W -f '${Version}' chromium 2>/dev/null) &&
                unpack "$work/driver" "chromium-driver=$version" && driver=$work/driver/usr/bin/chromedriver
        } || missing 'no chromedriver of the version of chromium'
        step 'compiling the command'
        # As the tests have it built: for another choice of packages cargo would build their dependencies once more.
        cargo test --locked --workspace --no-run
        step 'testing in Chromium'
        python3 web/test.py --page "$page" --chromium "$chromium" --driver "$driver" \
            --command "$target/debug/double-routing" --pictures "$work/pictures"
        step 'passed'
        ;;
    *)
        echo 'usage: scripts/web.sh [--serve | --test]' >&2
        exit 2
        ;;
esac
