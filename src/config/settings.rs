//! The settings themselves. The doc comments are the operator's manual: they are printed as they
//! stand, so they speak to operators.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, ServerName, server_name};

use crate::calls::{Calls, Rendezvous, Turn};
use crate::describe::settings;
use crate::mail::Email;
use crate::push::Push;
use crate::values::{FederationMode, HashingCost, LogFormat, Rate, Secret};

settings! {
    /// All settings.
    pub struct Config {
        /// The name of this server: the part after the colon in `@alice:example.org`. It can
        /// never be changed once there are users or rooms.
        required server_name: OwnedServerName = server_name!("localhost").to_owned(), like "\"example.org\"";

        /// Where clients reach this server, without a slash at the end. Clients and other
        /// servers are told so at /.well-known/matrix. By default `https://` and the server name.
        value public_baseurl: Option<String> = None, like "\"https://matrix.example.org\"";

        /// The folder for everything the server keeps: database, media, signing key.
        value data_dir: PathBuf = PathBuf::from("data");

        /// The networks of your reverse proxies. Where a request comes from is read from their
        /// X-Forwarded-For header; from anyone else that header is not believed.
        value trusted_proxies: Vec<IpNet> = loopback();

        /// Where the server listens; repeat it for several. Each listener serves every API. By
        /// default there is one, on 127.0.0.1 port 8008, for a reverse proxy on the same machine.
        tables listeners: Vec<Listener> = Vec::new();

        /// Who may make an account.
        table registration: Registration = Registration::default();

        /// How passwords are kept.
        table password_hashing: PasswordHashing = PasswordHashing::default();

        /// Limits on how fast one user or address may do things.
        table rate_limits: RateLimits = RateLimits::default();

        /// Tools for operators.
        table admin: Admin = Admin::default();

        /// Whom people can ask for help, told at /.well-known/matrix/support.
        table support: Support = Support::default();

        /// New rooms.
        table rooms: Rooms = Rooms::default();

        /// Other servers.
        table federation: Federation = Federation::default();

        /// The consortium that this server belongs to.
        table consortium: Consortium = Consortium::default();

        /// Connections that this server opens because of what others tell it.
        table outbound: Outbound = Outbound::default();

        /// Uploaded files.
        table media: Media = Media::default();

        /// What links in messages lead to.
        table url_previews: UrlPreviews = UrlPreviews::default();

        /// Who is there.
        table presence: Presence = Presence::default();

        /// What people are notified of.
        table push: Push = Push::default();

        /// Mail: with it people can add e-mail addresses to their accounts, and get a new password when they have
        /// forgotten theirs.
        table email: Email = Email::default();

        /// TURN servers: through them calls reach people behind firewalls.
        table turn: Turn = Turn::default();

        /// Group calls.
        table calls: Calls = Calls::default();

        /// Signing in a new device by a QR code.
        table rendezvous: Rendezvous = Rendezvous::default();

        /// Whom and what you keep away.
        table moderation: Moderation = Moderation::default();

        /// What you tell your users.
        table server_notices: ServerNotices = ServerNotices::default();

        /// Bridges and bots.
        table appservices: Appservices = Appservices::default();

        /// The log, on standard error.
        table log: Log = Log::default();

        /// Figures for Prometheus.
        table metrics: Metrics = Metrics::default();
    }
}

settings! {
    /// One address to listen on.
    pub struct Listener {
        /// An address of this machine; `0.0.0.0` or `::` for all of them.
        value address: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

        /// The port. 8448 is where other servers look by themselves.
        value port: u16 = 8008;

        /// The certificate chain, PEM. Without it this listener speaks plain HTTP. The file is
        /// read again on SIGHUP.
        value tls_certificate: Option<PathBuf> = None, like "\"tls.crt\"";

        /// The private key of the certificate, PEM.
        value tls_private_key: Option<PathBuf> = None, like "\"tls.key\"";
    }
}

settings! {
    /// Who may make an account.
    pub struct Registration {
        /// Whether people can make accounts by themselves. `resuni user create` works always.
        value enabled: bool = false;

        /// Whether they need a token for it; `resuni token create` makes one.
        value require_token: bool = false;

        /// Whether they need an e-mail address that they can read mail of; it takes the settings in `email`.
        value require_email: bool = false;

        /// Whether guests (accounts without a password) are let in.
        value guests: bool = false;

        /// Whoever knows this may make accounts, administrators too, at
        /// /_synapse/admin/v1/register. None by default.
        value shared_secret: Option<Secret> = None, like "\"a long random text\"";
    }
}

settings! {
    /// How passwords are kept.
    pub struct PasswordHashing {
        /// "normal", or "minimum" for tests: then a stolen database gives the passwords away.
        value cost: HashingCost = HashingCost::Normal;
    }
}

settings! {
    /// Limits on speed. `burst` requests may come at once, `per_minute` in the long run. A person
    /// never meets the defaults.
    pub struct RateLimits {
        /// Whether there are any. Switch them off in tests only.
        value enabled: bool = true;

        /// Sending events, per user.
        value send: Rate = Rate { burst: 200, per_minute: 1200 };

        /// Making accounts, per address.
        value register: Rate = Rate { burst: 5, per_minute: 3 };

        /// Trying passwords, per address.
        value login: Rate = Rate { burst: 10, per_minute: 12 };

        /// Joining and knocking, per user.
        value join: Rate = Rate { burst: 30, per_minute: 60 };

        /// Inviting and making rooms, per user.
        value invite: Rate = Rate { burst: 30, per_minute: 30 };

        /// Uploading, asking for and claiming keys, and messages to devices, per user.
        value keys: Rate = Rate { burst: 1000, per_minute: 3000 };

        /// Requests of other servers, per server.
        value federation: Rate = Rate { burst: 3000, per_minute: 18000 };

        /// Everything else that the specification limits, per user or address.
        value other: Rate = Rate { burst: 100, per_minute: 600 };
    }
}

settings! {
    /// Tools for operators.
    pub struct Admin {
        /// Whether tools such as Element Admin and moderation bots can manage accounts, rooms and files over HTTP, at
        /// /_synapse/admin: with an access token of an administrator only. Do not let your reverse proxy pass these
        /// paths on from the internet. `resuni user` and its kin work always.
        value api: bool = true;
    }
}

settings! {
    /// Whom people can ask for help.
    pub struct Support {
        /// A page about this server.
        value page: Option<String> = None, like "\"https://example.org/help\"";

        /// E-mail addresses of the operators.
        value emails: Vec<String> = Vec::new(), like "[\"operator@example.org\"]";

        /// User ids of the operators.
        value users: Vec<OwnedUserId> = Vec::new(), like "[\"@operator:example.org\"]";
    }
}

settings! {
    /// New rooms.
    pub struct Rooms {
        /// The version of a new room when the client asks for none.
        value default_version: RoomVersionId = RoomVersionId::V12;

        /// Whether threads of any depth by "m.relationship" are kept from now on and can be asked for by
        /// "/event_relationships" (MSC2836). An experiment; threads of the specification need no setting.
        value relationships: bool = false;
    }
}

settings! {
    /// Other servers.
    pub struct Federation {
        /// Whether this server talks to others at all.
        value enabled: bool = true;

        /// "open": with every server; "consortium": with the members listed below only.
        value mode: FederationMode = FederationMode::Open;

        /// Certificates (PEM) of authorities to trust besides the system's. The variables
        /// SSL_CERT_FILE and SSL_CERT_DIR are honoured too.
        value extra_ca_files: Vec<PathBuf> = Vec::new(), like "[]";

        /// Servers that are asked for the signing keys of a server which does not answer itself.
        /// Their word is believed, so name only those you trust.
        value trusted_key_servers: Vec<OwnedServerName> = Vec::new(), like "[\"matrix.org\"]";

        /// For tests: the address of a server by its name, instead of looking it up.
        value destinations: BTreeMap<OwnedServerName, SocketAddr> = BTreeMap::new(), like "{}";
    }
}

settings! {
    /// The consortium.
    pub struct Consortium {
        /// A member server; repeat it for each, this one included.
        tables members: Vec<Member> = Vec::new();
    }
}

settings! {
    /// A member of the consortium.
    pub struct Member {
        /// The name of the operator or network, for people.
        required name: String = String::new(), like "\"Example\"";

        /// The server's name.
        required server_name: OwnedServerName = server_name!("localhost").to_owned(), like "\"example.org\"";

        /// A page to send people to.
        value url: Option<String> = None, like "\"https://example.org\"";

        /// The country, as in ISO 3166-1.
        value country: Option<String> = None, like "\"AT\"";

        /// The main language, as in BCP 47.
        value language: Option<String> = None, like "\"de\"";
    }
}

settings! {
    /// Outgoing connections.
    pub struct Outbound {
        /// Address ranges that are never connected to, so that nobody can make this server talk
        /// to your own network: by default all that are not public. `[]` allows everything.
        value deny_ip_ranges: Vec<IpNet> = private_ranges();
    }
}

settings! {
    /// Uploaded files.
    pub struct Media {
        /// The largest upload, in bytes.
        value max_upload_bytes: u64 = 50 * 1024 * 1024;

        /// Whether files that come from now on are given to signed-in people and other servers only.
        /// What came before is still given to anybody who has its address, as old clients need it.
        value authenticated_only: bool = false;

        /// The most that one user may keep here, in bytes. By default there is no limit.
        value max_bytes_per_user: Option<u64> = None, like "10737418240";

        /// How many days files of other servers are kept after somebody looked at them; they are
        /// fetched again when somebody does. By default for ever.
        value keep_remote_days: Option<u64> = None, like "90";

        /// How many days uploaded files are kept that nobody ever looked at. By default for ever.
        value keep_unseen_days: Option<u64> = None, like "30";

        /// A bucket of an object store that speaks S3, for the bytes of all files.
        table s3: S3 = S3::default();
    }
}

settings! {
    /// A bucket for files. Files that are in the folder when you name one are not moved there:
    /// copy the folder `media` of the data into it, without `incoming`.
    pub struct S3 {
        /// Its name. Without one, files are in the folder of the data.
        value bucket: Option<String> = None, like "\"matrix-media\"";

        /// Where the object store is. By default Amazon's of the region.
        value endpoint: Option<String> = None, like "\"https://s3.example.org\"";

        /// The region.
        value region: String = "us-east-1".to_owned();

        /// The name of the key.
        value access_key_id: Option<String> = None, like "\"a name\"";

        /// The key itself, with which requests are signed.
        value secret_access_key: Option<Secret> = None, like "\"a long random text\"";

        /// What the names of the objects begin with.
        value prefix: String = String::new();
    }
}

settings! {
    /// What links in messages lead to. Your server fetches the pages that its users name: they show
    /// its address to whoever runs them. `outbound.deny_ip_ranges` holds for each connection.
    pub struct UrlPreviews {
        /// Whether there are previews.
        value enabled: bool = false;

        /// Only these domains and those below them. By default all.
        value allowed_domains: Vec<String> = Vec::new(), like "[\"example.org\"]";

        /// Never these domains, nor those below them.
        value denied_domains: Vec<String> = Vec::new(), like "[\"internal.example.org\"]";

        /// The languages that pages are asked for, as in the header Accept-Language.
        value language: String = "en".to_owned();

        /// How many days previews and their pictures are kept. What is older than an hour is looked
        /// at again when somebody asks.
        value keep_days: u64 = 7;
    }
}

settings! {
    /// Who is there.
    pub struct Presence {
        /// Whether people see who of those they share a room with is online. It costs a message to
        /// every server concerned whenever somebody comes or goes.
        value enabled: bool = true;
    }
}

settings! {
    /// Whom and what you keep away.
    pub struct Moderation {
        /// Policy rooms (MSC2313) whose rules count here: users and servers that they ban can't invite people of this
        /// server, and nobody joins rooms that they ban. Somebody of this server has to be in them.
        value policy_rooms: Vec<OwnedRoomId> = Vec::new(), like "[\"!id-of-the-room:example.org\"]";
    }
}

settings! {
    /// What you tell your users, each in a room of their own, by POST to
    /// /_synapse/admin/v1/send_server_notice with an administrator's access token.
    pub struct ServerNotices {
        /// Whether there is such an endpoint, and an account that speaks for the server.
        value enabled: bool = false;

        /// The local part of that account's user id. Nobody may have it yet.
        value localpart: String = "_server".to_owned();

        /// The name of that account.
        value display_name: String = "Server notices".to_owned();

        /// The name of the rooms.
        value room_name: String = "Server notices".to_owned();
    }
}

settings! {
    /// Bridges and bots.
    pub struct Appservices {
        /// Their registration files (YAML).
        value config_files: Vec<PathBuf> = Vec::new(), like "[]";
    }
}

settings! {
    /// The log.
    pub struct Log {
        /// error, warn, info, debug or trace; also for parts: "info,resuni_federation=debug".
        value level: String = "info".to_owned();

        /// "text" for people, "json" for programs.
        value format: LogFormat = LogFormat::Text;
    }
}

settings! {
    /// Figures for Prometheus.
    pub struct Metrics {
        /// Address and port for http://…/metrics. None by default: anyone who reaches it can read.
        value listener: Option<SocketAddr> = None, like "\"127.0.0.1:9008\"";
    }
}

impl Config {
    /// Where clients reach this server, without a slash at the end.
    #[must_use]
    pub fn base_url(&self) -> String {
        match &self.public_baseurl {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("https://{}", self.server_name),
        }
    }

    /// Where other servers reach this one, told at /.well-known/matrix/server: behind the base
    /// URL, as a proxy there passes everything on. None without TLS or without federation.
    #[must_use]
    pub fn federation_address(&self) -> Option<OwnedServerName> {
        let base = self.base_url();
        let host = base
            .strip_prefix("https://")
            .filter(|_| self.federation.enabled)?;
        let host = ServerName::parse(host.split('/').next()?).ok()?;
        match host.port() {
            Some(_) => Some(host),
            None => ServerName::parse(format!("{host}:443")).ok(),
        }
    }

    /// The listeners, or the default one where none is set.
    #[must_use]
    pub fn listeners(&self) -> Vec<Listener> {
        if self.listeners.is_empty() {
            vec![Listener::default()]
        } else {
            self.listeners.clone()
        }
    }

    /// What `resuni serve` runs on without a file: only this machine can reach it, so accounts
    /// are open; nothing goes out.
    #[must_use]
    pub fn local() -> Self {
        let listener = Listener::default();
        Self {
            public_baseurl: Some(format!("http://localhost:{}", listener.port)),
            registration: Registration {
                enabled: true,
                ..Registration::default()
            },
            federation: Federation {
                enabled: false,
                ..Federation::default()
            },
            ..Self::default()
        }
    }
}

#[expect(clippy::expect_used, reason = "literals; a test runs it")]
fn networks(list: &[&str]) -> Vec<IpNet> {
    list.iter()
        .map(|net| net.parse().expect("a literal network"))
        .collect()
}

fn loopback() -> Vec<IpNet> {
    networks(&["127.0.0.0/8", "::1/128"])
}

/// The special-purpose address registries of IANA (RFC 6890), multicast, and the ranges through
/// which an IPv6 address smuggles an IPv4 one.
fn private_ranges() -> Vec<IpNet> {
    networks(&[
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "::1/128",
        "::ffff:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_servers_are_sent_to_the_base_url() {
        let mut config = Config {
            server_name: server_name!("example.org").to_owned(),
            ..Config::default()
        };
        let address = |config: &Config| config.federation_address().map(|a| a.to_string());
        assert_eq!(address(&config).as_deref(), Some("example.org:443"));
        config.public_baseurl = Some("https://matrix.example.org:8443/".to_owned());
        assert_eq!(address(&config).as_deref(), Some("matrix.example.org:8443"));
        config.public_baseurl = Some("http://localhost:8008".to_owned());
        assert_eq!(address(&config), None);
    }
}
