//! Ordered key-value tables with typed keys, atomic batches, snapshots and the log. Knows nothing of Matrix.
