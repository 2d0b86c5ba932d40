//! Why a transaction is not committed, and what its errors mean to the router.

use std::error::Error as StdError;

use tokio_postgres::error::DbError;
use wakala_core::{Error, ErrorKind, Retry};

use super::routes::Route;
use crate::error::Call;
use crate::shards::ids::{Epoch, ShardId};

/// The SQLSTATE by which a shard refuses a tenant that it does not have.
const NOT_HERE: &str = "WK001";

/// Why the work of [`Router::run`](crate::Router::run) gives its transaction up. Errors of statements become one by `?`.
#[derive(Debug)]
pub struct Abort(Box<dyn StdError + Send + Sync>);

impl Abort {
    /// For a reason of the application's own, which the caller of `run` finds as the
    /// [`source`](std::error::Error::source) of its error.
    ///
    /// Where an error of a statement is among its own sources, it counts: a refusal by the shard, or a conflict with
    /// another transaction, makes the work run again.
    pub fn because(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(reason.into())
    }

    /// What is to be done about it.
    pub(super) fn setback(self, call: &Call) -> Setback {
        match reason(&*self.0) {
            Some(Reason::NotHere(route)) => return Setback::NotHere { route, words: self.0 },
            Some(Reason::GaveWay) => return Setback::GaveWay(self.0),
            None => {}
        }
        Setback::Final(match self.0.downcast::<tokio_postgres::Error>() {
            Ok(error) => call.failed(*error),
            Err(other) => match other.downcast::<Error>() {
                Ok(error) => *error,
                Err(other) => {
                    let message = "the application gave it up, and nothing of it is committed";
                    let error = Error::new(ErrorKind::Unexpected, call.operation, message).on(&call.subject);
                    error.with_retry(Retry::Never).with_source(other)
                }
            },
        })
    }
}

impl From<tokio_postgres::Error> for Abort {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(Box::new(error))
    }
}

impl From<Error> for Abort {
    fn from(error: Error) -> Self {
        Self(Box::new(error))
    }
}

/// Why a transaction was not committed.
#[derive(Debug)]
pub(super) enum Setback {
    /// The shard does not have the tenant, and may have said who has.
    NotHere { route: Option<Route>, words: Box<dyn StdError + Send + Sync> },
    /// Another transaction was in the way.
    GaveWay(Box<dyn StdError + Send + Sync>),
    /// The application's work had not begun.
    NotBegun(Error),
    /// It is not to be tried again.
    Final(Error),
}

enum Reason {
    NotHere(Option<Route>),
    GaveWay,
}

fn reason(error: &(dyn StdError + 'static)) -> Option<Reason> {
    let mut next = Some(error);
    while let Some(error) = next {
        let answer = error
            .downcast_ref::<tokio_postgres::Error>()
            .and_then(tokio_postgres::Error::as_db_error)
            .or_else(|| error.downcast_ref::<DbError>());
        if let Some(answer) = answer {
            return match answer.code().code() {
                NOT_HERE => Some(Reason::NotHere(answer.detail().and_then(parse))),
                "40001" | "40P01" => Some(Reason::GaveWay),
                _ => None,
            };
        }
        next = error.source();
    }
    None
}

/// Whether it is a refusal by a shard, and whom that names.
pub(super) fn redirect(error: &tokio_postgres::Error) -> Option<Option<Route>> {
    match reason(error) {
        Some(Reason::NotHere(route)) => Some(route),
        _ => None,
    }
}

/// `shard=2 epoch=7`, and nothing else.
fn parse(detail: &str) -> Option<Route> {
    let (shard, epoch) = detail.strip_prefix("shard=")?.split_once(" epoch=")?;
    let shard = ShardId::new(shard.parse().ok()?).ok()?;
    let epoch = Epoch::new(epoch.parse().ok()?).ok()?;
    Some(Route { shard, epoch })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_detail_is_a_route() {
        let route = parse("shard=2 epoch=7").unwrap();
        assert_eq!((route.shard.get(), route.epoch.get()), (2, 7));
        for odd in
            ["", "shard=2", "shard=0 epoch=1", "shard=1 epoch=0", "shard=1 epoch=2 ", "x shard=1 epoch=2"]
        {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
    }
}
