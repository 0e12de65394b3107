//! The token between two syncs.

use std::{fmt, str::FromStr};

use resuni_store::Position;

/// What a client has seen: all of the log up to a position, the typing lists up to a serial, and the
/// messages to its device up to a position, which is an earlier one while there are too many for
/// one answer, as are the sticky events. Written `s{position}_{typing}`, with `_{to_device}` and
/// `_{sticky}` where these are others; the rooms read it as a place in a timeline as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncToken {
    /// Of the log.
    pub position: Position,
    /// Of the typing lists, which are not in the log.
    pub typing: u64,
    /// Of the messages to the device.
    pub to_device: Position,
    /// Of the sticky events of rooms (MSC4354).
    pub sticky: Position,
}

impl SyncToken {
    /// All that there is up to here.
    pub fn at(position: Position, typing: u64) -> Self {
        Self {
            position,
            typing,
            to_device: position,
            sticky: position,
        }
    }

    /// Whether there was more than one answer could hold, so that the next comes at once.
    pub fn is_behind(&self) -> bool {
        self.to_device < self.position || self.sticky < self.position
    }
}

/// The text is not a token of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a sync token of this server")]
pub struct BadToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}_{}", self.position.0, self.typing)?;
        if self.is_behind() {
            write!(f, "_{}", self.to_device.0)?;
        }
        if self.sticky < self.position {
            write!(f, "_{}", self.sticky.0)?;
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
            sticky: Position(number().transpose()?.unwrap_or(position)),
        };
        if number().is_some() || token.to_device.max(token.sticky) > token.position {
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
        let tokens = [
            (17, 17, "s17_4"),
            (9, 17, "s17_4_9"),
            (17, 3, "s17_4_17_3"),
            (9, 3, "s17_4_9_3"),
        ];
        for (to_device, sticky, text) in tokens {
            let token = SyncToken {
                to_device: Position(to_device),
                sticky: Position(sticky),
                ..SyncToken::at(Position(17), 4)
            };
            assert_eq!(token.to_string(), text);
            assert_eq!(text.parse(), Ok(token));
        }
        for bad in [
            "",
            "s",
            "s1",
            "s_1",
            "t1_2",
            "s1_",
            "s-1_2",
            "s1_2_3",
            "s3_2_1_1_1",
            "s3_2_",
            "s3_2_3_4",
            "s3_2_3_",
        ] {
            assert_eq!(bad.parse::<SyncToken>(), Err(BadToken), "{bad}");
        }
    }
}
