#!/bin/bash
# Compiles the RocksDB that the crate `librocksdb-sys` carries, once, and prints the folder with librocksdb.a,
# for ROCKSDB_LIB_DIR: rocksdb.sh -O1 (tests) or -O3 (what runs). The crate compiles 340 files one by one, and
# nearly all of that time is spent reading the same headers again: 40 minutes of CPU. Twenty files at a time,
# as RocksDB's own unity build does it, it takes 7. With plain `cargo build` the crate does it by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
level=${1:--O1}
[ "$(uname -s)" = Linux ] || exit 1

crates=$(cargo metadata --locked --format-version 1 | grep -oE '"manifest_path":"[^"]+' | cut -d'"' -f4)
folder() { dirname "$(grep -E "/$1-[0-9][^/]*/Cargo.toml$" <<<"$crates")"; }
source=$(folder librocksdb-sys)
flags=("$level" -w -ffunction-sections -fdata-sections -fPIC -std=c++20 -include cstdint
    -I rocksdb/include -I rocksdb -I . -I "$(folder lz4-sys)/liblz4/lib" -I "$(folder zstd-sys)/zstd/lib"
    # What the crate's build.rs defines on Linux.
    -DLZ4=1 -DZSTD=1 -DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DOS_LINUX
    -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT
    -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT)

key=$( (basename "$source"; echo "${flags[@]}"; g++ --version) | sha256sum | cut -c1-12)
kept=$HOME/.cache/resuni/rocksdb
out=$kept/${level#-}-$key
if [ ! -f "$out/librocksdb.a" ]; then
    echo "== compiling RocksDB ($level), once; this takes some minutes" >&2
    rm -rf "$kept/${level#-}"-*
    mkdir -p "$out.new"
    cd "$source"
    { grep -v util/build_version.cc rocksdb_lib_sources.txt | sed 's|^|rocksdb/|'; echo build_version.cc; } |
        sed 's|.*|#include "&"|' | split -l 22 -d --additional-suffix=.cc - "$out.new/part-"
    printf '%s\0' "$out.new"/part-*.cc |
        xargs -0 -P "$(nproc)" -I{} sh -c 'file=$1; shift; echo "   $(basename "$file")" >&2
            exec g++ "$@" -o "${file%.cc}.o" -c "$file"' compile {} "${flags[@]}"
    ar crs "$out.new/librocksdb.a" "$out.new"/part-*.o
    rm "$out.new"/part-*
    mv "$out.new" "$out"
fi
echo "$out"
