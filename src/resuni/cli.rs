//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::{serve, settings};

/// A Matrix homeserver for a consortium of independent operators.
#[derive(Debug, Parser)]
#[command(name = "resuni", version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGINT or SIGTERM.
    Serve {
        #[command(flatten)]
        file: SettingsFile,
        /// Stop when standard input is closed, so that whoever started the server can't leave it
        /// behind. For tests.
        #[arg(long)]
        exit_on_stdin_eof: bool,
    },
    /// Show or check the settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Say which version this is.
    Version,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the annotated example file.
    Example,
    /// Read the settings and say what is wrong with them, or what they come to.
    Check(SettingsFile),
}

/// Where the settings are.
#[derive(Debug, Args)]
pub(crate) struct SettingsFile {
    /// The configuration file. Without one: this machine only, with safe defaults.
    #[arg(long, value_name = "FILE", env = "RESUNI_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// Does what the command line asks for.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Serve {
            file,
            exit_on_stdin_eof,
        } => serve::serve(&file, exit_on_stdin_eof),
        Command::Config(ConfigCommand::Example) => {
            print!("{}", resuni_config::example());
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(ConfigCommand::Check(file)) => settings::check(&file),
        Command::Version => {
            println!("resuni {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Arguments::command().debug_assert();
    }
}
