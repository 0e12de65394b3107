//! The binary: command line, wiring in order, start and stop.

mod allocator;
mod cli;
mod data;
mod doctor;
mod figures;
mod listen;
mod logging;
mod operator;
mod parts;
mod serve;
mod settings;
mod social;
mod stop;
mod web_access;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // One TLS provider for the whole process; an error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = cli::Arguments::parse();
    match cli::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            // The chain of causes, each on its own line: the first says what could not be done.
            eprintln!("resuni: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
