//! Whether both sides have the same rows.
