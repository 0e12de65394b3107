//! What takes bytes from outside, one module for each target.

pub mod canonical;
pub mod events;
pub mod names;
pub mod resolution;
pub mod tokens;
pub mod transactions;
