//! Which letters the bytes of a page are. Pure.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// How far into the page it may say so itself, in bytes (HTML, "Determining the character encoding").
const SNIFFED: usize = 1024;

/// The text of a page: what a byte order mark says, else the `Content-Type`, else the page itself, else UTF-8 where it is
/// that and windows-1252 where it is not.
pub(super) fn decode(bytes: &[u8], content_type: Option<&str>) -> String {
    let told = content_type
        .and_then(|kind| after(kind.as_bytes(), b"charset="))
        .or_else(|| after(&bytes[..bytes.len().min(SNIFFED)], b"charset="));
    let encoding = told.unwrap_or_else(|| match std::str::from_utf8(bytes) {
        Ok(_) => UTF_8,
        // Cut in the middle of a character it is still UTF-8.
        Err(error) if error.error_len().is_none() => UTF_8,
        Err(_) => WINDOWS_1252,
    });
    // This honours a byte order mark.
    encoding.decode(bytes).0.into_owned()
}

/// The encoding whose label follows `key`.
fn after(bytes: &[u8], key: &[u8]) -> Option<&'static Encoding> {
    let at = bytes
        .windows(key.len())
        .position(|window| window.eq_ignore_ascii_case(key))?;
    let label: Vec<u8> = bytes[at + key.len()..]
        .iter()
        .copied()
        .skip_while(|byte| matches!(byte, b'"' | b'\'' | b' '))
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':'))
        .take(40)
        .collect();
    Encoding::for_label(&label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_what_is_said_of_them() {
        for (bytes, content_type, expected) in [
            (
                &b"caf\xe9"[..],
                Some("text/html; charset=ISO-8859-1"),
                "café",
            ),
            (b"caf\xe9!", Some("text/html"), "café!"),
            (b"caf\xc3\xa9", Some("text/html"), "café"),
            (b"caf\xc3\xa9", Some("text/html; charset=\"utf-8\""), "café"),
            (b"<meta charset=koi8-r>\xf4", None, "<meta charset=koi8-r>Т"),
            (
                b"<meta http-equiv=content-type content='text/html; CHARSET=Shift_JIS'>\x83e",
                None,
                "<meta http-equiv=content-type content='text/html; CHARSET=Shift_JIS'>テ",
            ),
            (
                b"\xef\xbb\xbfcaf\xc3\xa9",
                Some("text/html; charset=koi8-r"),
                "café",
            ),
            (b"caf\xc3", None, "caf\u{fffd}"),
            (b"plain", Some("text/html; charset=klingon"), "plain"),
        ] {
            assert_eq!(decode(bytes, content_type), expected, "{content_type:?}");
        }
    }
}
