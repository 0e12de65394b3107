//! What a device has not seen yet.
