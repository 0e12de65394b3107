#!/bin/bash
# Installs what is missing for the named purposes, on Debian or Ubuntu: setup.sh build test …
# Says what it does; does nothing where everything is there.
set -euo pipefail
tools=$HOME/.cache/resuni/tools
export PATH=$PATH:/usr/local/go/bin

have() { command -v "$1" >/dev/null 2>&1; }

root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

apt() {
    have apt-get || { echo "Please install: $* (this is not a Debian system)" >&2; return 1; }
    echo "== installing $*"
    root apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return
    root apt-get update -qq
    root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# A C++ compiler for RocksDB, and libclang to read its headers.
build() {
    local missing=()
    have make || missing+=(make)
    have g++ || missing+=(g++)
    have pkg-config || missing+=(pkg-config)
    ldconfig -p | grep -q libclang || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null ||
        missing+=(libclang-dev clang)
    [ ${#missing[@]} = 0 ] || apt "${missing[@]}"
    have cargo || { echo "Rust is missing: https://rustup.rs" >&2; return 1; }
}

# A browser for the tests of the pages.
browser() {
    have chromium || have chromium-browser || have google-chrome || apt chromium
}

# Complement needs Go 1.25. From 1.21 on Go fetches the version it needs by itself.
go_tools() {
    newer_than_120() { have go && [ "$(go env GOVERSION | sed -E 's/^go1\.([0-9]+).*/\1/')" -ge 21 ]; }
    newer_than_120 || {
        apt golang-go || true
        newer_than_120 || apt -t "$(. /etc/os-release && echo "$VERSION_CODENAME")-backports" golang-go || true
    }
    newer_than_120 || { echo "Go 1.21 or newer is missing, and Debian has none here" >&2; return 1; }
}

# Tools of Cargo, compiled once and kept.
cargo_tool() {
    [ -x "$tools/bin/$1" ] && return
    echo "== compiling $1, once; this takes some minutes"
    CARGO_TARGET_DIR=$HOME/.cache/resuni/tools-target \
        cargo install --locked --quiet --root "$tools" --version "$2" "$1"
    rm -rf "$HOME/.cache/resuni/tools-target"
}

# Synapse, to federate with and to measure beside, in a Python environment of its own.
synapse() {
    local venv=$HOME/.cache/resuni/synapse-venv
    [ -x "$venv/bin/synapse_homeserver" ] && return
    python3 -c 'import venv, ensurepip' 2>/dev/null || apt python3 python3-venv
    echo "== installing Synapse into $venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'matrix-synapse==1.163.*'
}

for purpose in "$@"; do
    case $purpose in
    build) build ;;
    test) browser; synapse ;;
    complement) go_tools ;;
    deny) cargo_tool cargo-deny "^0.20" ;;
    deb) cargo_tool cargo-deb "^3" ;;
    bench | synapse) synapse ;;
    *) echo "setup.sh: what is $purpose?" >&2; exit 2 ;;
    esac
done
