//! Which addresses are previewed at all. Pure; which hosts may be reached is judged again by their IP addresses, when
//! they are connected to.

use url::{Host, Url};

/// The longest address, in bytes.
const ADDRESS_BYTES: usize = 2_048;

/// The operator's lists of domains.
#[derive(Clone, Debug, Default)]
pub(super) struct Domains {
    /// Where this is not empty, nothing else is previewed.
    pub allowed: Vec<String>,
    /// These are never previewed.
    pub denied: Vec<String>,
}

/// Whether `host` is the domain or one below it.
fn is_in(host: &str, domain: &str) -> bool {
    let domain = domain.trim_matches('.');
    let Some(at) = host.len().checked_sub(domain.len()) else {
        return false;
    };
    !domain.is_empty()
        && host.is_char_boundary(at)
        && host[at..].eq_ignore_ascii_case(domain)
        && (at == 0 || host.as_bytes()[at - 1] == b'.')
}

impl Domains {
    /// The address as it is asked for, if it may be: `http` or `https`, without a name and a password in it.
    pub fn check(&self, address: &str) -> Option<Url> {
        let url = (address.len() <= ADDRESS_BYTES)
            .then(|| Url::parse(address).ok())
            .flatten()?;
        self.allow(url)
    }

    /// The same of an address that was read already: every hop of redirects, pictures and oEmbed comes by here.
    pub fn allow(&self, mut url: Url) -> Option<Url> {
        let web = matches!(url.scheme(), "http" | "https");
        let open = url.username().is_empty() && url.password().is_none();
        if !web || !open || url.as_str().len() > ADDRESS_BYTES {
            return None;
        }
        let host = match url.host()? {
            Host::Domain(name) => name.trim_end_matches('.').to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        let listed = |list: &[String]| list.iter().any(|domain| is_in(&host, domain));
        if listed(&self.denied) || !self.allowed.is_empty() && !listed(&self.allowed) {
            return None;
        }
        url.set_fragment(None);
        Some(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(allowed: &[&str], denied: &[&str]) -> Domains {
        let list = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        Domains {
            allowed: list(allowed),
            denied: list(denied),
        }
    }

    #[test]
    fn s103_a_domain_is_denied_with_all_below_it() {
        let domains = domains(&[], &["evil.example", "10.0.0.1"]);
        for address in [
            "http://evil.example",
            "https://EVIL.example/x",
            "https://www.evil.example:8443/",
            "https://evil.example./",
            "http://10.0.0.1/",
            "http://0x0a000001/",
        ] {
            assert!(domains.check(address).is_none(), "{address}");
        }
        for address in [
            "http://notevil.example",
            "http://evil.example.org",
            "http://example",
        ] {
            assert!(domains.check(address).is_some(), "{address}");
        }
    }

    #[test]
    fn only_listed_domains_where_there_is_a_list() {
        let domains = domains(&["example.org"], &["private.example.org"]);
        assert!(domains.check("https://www.example.org/").is_some());
        assert!(domains.check("https://example.com/").is_none());
        assert!(domains.check("https://a.private.example.org/").is_none());
    }

    #[test]
    fn only_the_web_and_without_passwords() {
        let all = Domains::default();
        for address in [
            "file:///etc/passwd",
            "gopher://example.org/",
            "ftp://example.org/",
            "javascript:alert(1)",
            "data:text/html,x",
            "http://name:password@example.org/",
            "http://name@example.org/",
            "//example.org",
            "example.org",
            "http://",
            "",
        ] {
            assert!(all.check(address).is_none(), "{address}");
        }
        assert!(
            all.check(&format!("http://example.org/{}", "x".repeat(3_000)))
                .is_none()
        );
        let url = all.check("https://example.org/a?b#c").unwrap();
        assert_eq!(url.as_str(), "https://example.org/a?b");
    }
}
