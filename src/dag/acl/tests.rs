use serde_json::json;

use super::*;

#[track_caller]
fn check(content: serde_json::Value, server: &str, expected: bool) {
    let content = serde_json::value::to_raw_value(&content).unwrap();
    let acl = ServerAcl::read(&content);
    assert_eq!(
        acl.allows(server.try_into().unwrap()),
        expected,
        "{server} under {content}"
    );
}

#[test]
fn deny_goes_before_allow() {
    let acl = json!({"allow": ["*"], "deny": ["*.evil.com", "evil.com"]});
    check(acl.clone(), "good.com", true);
    check(acl.clone(), "evil.com", false);
    check(acl.clone(), "sub.evil.com", false);
    check(acl.clone(), "EVIL.com:8448", false);
    check(acl, "evil.com.au", true);
    check(json!({"allow": ["Good.COM"]}), "good.com:1", true);
    check(json!({"allow": ["good.com"]}), "other.com", false);
}

#[test]
fn no_list_allows_nobody() {
    check(json!({}), "good.com", false);
    check(json!({"allow": "*"}), "good.com", false);
    check(json!({"allow": [1, null, "*"]}), "good.com", true);
    check(json!({"allow": ["*"], "deny": "*"}), "good.com", true);
}

#[test]
fn ip_literals() {
    let acl = json!({"allow": ["*"], "allow_ip_literals": false});
    check(acl.clone(), "1.2.3.4", false);
    check(acl.clone(), "1.2.3.4:8448", false);
    check(acl.clone(), "[2001:db8::1]:8448", false);
    check(acl, "host.example", true);
    check(
        json!({"allow": ["*"], "allow_ip_literals": "no"}),
        "1.2.3.4",
        true,
    );
    check(
        json!({"allow": ["*"], "deny": ["1.2.*"]}),
        "1.2.3.4:8448",
        false,
    );
}

#[test]
fn globs() {
    for (pattern, text, expected) in [
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("?", "", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("a*c", "abcbc", true),
        ("a*c", "abcb", false),
        ("*a*b*", "xxaxxbxx", true),
        ("*a*b", "ba", false),
        ("**", "x", true),
        ("a.c", "abc", false),
        ("[a-z]", "b", false),
    ] {
        assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
    }
}

/// A backtracking matcher would not come back from this one.
#[test]
fn pathological_globs_end() {
    let text = "a".repeat(230);
    assert!(!glob(&("a*".repeat(10_000) + "b"), &text));
    assert!(!glob(&("*a".repeat(200) + "*b"), &text));
    assert!(glob(&"*".repeat(60_000), &text));
}

proptest::proptest! {
    #[test]
    fn globs_agree_with_the_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
        fn naive(pattern: &[u8], text: &[u8]) -> bool {
            match (pattern.split_first(), text.split_first()) {
                (None, None) => true,
                (Some((b'*', rest)), _) => {
                    (0..=text.len()).any(|skip| naive(rest, &text[skip..]))
                }
                (Some((b'?', p)), Some((_, t))) => naive(p, t),
                (Some((a, p)), Some((b, t))) => a == b && naive(p, t),
                _ => false,
            }
        }
        proptest::prop_assert_eq!(
            glob(&pattern, &text),
            naive(pattern.as_bytes(), text.as_bytes())
        );
    }
}
