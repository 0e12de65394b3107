#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| resuni_fuzz::targets::events::run(bytes));
