//! One of the two shards of a move.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config};
use wakala_core::Result;

use super::connect::ShardAccess;
use super::copy;
use super::registry::{Server, application, one};
use crate::error::Call;
use crate::shards::ShardId;

/// A shard, how it is reached, and a session on it.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) shard: ShardId,
    pub(crate) access: ShardAccess,
    pub(crate) client: Client,
    pub(crate) server: Server,
    move_id: String,
}

impl Side {
    pub(crate) async fn open(move_id: &str, shard: ShardId, access: ShardAccess) -> Result<Self> {
        let client = access.connect(&application(move_id)).await?;
        let server = Server::read(&client, shard.get()).await?;
        Ok(Self { shard, access, client, server, move_id: move_id.to_owned() })
    }

    pub(crate) fn number(&self) -> i32 {
        self.shard.get()
    }

    /// One more session.
    pub(crate) async fn connect(&self) -> Result<Client> {
        self.access.connect(&application(&self.move_id)).await
    }

    /// One that reads rows as they are.
    pub(crate) async fn reader(&self) -> Result<Client> {
        let client = self.connect().await?;
        copy::for_reading(&client).await?;
        Ok(client)
    }

    /// One that writes rows as they are.
    pub(crate) async fn writer(&self) -> Result<Client> {
        let client = self.connect().await?;
        copy::for_writing(&client).await?;
        Ok(client)
    }

    /// What the change stream connects with; its sessions have the move's name too.
    pub(crate) fn stream_config(&self) -> Config {
        let mut config = self.access.config().clone();
        config.application_name(application(&self.move_id));
        config
    }

    /// Puts a marker into this shard's change stream, behind all that was committed before.
    pub(crate) async fn mark(&self, marker: &str) -> Result<()> {
        let call = Call { operation: "mark", subject: format!("shard {}", self.shard), writes: true };
        let sql = "SELECT pg_logical_emit_message(true, 'wakala.marker', $1)::text";
        one(&call, self.client.query_typed(sql, &[(&marker, Type::TEXT)]).await).map(drop)
    }
}
