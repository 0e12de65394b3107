//! The only writer of room data.
