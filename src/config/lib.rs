//! The settings: one struct, its documentation, its example file.
