//! The binary: command line, wiring, start and stop.

fn main() {}
