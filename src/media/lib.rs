//! Upload and download of media on local disk.
