//! Whether both sides have the same rows.

mod difference;
mod digest;
#[cfg(test)]
mod tests;

pub(crate) use difference::first_difference;
#[cfg(test)]
use digest::Digest;
pub(crate) use digest::digests;
