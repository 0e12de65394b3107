//! Ports for servers that must come back at the same address.

use std::{
    fs::{File, OpenOptions},
    net::TcpListener,
};

use anyhow::{Context, bail};

/// Below 32768, where Linux takes the ports of outgoing connections from: such a connection can't
/// sit on the port of a server that is down for a moment.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port that no other test takes while this value lives, whether or not it is listened on.
#[derive(Debug)]
pub struct Port {
    number: u16,
    // Locked as long as it is open. A test that is killed gives its ports up, too.
    _lock: File,
}

impl Port {
    /// Takes a port that nobody listens on.
    pub fn take() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join("resuni-ports");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("{} can't be made", folder.display()))?;
        let width = RANGE.end - RANGE.start;
        let first = rand::random_range(0..width);
        for step in 0..width {
            let number = RANGE.start + (first + step) % width;
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(number.to_string()))?;
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self {
                    number,
                    _lock: lock,
                });
            }
        }
        bail!("every port from {} to {} is taken", RANGE.start, RANGE.end)
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_once() {
        let ports: Vec<Port> = (0..20).map(|_| Port::take().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
        assert!(numbers.iter().all(|number| RANGE.contains(number)));
    }
}
