//! The allocator of the whole process, RocksDB included: jemalloc, which gives memory back.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A wrapper, as a raw pointer can't be shared between threads.
#[repr(transparent)]
struct Options(*const u8);

#[expect(unsafe_code, reason = "points at a constant")]
// SAFETY: the bytes are constant and live as long as the process.
unsafe impl Sync for Options {}

/// What jemalloc reads before the first allocation: unused pages go back to the system after a
/// second, by a thread of its own, and there are few arenas. A homeserver idles most of the time.
#[expect(unsafe_code, reason = "the name is jemalloc's interface")]
// SAFETY: jemalloc reads a C string behind this name; a C literal ends with a zero byte.
#[unsafe(export_name = "malloc_conf")]
static OPTIONS: Options = Options(
    c"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:4,abort_conf:true"
        .as_ptr()
        .cast(),
);
