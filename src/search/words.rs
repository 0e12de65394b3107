//! What a word is: letters and digits of any script, in lower case.

use std::collections::BTreeSet;

/// Bytes of a word that count.
const MAX_BYTES: usize = 64;
/// Different words of one text that count.
const MAX_WORDS: usize = 500;

/// The words of a text.
pub(crate) fn words(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for word in text.split(|c: char| !c.is_alphanumeric()) {
        if found.len() == MAX_WORDS {
            break;
        }
        if !word.is_empty() {
            found.insert(short(&word.to_lowercase()).to_owned());
        }
    }
    found
}

/// The beginning of a long word.
fn short(word: &str) -> &str {
    let mut end = word.len().min(MAX_BYTES);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    &word[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_of_any_script_and_case() {
        let found: Vec<_> = words("Hello, WORLD! 4x4 – grüße ΣΊΣΥΦΟΣ hello")
            .into_iter()
            .collect();
        assert_eq!(found, ["4x4", "grüße", "hello", "world", "σίσυφος"]);
        let long = "ü".repeat(100);
        assert_eq!(words(&long).first().map(String::len), Some(MAX_BYTES));
        let many = (0..2000).map(|n| format!("{n} ")).collect::<String>();
        assert_eq!(words(&many).len(), MAX_WORDS);
    }
}
