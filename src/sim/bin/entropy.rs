//! The randomness of the operating system, replaced by numbers that follow from the seed.
//!
//! The hash maps of `std` and the generators of `rand` draw their keys and seeds from `getrandom`. With
//! it defined here, in the program that simulates and nowhere else, maps are walked in the same order
//! and back-offs jitter the same way in every run of a seed.
#![expect(unsafe_code, reason = "a symbol of libc is replaced")]

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// All randomness from now on follows from `seed`.
pub fn seed(seed: u64) {
    STATE.store(seed, Ordering::SeqCst);
}

/// Takes the place of libc's.
///
/// # Safety
/// As that of libc: `buffer` must be valid for writes of `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    for offset in 0..length {
        let drawn = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        let mixed = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let byte = ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8;
        // SAFETY: the caller promises that `buffer` has `length` bytes.
        unsafe { buffer.add(offset).write(byte) };
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
