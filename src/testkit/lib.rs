//! Dev only: whole servers as processes, scenarios.
