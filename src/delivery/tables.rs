//! What is on disk.

use resuni_accounts::AccountNum;
use resuni_rooms::{EventNum, RoomNum, UserNum};
use resuni_store::{Corrupt, Key, Namespace, Position, Table, TableInfo, versioned};
use serde::{Deserialize, Serialize};

/// Threads by room number and root event id. Zero is the main timeline and in no table of names.
pub(crate) static THREAD_NUMBERS: Namespace = Namespace::new(0x30, "threads");

/// Whose counts a row is part of. A person's counts are the sum of three: everybody's, that of the
/// people with the same push rules, and their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// What the predefined rules say to anybody.
    Everybody,
    /// What is different for people whose rules have this hash.
    Group(u64),
    /// What is different for one person: they were mentioned, or wrote it themselves.
    User(UserNum),
}

impl Key for Subject {
    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, number) = match self {
            Self::Everybody => (0u8, 0),
            Self::Group(hash) => (1, *hash),
            Self::User(user) => (2, user.0),
        };
        (kind, number).encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        match <(u8, u64)>::decode(input)? {
            (0, 0) => Ok(Self::Everybody),
            (1, hash) => Ok(Self::Group(hash)),
            (2, user) => Ok(Self::User(UserNum(user))),
            _ => Err(Corrupt::new("subject of a tally")),
        }
    }
}

/// The timeline without its threads.
pub(crate) const MAIN: u64 = 0;

/// How many notifications there were up to and with the event at this position: (room, subject,
/// thread, position). What is unread is the difference of two rows.
pub(crate) static TALLIES: Table<(RoomNum, Subject, u64, Position), Tally> =
    Table::new(0x0701, "tallies");
/// What the event at this position was to whom.
pub(crate) static NOTES: Table<(RoomNum, Position), Note> = Table::new(0x0702, "notes");
/// The newest event with a note in each thread.
pub(crate) static NEWEST: Table<(RoomNum, u64), Position> = Table::new(0x0703, "newest of threads");
/// The same in the order of the log, one row for each thread.
pub(crate) static ACTIVE: Table<(RoomNum, Position), u64> = Table::new(0x0704, "active threads");
/// The newest event that one of our users sent to a thread: they have read what was before it.
pub(crate) static SENT: Table<(RoomNum, UserNum, u64), Position> = Table::new(0x0705, "sent");
/// Notifications that a push gateway has not taken yet: (account, app id, push key, position).
pub(crate) static PUSHES: Table<(AccountNum, String, String, Position), PushRow> =
    Table::new(0x0706, "pushes");

/// How far each application service has been told, by its id.
pub(crate) static SERVICES: Table<String, ServiceRow> = Table::new(0x0707, "services");

/// Events to be sent later, by account and delay id.
pub(crate) static DELAYED: Table<(AccountNum, String), DelayedRow> = Table::new(0x0708, "delayed");
/// The same in the order in which they are due, by time in milliseconds since 1970.
pub(crate) static DELAYED_DUE: Table<(u64, String), ()> = Table::new(0x0709, "delayed, due");
/// Whose a delayed event is: the number of the account.
pub(crate) static DELAYED_OWNERS: Table<String, u64> = Table::new(0x070a, "delayed, owners");
/// The delayed event of a transaction: (account, device, room, transaction id).
pub(crate) static DELAYED_TXNS: Table<(AccountNum, String, String, String), String> =
    Table::new(0x070b, "delayed, transactions");

/// The room in which the server speaks to an account.
pub(crate) static NOTICE_ROOMS: Table<AccountNum, String> = Table::new(0x070c, "notice rooms");

/// When notifications were last mailed to a pusher, and how often they may be.
pub(crate) static DIGESTS: Table<(AccountNum, String, String), DigestRow> =
    Table::new(0x0710, "digests");
/// Whose mails the link in them ends, by the SHA-256 of its token.
pub(crate) static UNSUBSCRIBE: Table<[u8; 32], DigestName> = Table::new(0x0711, "unsubscribe");

/// All tables of this crate, for the doctor.
pub static TABLES: &[TableInfo] = &[
    TALLIES.info(),
    NOTES.info(),
    NEWEST.info(),
    ACTIVE.info(),
    SENT.info(),
    PUSHES.info(),
    SERVICES.info(),
    DELAYED.info(),
    DELAYED_DUE.info(),
    DELAYED_OWNERS.info(),
    DELAYED_TXNS.info(),
    NOTICE_ROOMS.info(),
    DIGESTS.info(),
    UNSUBSCRIBE.info(),
];

/// A row of [`TALLIES`]. Differences may be negative, so the sums are signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Events that notify.
    pub notifications: i64,
    /// Those of them that are highlighted.
    pub highlights: i64,
}
versioned!(Tally, 1);

/// A row of [`NOTES`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The thread that the event is in.
    pub thread: u64,
    /// By how much it moved whose counts: notifications, highlights.
    pub moved: Vec<(Subject, i8, i8)>,
}
versioned!(Note, 1);

/// A row of [`PUSHES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRow {
    /// The room.
    pub room: RoomNum,
    /// The event.
    pub event: EventNum,
    /// The actions of the rule that matched, as JSON.
    pub actions: String,
    /// When it was found, in milliseconds since 1970: what is old is not sent any more.
    pub at_ms: u64,
    /// An invite or the like: the event is no part of a timeline, and stays unread until answered.
    pub invite: bool,
}
versioned!(PushRow, 1);

/// A row of [`DIGESTS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestRow {
    /// When the last mail went out, in milliseconds since 1970; zero: never.
    pub last_ms: u64,
    /// How long nothing is mailed after it, in milliseconds.
    pub pause_ms: u64,
    /// What the link that ends the mails shows.
    pub token: String,
}
versioned!(DigestRow, 1);

/// A row of [`UNSUBSCRIBE`]: a pusher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestName {
    /// Whose.
    pub account: AccountNum,
    /// The application.
    pub app_id: String,
    /// The address.
    pub pushkey: String,
}
versioned!(DigestName, 1);

/// A row of [`SERVICES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Everything up to here is in a transaction, or did not concern the service.
    pub cursor: Position,
    /// The id of the next transaction.
    pub next: u64,
    /// The transaction that it has not taken yet.
    pub pending: Option<Pending>,
}
versioned!(ServiceRow, 1);

/// A transaction as it is sent, every time in the same words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its id.
    pub id: u64,
    /// Its body.
    pub body: String,
}

/// A row of [`DELAYED`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayedRow {
    /// Whose.
    pub account: AccountNum,
    /// The room's id.
    pub room: String,
    /// The event's type.
    pub kind: String,
    /// Of a state event.
    pub state_key: Option<String>,
    /// A JSON object.
    pub content: String,
    /// The event it redacts.
    pub redacts: Option<String>,
    /// How long after `since_ms`.
    pub delay_ms: u64,
    /// When it was asked for or restarted, in milliseconds since 1970.
    pub since_ms: u64,
    /// Its row in [`DELAYED_TXNS`].
    pub txn: Option<(AccountNum, String, String, String)>,
    /// For how long it will be sticky (MSC4354).
    pub sticky_ms: Option<u64>,
}
versioned!(DelayedRow, 2, from 1 => v1::DelayedRow);

impl DelayedRow {
    /// When it is to be sent.
    pub fn due_ms(&self) -> u64 {
        self.since_ms.saturating_add(self.delay_ms)
    }
}

/// Rows as they were written before.
mod v1 {
    use resuni_accounts::AccountNum;
    use serde::{Deserialize, Serialize};

    /// Before events could be sticky.
    #[derive(Debug, Clone, Serialize, Deserialize)]
    pub struct DelayedRow {
        pub account: AccountNum,
        pub room: String,
        pub kind: String,
        pub state_key: Option<String>,
        pub content: String,
        pub redacts: Option<String>,
        pub delay_ms: u64,
        pub since_ms: u64,
        pub txn: Option<(AccountNum, String, String, String)>,
    }

    impl From<DelayedRow> for super::DelayedRow {
        fn from(row: DelayedRow) -> Self {
            Self {
                account: row.account,
                room: row.room,
                kind: row.kind,
                state_key: row.state_key,
                content: row.content,
                redacts: row.redacts,
                delay_ms: row.delay_ms,
                since_ms: row.since_ms,
                txn: row.txn,
                sticky_ms: None,
            }
        }
    }
}
