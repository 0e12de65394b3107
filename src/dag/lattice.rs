//! The digest of a room's state: MSC4500's LtHash16.
//!
//! A state is a set of `(type, state key, event id)`. Each element is expanded to 1024 lanes of 16
//! bits, and the lattice is their sum, so that adding or removing an element costs the same in
//! every room, and the order doesn't matter.

use blake2::Blake2b;
use blake2::digest::consts::U32;
use sha3::Shake256;
use sha3::digest::{Digest as _, ExtendableOutput as _, Update as _, XofReader as _};
use std::fmt;

const TAG: &[u8] = b"msc4500_lthash16\x00";
const LANES: usize = 1024;
const BYTES: usize = 2 * LANES;

/// The sum of the elements of a state.
#[derive(Clone, PartialEq, Eq)]
pub struct Lattice([u16; LANES]);

/// 32 bytes that name a state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Lattice {
    /// The empty state.
    pub const fn empty() -> Self {
        Self([0; LANES])
    }

    /// Adds an element. The caller keeps it a set: an element added twice counts twice.
    pub fn add(&mut self, kind: &str, state_key: &str, event_id: &str) {
        self.combine(kind, state_key, event_id, u16::wrapping_add);
    }

    /// Removes an element that was added before.
    pub fn remove(&mut self, kind: &str, state_key: &str, event_id: &str) {
        self.combine(kind, state_key, event_id, u16::wrapping_sub);
    }

    fn combine(&mut self, kind: &str, state_key: &str, event_id: &str, op: fn(u16, u16) -> u16) {
        let mut bytes = [0; BYTES];
        expand(kind, state_key, event_id, &mut bytes);
        for (lane, pair) in self.0.iter_mut().zip(bytes.chunks_exact(2)) {
            *lane = op(*lane, u16::from_le_bytes([pair[0], pair[1]]));
        }
    }

    /// The digest of the state: BLAKE2b-256 of the lattice.
    pub fn digest(&self) -> Digest {
        Digest(Blake2b::<U32>::digest(self.to_bytes()).into())
    }

    /// The lanes, little endian.
    pub fn to_bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        for (pair, lane) in bytes.chunks_exact_mut(2).zip(&self.0) {
            pair.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }

    /// A lattice from its bytes; `None` if there aren't 2048 of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != BYTES {
            return None;
        }
        let mut lanes = [0; LANES];
        for (lane, pair) in lanes.iter_mut().zip(bytes.chunks_exact(2)) {
            *lane = u16::from_le_bytes([pair[0], pair[1]]);
        }
        Some(Self(lanes))
    }
}

impl Default for Lattice {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Lattice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lattice({})", self.digest())
    }
}

impl fmt::Display for Digest {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// SHAKE256 of the tag and the element: `len(type) type len(state_key) state_key event_id`.
fn expand(kind: &str, state_key: &str, event_id: &str, out: &mut [u8; BYTES]) {
    let mut hasher = Shake256::default();
    hasher.update(TAG);
    for field in [kind, state_key] {
        // Fields of an event are at most 255 bytes long, so two bytes hold every length.
        hasher.update(&(field.len() as u16).to_le_bytes());
        hasher.update(field.as_bytes());
    }
    hasher.update(event_id.as_bytes());
    hasher.finalize_xof().read(out);
}

#[cfg(test)]
mod tests;
