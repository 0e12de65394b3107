//! The token between two syncs.

use std::{fmt, str::FromStr};

use resuni_store::Position;

/// What a client has seen: all of the log up to a position, the typing lists up to a serial, and the
/// messages to its device up to a position, which is an earlier one while there are too many for
/// one answer. Written `s{position}_{typing}` or `s{position}_{typing}_{to_device}`; the rooms read
/// it as a place in a timeline as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncToken {
    /// Of the log.
    pub position: Position,
    /// Of the typing lists, which are not in the log.
    pub typing: u64,
    /// Of the messages to the device.
    pub to_device: Position,
}

/// The text is not a token of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a sync token of this server")]
pub struct BadToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}_{}", self.position.0, self.typing)?;
        if self.to_device != self.position {
            write!(f, "_{}", self.to_device.0)?;
        }
        Ok(())
    }
}

impl FromStr for SyncToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let mut parts = text.strip_prefix('s').ok_or(BadToken)?.split('_');
        let mut number = || parts.next().map(|part| part.parse().map_err(|_| BadToken));
        let position = number().ok_or(BadToken)??;
        let token = Self {
            position: Position(position),
            typing: number().ok_or(BadToken)??,
            to_device: Position(number().transpose()?.unwrap_or(position)),
        };
        if number().is_some() || token.to_device > token.position {
            return Err(BadToken);
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (to_device, text) in [(17, "s17_4"), (9, "s17_4_9")] {
            let token = SyncToken {
                position: Position(17),
                typing: 4,
                to_device: Position(to_device),
            };
            assert_eq!(token.to_string(), text);
            assert_eq!(text.parse(), Ok(token));
        }
        for bad in [
            "", "s", "s1", "s_1", "t1_2", "s1_", "s-1_2", "s1_2_3", "s3_2_1_1", "s3_2_",
        ] {
            assert_eq!(bad.parse::<SyncToken>(), Err(BadToken), "{bad}");
        }
    }
}
