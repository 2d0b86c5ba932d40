//! Starts real servers on loopback for tests.

#[cfg(feature = "aws")]
pub mod aws;
