//! Where two devices meet before one of them is logged in (MSC4108, MSC4388): a text of at most 4 KiB under an id that
//! nobody guesses, which both may read and replace for a few minutes. What they say is encrypted between them.
//!
//! All of it is in memory, and bounded: by size, by number, by number for each address, and by time.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    net::IpAddr,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use resuni_store::SharedClock;

use crate::{error::AccountError, secrets};

/// The longest text in bytes.
pub const MAX_RENDEZVOUS_BYTES: usize = 4_096;
/// How long a session lives, in milliseconds: as long as MSC4388 recommends at most.
const LIFETIME_MS: u64 = 300_000;
/// Sessions that are made in that time, and those of them that one address makes. Who ends them early may not make more.
const SESSIONS: usize = 8_192;
const SESSIONS_OF_ADDRESS: usize = 64;

/// Why a session was not made or not written.
#[derive(Debug, thiserror::Error)]
pub enum RendezvousError {
    /// `M_TOO_LARGE` (413)
    #[error("A text here may have at most {MAX_RENDEZVOUS_BYTES} bytes.")]
    TooLarge,
    /// `M_LIMIT_EXCEEDED` (429)
    #[error("There are too many sessions already. Try again later.")]
    TooMany {
        /// When the oldest ends, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// `M_NOT_FOUND` (404)
    #[error("There is no such session, or it has expired.")]
    Unknown,
    /// `M_CONCURRENT_WRITE`: somebody else has written since; this is what is there now.
    #[error("The other device has written meanwhile.")]
    Concurrent(Box<RendezvousText>),
    /// `M_UNKNOWN` (500)
    #[error(transparent)]
    Other(#[from] AccountError),
}

/// What a session holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RendezvousText {
    /// The text.
    pub data: String,
    /// Another one after each write, also of the same text.
    pub token: String,
    /// When it was written, in milliseconds since 1970.
    pub modified_ms: u64,
    /// When the session ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

struct Session {
    text: RendezvousText,
    writes: u64,
}

#[derive(Default)]
struct Sessions {
    by_id: HashMap<String, Session>,
    /// In the order in which they were made, which is that in which they end; with those that were ended early.
    ends: VecDeque<(u64, String, IpAddr)>,
    of_address: HashMap<IpAddr, usize>,
}

/// The sessions of this server.
pub struct Rendezvous {
    clock: SharedClock,
    sessions: Mutex<Sessions>,
}

impl Rendezvous {
    /// None yet.
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            sessions: Mutex::default(),
        }
    }

    /// Begins a session with a text; answers its id.
    pub fn create(
        &self,
        from: IpAddr,
        data: String,
    ) -> Result<(String, RendezvousText), RendezvousError> {
        bounded(&data)?;
        let id = URL_SAFE_NO_PAD.encode(secrets::random::<24>()?);
        let (from, now) = (network(from), self.clock.now_ms());
        let mut sessions = self.sessions.lock();
        sessions.expire(now);
        let of_address = sessions.of_address.get(&from).copied().unwrap_or(0);
        if sessions.ends.len() >= SESSIONS || of_address >= SESSIONS_OF_ADDRESS {
            let oldest = sessions.ends.front().map_or(now, |(at, ..)| *at);
            return Err(RendezvousError::TooMany {
                retry_after_ms: oldest.saturating_sub(now).max(1),
            });
        }
        let text = RendezvousText {
            token: token(&id, 0, &data),
            data,
            modified_ms: now,
            expires_ms: now.saturating_add(LIFETIME_MS),
        };
        sessions.ends.push_back((text.expires_ms, id.clone(), from));
        *sessions.of_address.entry(from).or_default() += 1;
        let session = Session {
            text: text.clone(),
            writes: 0,
        };
        sessions.by_id.insert(id.clone(), session);
        Ok((id, text))
    }

    /// What a session holds.
    pub fn get(&self, id: &str) -> Result<RendezvousText, RendezvousError> {
        let now = self.clock.now_ms();
        let sessions = self.sessions.lock();
        let session = sessions.by_id.get(id);
        let text = session.map(|session| &session.text);
        text.filter(|text| text.expires_ms > now)
            .cloned()
            .ok_or(RendezvousError::Unknown)
    }

    /// How long a session still lives, in milliseconds.
    pub fn left_ms(&self, text: &RendezvousText) -> u64 {
        text.expires_ms.saturating_sub(self.clock.now_ms())
    }

    /// Puts another text in the place of the one that `token` stands for.
    pub fn put(
        &self,
        id: &str,
        token_seen: &str,
        data: String,
    ) -> Result<RendezvousText, RendezvousError> {
        bounded(&data)?;
        let now = self.clock.now_ms();
        let mut sessions = self.sessions.lock();
        let session = sessions.by_id.get_mut(id);
        let session = session
            .filter(|session| session.text.expires_ms > now)
            .ok_or(RendezvousError::Unknown)?;
        if session.text.token != token_seen {
            return Err(RendezvousError::Concurrent(Box::new(session.text.clone())));
        }
        session.writes += 1;
        session.text.token = token(id, session.writes, &data);
        session.text.data = data;
        session.text.modified_ms = now;
        Ok(session.text.clone())
    }

    /// As [`Self::put`]; who repeats a write whose answer was lost gets that answer (MSC4388).
    pub fn put_again(
        &self,
        id: &str,
        token_seen: &str,
        data: String,
    ) -> Result<RendezvousText, RendezvousError> {
        match self.put(id, token_seen, data.clone()) {
            Err(RendezvousError::Concurrent(now)) if now.data == data => Ok(*now),
            other => other,
        }
    }

    /// Ends a session.
    pub fn delete(&self, id: &str) -> Result<(), RendezvousError> {
        let now = self.clock.now_ms();
        let mut sessions = self.sessions.lock();
        sessions.expire(now);
        let session = sessions.by_id.remove(id);
        session.map(drop).ok_or(RendezvousError::Unknown)
    }
}

impl Sessions {
    fn expire(&mut self, now: u64) {
        while let Some((_, id, from)) = self.ends.pop_front_if(|(at, ..)| *at <= now) {
            self.by_id.remove(&id);
            if let Entry::Occupied(mut count) = self.of_address.entry(from) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

fn bounded(data: &str) -> Result<(), RendezvousError> {
    if data.len() > MAX_RENDEZVOUS_BYTES {
        return Err(RendezvousError::TooLarge);
    }
    Ok(())
}

/// "A hash/digest of the rendezvous ID, a monotonic counter incremented on each successful write, the last data value"
/// (MSC4388).
fn token(id: &str, writes: u64, data: &str) -> String {
    URL_SAFE_NO_PAD.encode(secrets::hash(&format!("{id}\0{writes}\0{data}")).0)
}

/// Of an IPv6 address the network counts: one customer has 2^64 of the rest.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::TestClock;

    fn start() -> (Rendezvous, Arc<TestClock>) {
        let clock = Arc::new(TestClock::default());
        (Rendezvous::new(clock.clone()), clock)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_has_not_seen_the_last_text_may_not_replace_it() {
        let (meet, _) = start();
        let (id, first) = meet.create(address("::1"), "a".into()).unwrap();
        let second = meet.put(&id, &first.token, "a".into()).unwrap();
        assert_ne!(first.token, second.token, "the same text is another write");
        let late = meet.put(&id, &first.token, "b".into());
        assert!(matches!(late, Err(RendezvousError::Concurrent(now)) if *now == second));
        assert_eq!(
            meet.put_again(&id, &first.token, "a".into()).unwrap(),
            second
        );
        let other = meet.put_again(&id, &first.token, "b".into());
        assert!(matches!(other, Err(RendezvousError::Concurrent(_))));
        assert_eq!(meet.get(&id).unwrap(), second);
        meet.delete(&id).unwrap();
        assert!(matches!(meet.get(&id), Err(RendezvousError::Unknown)));
        assert!(matches!(meet.delete(&id), Err(RendezvousError::Unknown)));
    }

    #[test]
    fn sessions_end_by_themselves_and_nothing_remains_of_them() {
        let (meet, clock) = start();
        let (id, text) = meet.create(address("192.0.2.1"), "a".into()).unwrap();
        clock.advance(LIFETIME_MS);
        assert!(matches!(meet.get(&id), Err(RendezvousError::Unknown)));
        let late = meet.put(&id, &text.token, "b".into());
        assert!(matches!(late, Err(RendezvousError::Unknown)));
        meet.create(address("192.0.2.2"), "b".into()).unwrap();
        let sessions = meet.sessions.lock();
        assert_eq!((sessions.by_id.len(), sessions.ends.len()), (1, 1));
        assert_eq!(sessions.of_address.len(), 1);
    }

    #[test]
    fn an_address_has_few_sessions_and_all_together_have_a_limit() {
        let (meet, clock) = start();
        for host in 0..SESSIONS_OF_ADDRESS {
            let from = address(&format!("2001:db8::{host}"));
            meet.create(from, String::new()).unwrap();
        }
        let refused = meet.create(address("2001:db8::ffff:1"), String::new());
        assert!(matches!(refused, Err(RendezvousError::TooMany { .. })));
        let mut made = SESSIONS_OF_ADDRESS;
        while made < SESSIONS {
            let from = address(&format!("10.0.{}.{}", made / 256, made % 256));
            let (id, _) = meet.create(from, String::new()).unwrap();
            // Ending them at once frees no place.
            meet.delete(&id).unwrap();
            made += 1;
        }
        let refused = meet.create(address("192.0.2.1"), String::new());
        assert!(matches!(refused, Err(RendezvousError::TooMany { .. })));
        clock.advance(LIFETIME_MS);
        meet.create(address("192.0.2.1"), String::new()).unwrap();
        let long = "x".repeat(MAX_RENDEZVOUS_BYTES + 1);
        let refused = meet.create(address("192.0.2.1"), long);
        assert!(matches!(refused, Err(RendezvousError::TooLarge)));
    }
}
