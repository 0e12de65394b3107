//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::operator::{self, Listed, Request};
use crate::{doctor, serve, settings, social};

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
    /// Accounts of people.
    #[command(subcommand)]
    User(UserCommand),
    /// Tokens that let people register.
    #[command(subcommand)]
    Token(TokenCommand),
    /// The consortium that this server belongs to.
    #[command(subcommand)]
    Consortium(ConsortiumCommand),
    /// Rooms.
    #[command(subcommand)]
    Room(RoomCommand),
    /// The policy rooms that are followed, while the server runs.
    Moderation {
        /// A user, a server or a room: is there a rule against it?
        entity: Option<String>,
        #[command(flatten)]
        file: SettingsFile,
    },
    /// Look at the settings and the data of a server that is stopped, and name what is wrong.
    Doctor {
        /// Walk the whole database: every row that contradicts another is found.
        #[arg(long)]
        database: bool,
        /// Show a room: its version, how many are joined, the digest of its state.
        #[arg(long, value_name = "ROOM_ID")]
        room: Option<String>,
        #[command(flatten)]
        file: SettingsFile,
    },
    /// Say which version this is.
    Version,
}

#[derive(Debug, Subcommand)]
enum ConsortiumCommand {
    /// List the members, and whether each can be reached from here; fails when one can't.
    Status(SettingsFile),
}

#[derive(Debug, Subcommand)]
enum RoomCommand {
    /// Compare the state of a room with every other server in it (MSC4500), while the server runs.
    Check {
        /// The room's id.
        room: String,
        #[command(flatten)]
        file: SettingsFile,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the annotated example file.
    Example,
    /// Read the settings and say what is wrong with them, or what they come to.
    Check(SettingsFile),
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Make an account; without --password-file its password is made up and printed.
    Create {
        /// The part of the user id between the @ and the colon.
        name: String,
        /// An administrator.
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        password: PasswordFile,
        #[command(flatten)]
        file: SettingsFile,
    },
    /// List accounts: all of them, or those that are all that is asked for.
    List {
        /// Administrators.
        #[arg(long)]
        admins: bool,
        /// Deactivated accounts.
        #[arg(long)]
        deactivated: bool,
        /// Locked accounts.
        #[arg(long)]
        locked: bool,
        /// A part of the user id.
        #[arg(long, value_name = "PART")]
        name: Option<String>,
        #[command(flatten)]
        file: SettingsFile,
    },
    /// End an account for ever, and take it out of its rooms, while the server runs.
    Deactivate {
        /// The part of the user id between the @ and the colon.
        name: String,
        #[command(flatten)]
        file: SettingsFile,
    },
    /// Make somebody an administrator.
    SetAdmin {
        /// The part of the user id between the @ and the colon.
        name: String,
        /// Make them one no longer.
        #[arg(long)]
        off: bool,
        #[command(flatten)]
        file: SettingsFile,
    },
    /// Print a token with which somebody logs in once (m.login.token), for who has lost the password.
    LoginToken {
        /// The part of the user id between the @ and the colon.
        name: String,
        #[command(flatten)]
        file: SettingsFile,
    },
    /// Give an account a new password and end its sessions.
    SetPassword {
        /// The part of the user id between the @ and the colon.
        name: String,
        #[command(flatten)]
        password: PasswordFile,
        #[command(flatten)]
        file: SettingsFile,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it.
    Create {
        /// How many people may use it; without: any number.
        #[arg(long)]
        uses: Option<u64>,
        #[command(flatten)]
        file: SettingsFile,
    },
    /// List all tokens.
    List(SettingsFile),
    /// Remove a token. Accounts made with it stay.
    Delete {
        /// The token.
        token: String,
        #[command(flatten)]
        file: SettingsFile,
    },
}

/// A password is not an argument, since others on the machine see those.
#[derive(Debug, Args)]
struct PasswordFile {
    /// A file whose first line is the password; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordFile {
    fn read(&self) -> Result<Option<String>> {
        let Some(path) = &self.password_file else {
            return Ok(None);
        };
        let text = if path.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(path)
        };
        let text = text.with_context(|| format!("{} can't be read.", path.display()))?;
        Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
    }
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
        Command::Doctor {
            database,
            room,
            file,
        } => doctor::doctor(&file, &doctor::Questions { database, room }),
        Command::Moderation { entity, file } => {
            operator::command(&file, &Request::Moderation { entity })
        }
        Command::User(command) => user(command),
        Command::Token(command) => token(command),
        Command::Room(RoomCommand::Check { room, file }) => {
            operator::command(&file, &Request::CheckRoom { room })
        }
        Command::Consortium(ConsortiumCommand::Status(file)) => social::status(&file),
        Command::Version => {
            println!("resuni {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn user(command: UserCommand) -> Result<ExitCode> {
    match command {
        UserCommand::Create {
            name,
            admin,
            password,
            file,
        } => {
            let password = password.read()?;
            operator::command(
                &file,
                &Request::CreateUser {
                    localpart: name,
                    password,
                    admin,
                },
            )
        }
        UserCommand::List {
            admins,
            deactivated,
            locked,
            name,
            file,
        } => {
            let wanted = Listed {
                admins,
                deactivated,
                locked,
                name,
            };
            operator::command(&file, &Request::ListUsers(wanted))
        }
        UserCommand::Deactivate { name, file } => {
            operator::command(&file, &Request::Deactivate { localpart: name })
        }
        UserCommand::SetAdmin { name, off, file } => {
            let (localpart, admin) = (name, !off);
            operator::command(&file, &Request::SetAdmin { localpart, admin })
        }
        UserCommand::LoginToken { name, file } => {
            operator::command(&file, &Request::LoginToken { localpart: name })
        }
        UserCommand::SetPassword {
            name,
            password,
            file,
        } => {
            let password = password.read()?;
            operator::command(
                &file,
                &Request::SetPassword {
                    localpart: name,
                    password,
                },
            )
        }
    }
}

fn token(command: TokenCommand) -> Result<ExitCode> {
    match command {
        TokenCommand::Create { uses, file } => {
            operator::command(&file, &Request::CreateToken { uses })
        }
        TokenCommand::List(file) => operator::command(&file, &Request::ListTokens),
        TokenCommand::Delete { token, file } => {
            operator::command(&file, &Request::DeleteToken { token })
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
