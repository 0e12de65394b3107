//! Which addresses outgoing requests may reach.
//!
//! A server is made to send requests to names that strangers choose: server names in rooms, well-known
//! delegations, redirects, media hosts. Without a guard each of them is a way into the operator's own
//! network. The check is made on the address that is connected to, after resolution, so neither a
//! redirect nor a DNS answer that changes between two look-ups gets around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The address ranges that outgoing requests may not reach (`outbound.deny_ip_ranges`).
///
/// An IPv6 address that carries an IPv4 address (mapped, compatible, 6to4, NAT64, Teredo, ISATAP) is
/// judged by both, since a gateway on the way may deliver it to the IPv4 one.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    denied: Vec<IpNet>,
}

impl Guard {
    /// A guard that refuses `denied`; an empty list refuses nothing.
    #[must_use]
    pub fn new(denied: Vec<IpNet>) -> Self {
        Self { denied }
    }

    /// Whether a connection to `address` may be opened.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => !self.is_denied(address),
            IpAddr::V6(v6) => {
                !self.is_denied(address)
                    && embedded_v4(v6)
                        .into_iter()
                        .flatten()
                        .all(|v4| !self.is_denied(v4.into()))
            }
        }
    }

    fn is_denied(&self, address: IpAddr) -> bool {
        self.denied.iter().any(|net| net.contains(&address))
    }
}

/// Every IPv4 address that the IPv6 address may stand for.
fn embedded_v4(address: Ipv6Addr) -> [Option<Ipv4Addr>; 3] {
    let o = address.octets();
    let s = address.segments();
    let last = Ipv4Addr::new(o[12], o[13], o[14], o[15]);
    let low = match s {
        // ::ffff:a.b.c.d (mapped), ::ffff:0:a.b.c.d (SIIT) and ::a.b.c.d (compatible, RFC 4291).
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Some(last),
        [0, 0, 0, 0, 0, 0, hi, lo] if hi != 0 || lo > 1 => Some(last),
        // NAT64: the well-known prefix (RFC 6052) and the local-use one (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => Some(last),
        // ISATAP (RFC 5214) under any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Some(last),
        // Teredo (RFC 4380): the client's address, inverted.
        [0x2001, 0, ..] => Some(Ipv4Addr::new(!o[12], !o[13], !o[14], !o[15])),
        _ => None,
    };
    // 6to4 (RFC 3056).
    let six_to_four = (s[0] == 0x2002).then(|| Ipv4Addr::new(o[2], o[3], o[4], o[5]));
    // Teredo's server, in the bits after the prefix.
    let teredo_server =
        (s[0] == 0x2001 && s[1] == 0).then(|| Ipv4Addr::new(o[4], o[5], o[6], o[7]));
    [low, six_to_four, teredo_server]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new(
            [
                "127.0.0.0/8",
                "10.0.0.0/8",
                "192.168.0.0/16",
                "169.254.0.0/16",
                "::1/128",
                "fc00::/7",
            ]
            .iter()
            .map(|net| net.parse().unwrap())
            .collect(),
        )
    }

    #[test]
    fn refuses_denied_ranges_in_every_spelling() {
        for address in [
            "127.0.0.1",
            "10.2.3.4",
            "169.254.169.254",
            "::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:0:10.0.0.1",
            "::10.0.0.1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::10.0.0.1",
            "2001:db8::5efe:10.0.0.1",
            "2001:db8::200:5efe:192.168.1.1",
            // Teredo with the client 10.0.0.1, then with the server 10.0.0.1.
            "2001:0:808:808::f5ff:fffe",
            "2001:0:a00:1::1234:5678",
        ] {
            assert!(
                !guard().allows(address.parse().unwrap()),
                "{address} must be refused"
            );
        }
    }

    #[test]
    fn lets_the_rest_through() {
        for address in [
            "9.9.9.9",
            "2620:fe::fe",
            "::ffff:9.9.9.9",
            "2002:909:909::1",
            "64:ff9b::9.9.9.9",
        ] {
            assert!(
                guard().allows(address.parse().unwrap()),
                "{address} must be allowed"
            );
        }
        assert!(Guard::default().allows("127.0.0.1".parse().unwrap()));
    }
}
