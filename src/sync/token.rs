//! The token between two syncs.

use std::{fmt, str::FromStr};

use resuni_store::Position;

/// What a client has seen: all of the log up to a position, and the typing lists up to a serial.
/// Written `s{position}_{typing}`; the rooms read it as a place in a timeline as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncToken {
    /// Of the log.
    pub position: Position,
    /// Of the typing lists, which are not in the log.
    pub typing: u64,
}

/// The text is not a token of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a sync token of this server")]
pub struct BadToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}_{}", self.position.0, self.typing)
    }
}

impl FromStr for SyncToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let (position, typing) = text
            .strip_prefix('s')
            .and_then(|rest| rest.split_once('_'))
            .ok_or(BadToken)?;
        let number = |text: &str| text.parse().map_err(|_| BadToken);
        Ok(Self {
            position: Position(number(position)?),
            typing: number(typing)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let token = SyncToken {
            position: Position(17),
            typing: 4,
        };
        assert_eq!(token.to_string().parse(), Ok(token));
        for bad in ["", "s", "s1", "s_1", "t1_2", "s1_", "s-1_2", "s1_2_3"] {
            assert_eq!(bad.parse::<SyncToken>(), Err(BadToken), "{bad}");
        }
    }
}
