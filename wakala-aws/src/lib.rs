//! AWS targets.
