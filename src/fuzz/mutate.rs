//! Inputs from inputs: small changes, by a seeded generator.

/// Longest input that changes make.
pub const MAX_BYTES: usize = 64 * 1024;
/// Most changes to one input.
const MAX_CHANGES: u64 = 8;
/// Numbers at which things go wrong.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1.5",
    "1e3",
    "9007199254740991",
    "9007199254740992",
    "-9007199254740992",
    "18446744073709551616",
    "4294967295",
];

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// A generator; the same seed draws the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; zero where there is none.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 {
            return 0;
        }
        usize::try_from(self.draw() % n as u64).unwrap_or_default()
    }
}

/// A new input: one of the corpus with some changes. An empty corpus stands for one empty input.
#[must_use]
pub fn mutated(corpus: &[Vec<u8>], words: &[&str], chance: &mut Chance) -> Vec<u8> {
    let pick = |chance: &mut Chance| corpus.get(chance.below(corpus.len())).cloned();
    let mut input = pick(chance).unwrap_or_default();
    for _ in 0..=chance.draw() % MAX_CHANGES {
        let other = pick(chance).unwrap_or_default();
        change(&mut input, &other, words, chance);
    }
    input.truncate(MAX_BYTES);
    input
}

/// One change; `other` is another input of the corpus.
fn change(input: &mut Vec<u8>, other: &[u8], words: &[&str], chance: &mut Chance) {
    let at = chance.below(input.len() + 1);
    let end = at + chance.below((input.len() - at).min(64) + 1);
    match chance.below(9) {
        0 if at < input.len() => input[at] ^= 1 << chance.below(8),
        1 if at < input.len() => input[at] = chance.draw() as u8,
        2 => drop(input.drain(at..end)),
        3 => {
            let span = input[at..end].to_vec();
            insert(input, at, &span);
        }
        4 => {
            let fresh: Vec<u8> = (0..chance.below(8)).map(|_| chance.draw() as u8).collect();
            insert(input, at, &fresh);
        }
        5 => {
            let from = chance.below(other.len() + 1);
            let to = from + chance.below(other.len() - from + 1);
            insert(input, at, &other[from..to]);
        }
        6 if !words.is_empty() => insert(input, at, words[chance.below(words.len())].as_bytes()),
        7 => replace_number(input, at, chance),
        _ => {
            // Another member of the corpus goes on where this one stops.
            let from = chance.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, what: &[u8]) {
    input.splice(at..at, what.iter().copied());
}

/// The number at or after a place becomes another.
fn replace_number(input: &mut Vec<u8>, at: usize, chance: &mut Chance) {
    let number = NUMBERS[chance.below(NUMBERS.len())];
    let Some(from) = input[at..].iter().position(u8::is_ascii_digit) else {
        return insert(input, at, number.as_bytes());
    };
    let from = at + from;
    let digits = input[from..].iter().take_while(|b| b.is_ascii_digit());
    let to = from + digits.count();
    input.splice(from..to, number.bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs_and_another_makes_others() {
        let corpus = vec![b"{\"depth\":12}".to_vec(), b"other".to_vec()];
        let inputs = |seed| -> Vec<_> {
            let mut chance = Chance::new(seed);
            (0..500)
                .map(|_| mutated(&corpus, &["word"], &mut chance))
                .collect()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
        let joined = inputs(7).concat();
        for expected in ["word", "9007199254740992"] {
            let found = joined.windows(expected.len());
            assert!(found.into_iter().any(|w| w == expected.as_bytes()));
        }
        assert!(mutated(&[], &[], &mut Chance::new(1)).len() <= MAX_BYTES);
    }
}
