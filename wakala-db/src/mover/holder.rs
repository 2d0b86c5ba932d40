//! Who moves: every transaction of a mover proves first that it still may.

use tokio_postgres::Client;
use tokio_postgres::types::Type;
use wakala_core::Result;

use crate::error::Call;

/// A move and the lease under which this process drives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) move_id: String,
    /// Goes up with each process that takes the move over.
    pub(crate) lease: i64,
}

impl Holder {
    /// The first statement of every transaction of a mover on a shard: fails where another process took the move over,
    /// and keeps it from doing so until the transaction ends. It also marks the transaction in the shard's change
    /// stream, so that the way back does not return what came the way there.
    ///
    /// # Errors
    /// `Conflict` where the lease is another's by now.
    pub(crate) async fn enter(&self, client: &Client) -> Result<()> {
        let call = Call { operation: "mover_enter", subject: format!("move {}", self.move_id), writes: true };
        client
            .query_typed(
                "SELECT wakala_shard.mover_enter($1, $2)",
                &[(&self.move_id, Type::TEXT), (&self.lease, Type::INT8)],
            )
            .await
            .map_err(|error| call.failed(error))?;
        Ok(())
    }
}
