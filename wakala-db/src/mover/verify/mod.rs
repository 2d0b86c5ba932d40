//! Whether both sides have the same rows.

mod difference;
mod digest;
#[cfg(test)]
mod tests;

pub(crate) use difference::differences;

pub(crate) use digest::{Range, digests};
