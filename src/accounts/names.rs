//! The grammar of user ids.

use ruma::ServerName;

use crate::error::AccountError;

/// The longest user id, sigil and server name included, in bytes.
const USER_ID_BYTES: usize = 255;

/// The local part of a name that somebody wants to register: in lower case, since user ids that
/// differ in case only must not exist (spec appendices, "User Identifiers").
pub(crate) fn new_localpart(wanted: &str, server: &ServerName) -> Result<String, AccountError> {
    let localpart = wanted.to_ascii_lowercase();
    let bad = |why: &str| Err(AccountError::InvalidUsername(why.to_owned()));
    if localpart.is_empty() {
        return bad("it is empty");
    }
    if !localpart.bytes().all(is_user_id_char) {
        return bad("only the letters a-z, digits and the characters . _ = - / + are allowed");
    }
    if localpart.len() + server.as_str().len() + 2 > USER_ID_BYTES {
        return bad("it is too long");
    }
    Ok(localpart)
}

fn is_user_id_char(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/' | b'+')
}

/// The local part that somebody logs in with: a whole user id of this server or its local part, in
/// any case. None when it can't be one of ours.
pub(crate) fn login_localpart(given: &str, server: &ServerName) -> Option<String> {
    let localpart = match given.strip_prefix('@') {
        Some(id) => {
            let (localpart, domain) = id.split_once(':')?;
            (domain == server.as_str()).then_some(localpart)?
        }
        None => given,
    };
    Some(localpart.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn new_names_follow_the_grammar() {
        let server = server_name!("example.org");
        for good in ["alice", "a", "0", "a.b_c=d-e/f+g", "_x"] {
            assert_eq!(new_localpart(good, server).unwrap(), good);
        }
        assert_eq!(new_localpart("Alice", server).unwrap(), "alice");
        for bad in ["", "a b", "é", "a:b", "@a", "a\0", "ａ", "a%", "a#"] {
            assert!(
                matches!(
                    new_localpart(bad, server),
                    Err(AccountError::InvalidUsername(_))
                ),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_user_id_has_at_most_255_bytes() {
        let server = server_name!("example.org");
        let longest = "a".repeat(255 - "@:example.org".len());
        assert!(new_localpart(&longest, server).is_ok());
        assert!(new_localpart(&format!("{longest}a"), server).is_err());
    }

    #[test]
    fn names_to_log_in_with() {
        let server = server_name!("example.org:8448");
        for given in [
            "alice",
            "Alice",
            "@alice:example.org:8448",
            "@ALICE:example.org:8448",
        ] {
            assert_eq!(login_localpart(given, server).as_deref(), Some("alice"));
        }
        for given in ["@alice:example.org", "@alice:elsewhere", "@alice", "@"] {
            assert_eq!(login_localpart(given, server), None);
        }
    }
}
