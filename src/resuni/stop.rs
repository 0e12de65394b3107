//! Why and when the server stops.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// From the wish to stop to the end of the process, whatever is still under way.
pub(crate) const WITHIN: Duration = Duration::from_secs(9);

/// What made the server stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: the service manager.
    Terminate,
    /// Standard input was closed, and `--exit-on-stdin-eof` was given.
    StdinClosed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::StdinClosed => "standard input was closed",
        })
    }
}

/// What comes from outside: signals, and the end of standard input.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    stdin: mpsc::Receiver<()>,
}

/// What the server is to do.
pub(crate) enum Wish {
    /// Read certificates again (SIGHUP).
    Reload,
    /// Stop.
    Stop(Reason),
}

impl Signals {
    /// Begins to listen for signals; from here on they no longer end the process by themselves.
    pub(crate) fn listen(exit_on_stdin_eof: bool) -> Result<Self> {
        let on = |kind| signal(kind).context("Signals can't be listened for.");
        let (sender, stdin) = mpsc::channel(1);
        if exit_on_stdin_eof {
            // A thread of its own: a blocked read of standard input can't be cancelled.
            std::thread::Builder::new()
                .name("stdin".to_owned())
                .spawn(move || {
                    let mut buffer = [0; 64];
                    let mut input = std::io::stdin().lock();
                    while matches!(input.read(&mut buffer), Ok(1..)) {}
                    // An error means that the server is stopping already.
                    let _ = sender.blocking_send(());
                })
                .context("The thread that watches standard input can't be started.")?;
        }
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
            stdin,
        })
    }

    /// Waits for the next wish.
    pub(crate) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop(Reason::Interrupt),
            _ = self.terminate.recv() => Wish::Stop(Reason::Terminate),
            _ = self.hangup.recv() => Wish::Reload,
            // Without the option the sender is dropped at once: then this never comes.
            Some(()) = self.stdin.recv() => Wish::Stop(Reason::StdinClosed),
        }
    }

    /// Waits until somebody insists: a second SIGINT or SIGTERM.
    pub(crate) async fn insisted(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
