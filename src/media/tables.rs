//! What is on disk beside the bytes. The table in `docs/architecture.md` says the same in prose.

use resuni_store::{Table, TableInfo, versioned};
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

/// What is known of a file, by the server and the id in its address.
pub static MEDIA: Table<(String, String), MediaRow> = Table::new(0x0401, "media");
/// Addresses of ours that were given out and have no file yet, by their id.
pub static PROMISES: Table<String, Promise> = Table::new(0x0402, "promised media");
/// The same by the user who got them: user and id.
pub static PROMISES_OF: Table<(String, String), ()> = Table::new(0x0403, "promises of users");
/// Thumbnails that were made: hash of the file, width, height, and the bits of how.
pub static THUMBNAILS: Table<([u8; 32], u32, u32, u8), ThumbnailRow> =
    Table::new(0x0404, "thumbnails");

/// What was found at web addresses, by their SHA-256.
pub static PREVIEWS: Table<[u8; 32], PreviewRow> = Table::new(0x0405, "previews");
/// The same in the order in which they are removed, by time in milliseconds since 1970: the id of the picture, or
/// nothing.
pub static PREVIEWS_DUE: Table<(u64, [u8; 32]), String> = Table::new(0x0406, "previews, due");

/// Which bytes are needed by what: SHA-256, and the address of a file or a thumbnail.
pub static USES: Table<([u8; 32], String), ()> = Table::new(0x0407, "uses of bytes");
/// How much each user has uploaded, in bytes; and a row for nobody, which says that everybody has been counted.
pub static USED: Table<String, u64> = Table::new(0x0408, "used by users");
/// When somebody looked at a file, to the day, in milliseconds since 1970; server and id.
pub static SEEN: Table<(String, String), u64> = Table::new(0x0409, "media, seen");

/// Bytes that nobody is given, by their SHA-256.
pub static QUARANTINED: Table<[u8; 32], Quarantined> = Table::new(0x040c, "quarantined bytes");
/// Addresses whose files nobody is given: server and id.
pub static QUARANTINED_ADDRESSES: Table<(String, String), Quarantined> =
    Table::new(0x040d, "quarantined addresses");
/// Files that are not to be quarantined: server and id.
pub static PROTECTED: Table<(String, String), ()> = Table::new(0x040e, "protected media");

/// All tables of this crate.
pub const TABLES: &[TableInfo] = &[
    MEDIA.info(),
    PROMISES.info(),
    PROMISES_OF.info(),
    THUMBNAILS.info(),
    PREVIEWS.info(),
    PREVIEWS_DUE.info(),
    USES.info(),
    USED.info(),
    SEEN.info(),
    QUARANTINED.info(),
    QUARANTINED_ADDRESSES.info(),
    PROTECTED.info(),
];

/// A row of [`MEDIA`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaRow {
    /// SHA-256 of the bytes.
    pub hash: [u8; 32],
    /// How many bytes.
    pub bytes: u64,
    /// The `Content-Type` that was given.
    pub content_type: Option<String>,
    /// The name that was given.
    pub filename: Option<String>,
    /// Who uploaded it.
    pub uploader: Option<OwnedUserId>,
    /// When it came, in milliseconds since 1970.
    pub created_ms: u64,
    /// Whether it came when files were for signed-in readers only.
    pub authenticated_only: bool,
}
versioned!(MediaRow, 2, from 1 => v1::MediaRow);

/// A row of [`QUARANTINED`] and [`QUARANTINED_ADDRESSES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The operator who did it.
    pub by: OwnedUserId,
    /// When, in milliseconds since 1970.
    pub since_ms: u64,
}
versioned!(Quarantined, 1);

/// A row of [`PROMISES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Who may upload there.
    pub user: OwnedUserId,
    /// Until when, in milliseconds since 1970.
    pub expires_ms: u64,
}
versioned!(Promise, 1);

/// A row of [`THUMBNAILS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThumbnailRow {
    /// SHA-256 of its bytes; none where the file itself is small enough.
    pub hash: Option<[u8; 32]>,
    /// How many bytes.
    pub bytes: u64,
    /// Its type.
    pub content_type: String,
}
versioned!(ThumbnailRow, 1);

/// A row of [`PREVIEWS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewRow {
    /// When it was found, in milliseconds since 1970.
    pub found_ms: u64,
    /// When it is removed.
    pub due_ms: u64,
    /// What the page says, as JSON; none where it could not be had.
    pub said: Option<String>,
}
versioned!(PreviewRow, 1);

mod v1 {
    use ruma::OwnedUserId;
    use serde::{Deserialize, Serialize};

    /// Before the unauthenticated endpoints could be frozen.
    #[derive(Serialize, Deserialize)]
    pub struct MediaRow {
        hash: [u8; 32],
        bytes: u64,
        content_type: Option<String>,
        filename: Option<String>,
        uploader: Option<OwnedUserId>,
        created_ms: u64,
    }

    impl From<MediaRow> for super::MediaRow {
        fn from(row: MediaRow) -> Self {
            Self {
                hash: row.hash,
                bytes: row.bytes,
                content_type: row.content_type,
                filename: row.filename,
                uploader: row.uploader,
                created_ms: row.created_ms,
                authenticated_only: false,
            }
        }
    }
}
