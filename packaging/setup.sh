#!/bin/bash
# Installs what is missing for the named purposes, on Debian or Ubuntu: setup.sh build test …
# Says what it does; does nothing where everything is there.
set -euo pipefail
tools=$HOME/.cache/resuni/tools
export PATH=$PATH:/usr/local/go/bin:$tools/go/bin

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

# Hydrogen, a Matrix client for browsers, to be used in one.
web_client() {
    local from to=$HOME/.cache/resuni/web-client sum
    from=$(cd "$(dirname "$0")/../src/testkit/web" && pwd)
    sum=$(cat "$from"/* | sha256sum)
    [ "$(cat "$to/of" 2>/dev/null)" = "$sum" ] && return
    have npm || apt nodejs npm
    echo "== installing Hydrogen into $to"
    rm -rf "$to.new"
    mkdir -p "$to.new/dist"
    cp "$from"/* "$to.new"
    (
        cd "$to.new"
        npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
        node_modules/.bin/esbuild main.js --bundle --format=esm --platform=browser --external:fs --external:path \
            --external:crypto --outfile=dist/main.js --log-level=error
        cp index.html node_modules/@matrix-org/olm/olm* dist
        cd node_modules/hydrogen-view-sdk
        cp lib-build/sw.js asset-build/assets/download-sandbox.html ../../dist
        cp asset-build/assets/main.js ../../dist/worker.js
        cp -r asset-build/assets ../../dist
    )
    rm -rf "$to.new/node_modules" "$to"
    mv "$to.new" "$to"
    echo "$sum" >"$to/of"
}

# Complement needs Go 1.25; from 1.21 on Go fetches the version it needs by itself. Debian's is often older, so
# Go is taken from where it fetches itself from: its module proxy.
go_tools() {
    newer_than_120() { have go && [ "$(go env GOVERSION | sed -E 's/^go1\.([0-9]+).*/\1/')" -ge 21 ]; }
    newer_than_120 && return
    local cpu sum
    case $(uname -m) in
    x86_64) cpu=amd64 sum=f4fa35e13952bae9836a82d8cf077710cd58fee98d31680f94edf435852b1af2 ;;
    aarch64) cpu=arm64 sum=2f51856a090fbee308b1e38e19eb46f59827b1518c61afb4cc46cc4f649b1799 ;;
    *) echo "Go 1.21 or newer is missing" >&2; return 1 ;;
    esac
    have python3 || apt python3
    echo "== installing Go into $tools/go"
    python3 - "$cpu" "$sum" "$tools" <<'PYTHON'
import hashlib, io, os, shutil, sys, urllib.request, zipfile
cpu, wanted, tools = sys.argv[1:]
name = f"golang.org/toolchain@v0.0.1-go1.25.4.linux-{cpu}"
url = f"https://proxy.golang.org/{name.replace('@', '/@v/')}.zip"
data = urllib.request.urlopen(url, timeout=600).read()
found = hashlib.sha256(data).hexdigest()
if found != wanted:
    sys.exit(f"{url} is not what it should be: its SHA-256 is {found}")
shutil.rmtree(f"{tools}/go.new", ignore_errors=True)
zipfile.ZipFile(io.BytesIO(data)).extractall(f"{tools}/go.new")
root = f"{tools}/go.new/{name}"
for folder in ("bin", "pkg/tool"):
    for at, _, files in os.walk(f"{root}/{folder}"):
        for file in files:
            os.chmod(f"{at}/{file}", 0o755)
shutil.rmtree(f"{tools}/go", ignore_errors=True)
os.rename(root, f"{tools}/go")
shutil.rmtree(f"{tools}/go.new")
PYTHON
    newer_than_120 || { echo "Go can't be had here" >&2; return 1; }
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

# mautrix, of which bridges are made, for one that the tests run. python-olm brings libolm and compiles it.
bridge() {
    local venv=$HOME/.cache/resuni/mautrix-venv
    [ -e "$venv/complete" ] && return
    build
    have cmake || apt cmake
    python3 -c 'import venv, ensurepip' 2>/dev/null || apt python3 python3-venv
    [ -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || apt python3-dev
    echo "== installing mautrix into $venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'mautrix==0.21.*' 'python-olm==3.2.*' \
        pycryptodome unpaddedbase64 base58
    touch "$venv/complete"
}

for purpose in "$@"; do
    case $purpose in
    build) build ;;
    test)
        browser
        synapse
        bridge
        # In a shell of its own: in this one nothing would stop at what fails before `||`.
        "$BASH" "$0" web_client || echo "Hydrogen can't be had here: its test is NOT run"
        ;;
    bridge) bridge ;;
    web_client) web_client ;;
    complement) go_tools ;;
    deny) cargo_tool cargo-deny "^0.20" ;;
    deb) cargo_tool cargo-deb "^3" ;;
    bench | synapse) synapse ;;
    *) echo "setup.sh: what is $purpose?" >&2; exit 2 ;;
    esac
done
