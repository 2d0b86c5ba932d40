//! The moment in which a tenant changes shards.

use std::time::{Duration, Instant};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::holder::Holder;
use super::link::{Ended, Until};
use super::mover::{Mover, Way};
use super::observer::MoveEvent;
use super::registry::{self, Owner, OwnerState};
use super::side::Side;
use super::spec::MoveMethod;
use super::tenant::literal;
use crate::error::Call;
use crate::shards::{Epoch, ShardId, TenantId};

/// How often a marker must come through in time before the fence.
const IN_TIME: u32 = 3;
/// How often that is tried.
const LAG_ATTEMPTS: u32 = 100;
/// Between two attempts to fence.
pub(super) const FENCE_PAUSE: Duration = Duration::from_millis(100);

/// What a hand-over took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// Who serves the tenant.
    pub shard: ShardId,
    /// In which epoch.
    pub epoch: Epoch,
    /// From the asking for the fence to the commit that opened the tenant again, which is how long its writers were held
    /// up; `None` where it was open already.
    pub pause: Option<Duration>,
}

/// A fence that only needs to be put up.
struct Fence {
    call: Call,
    session: Client,
    statement: Statement,
    holder: Holder,
    tenant: String,
    epoch: i64,
    to: i32,
    sequences: Vec<String>,
}

impl Fence {
    /// The server plans what a session executes first, and looks up what it is made of; that takes longer than to do it.
    /// So it is done beforehand for nobody's tenant.
    async fn rehearse(&self) -> Result<()> {
        let sql = format!(
            "DO $$BEGIN PERFORM wakala_shard.give_up({}, {}, '', 0, 0, '{{}}'); \
             EXCEPTION WHEN SQLSTATE 'WK004' THEN NULL; END$$",
            literal(&self.holder.move_id),
            self.holder.lease
        );
        self.session.batch_execute(&sql).await.map_err(|error| self.call.failed(error))
    }

    async fn give_up(&self) -> Result<Fenced> {
        let values: [&(dyn ToSql + Sync); 6] =
            [&self.holder.move_id, &self.holder.lease, &self.tenant, &self.epoch, &self.to, &self.sequences];
        match self.session.query_one(&self.statement, &values).await {
            Ok(_) => Ok(Fenced::Done),
            // lock_timeout, or a deadlock with a writer of two tenants.
            Err(error) if matches!(error.code().map(|code| code.code()), Some("55P03" | "40P01")) => {
                Ok(Fenced::GaveWay)
            }
            Err(error) => Err(self.call.failed(error)),
        }
    }
}

/// What a fence did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fenced {
    /// The shard gave the tenant up, now or before.
    Done,
    /// Writers did not end in time.
    GaveWay,
}

impl Mover {
    /// Makes the destination serve a tenant. Its writers are held up from the fence to the opening: a commit on the source
    /// and one on the destination. Whoever still goes to the source then is refused there (SQLSTATE `WK001`, with the
    /// new shard and epoch), and a [`Router`](crate::Router) goes to the destination by itself.
    ///
    /// Until [`finish`](Self::finish), [`take_back`](Self::take_back) undoes it without loss.
    ///
    /// # Errors
    /// - `Conflict`: the tenant's writers never ended in time, or the destination is too far behind (both safe to retry;
    ///   the source still serves the tenant); another process took the move over.
    /// - `Unavailable`: a connection was lost. Where that was after the fence, nobody serves the tenant until this is
    ///   called again.
    pub async fn hand_over(&mut self, tenant: &TenantId) -> Result<HandOver> {
        self.prepare().await?;
        let place = self.place_of(tenant)?;
        if self.options.method == MoveMethod::Frozen {
            return self.hand_over_frozen(tenant, place).await;
        }
        self.copy_if_needed().await?;
        self.make_back().await?;
        self.hand(tenant, Way::There).await
    }

    /// Makes the source serve a tenant again, with all that happened on the destination since.
    ///
    /// # Errors
    /// As of [`hand_over`](Self::hand_over); `Conflict` also where the way back is lost.
    pub async fn take_back(&mut self, tenant: &TenantId) -> Result<HandOver> {
        self.prepare().await?;
        self.place_of(tenant)?;
        if self.options.method == MoveMethod::Frozen {
            return self.take_back_frozen(tenant).await;
        }
        self.hand(tenant, Way::Back).await
    }

    fn place_of(&self, tenant: &TenantId) -> Result<usize> {
        self.tenants.ids().iter().position(|id| id == tenant.as_str()).ok_or_else(|| {
            self.error(
                ErrorKind::InvalidConfig,
                "hand_over",
                format!("tenant {tenant} is none of its tenants"),
            )
        })
    }

    async fn copy_if_needed(&mut self) -> Result<()> {
        if self.link(Way::There)?.chunks.missing().next().is_some() {
            self.copy(&CancellationToken::new()).await?;
        }
        Ok(())
    }

    async fn hand(&mut self, tenant: &TenantId, way: Way) -> Result<HandOver> {
        let place = self.tenants.ids().iter().position(|id| id == tenant.as_str()).ok_or_else(|| {
            self.error(
                ErrorKind::InvalidConfig,
                "hand_over",
                format!("tenant {tenant} is none of its tenants"),
            )
        })?;
        let tenant = &self.spec.tenants[place].clone();
        let mut pause = None;
        for attempt in 1.. {
            let (from, to) = self.side(way);
            let (from_shard, to_shard) = (from.shard, to.shard);
            let giver = self.owner_on(from, tenant).await?;
            let taker = self.owner_on(to, tenant).await?;
            match (giver.state, taker.state) {
                (_, OwnerState::Owned) => {
                    let epoch = Epoch::new(taker.epoch)?;
                    self.flip(tenant, to_shard, epoch).await?;
                    return Ok(HandOver { shard: to_shard, epoch, pause });
                }
                (OwnerState::Owned, _) => {
                    let fence = self.make_fence(tenant, giver.epoch, way).await?;
                    self.link(way)?.rehearse().await?;
                    self.wait_until_near(way).await?;
                    let begun = Instant::now();
                    self.tell(MoveEvent::Fencing { tenant: tenant.to_string(), attempt });
                    match self.fence(&fence, tenant, way).await? {
                        Fenced::Done => {
                            let took = begun.elapsed();
                            pause = Some(took);
                            self.tell(MoveEvent::Opened {
                                tenant: tenant.to_string(),
                                shard: to_shard,
                                pause: took,
                            });
                        }
                        Fenced::GaveWay => {
                            self.tell(MoveEvent::FenceGaveWay { tenant: tenant.to_string() });
                            self.pause_between(attempt, tenant, from_shard).await?;
                        }
                    }
                }
                (OwnerState::Gone, _) if giver.shard == to_shard.get() => {
                    // Given up before; the token is in the stream.
                    self.receive(tenant, giver.epoch, way, &CancellationToken::new()).await?;
                }
                _ => return Err(self.nobody_serves(tenant, &giver, &taker, way)),
            }
        }
        unreachable!("the loop ends by returning")
    }

    pub(super) fn nobody_serves(&self, tenant: &TenantId, giver: &Owner, taker: &Owner, way: Way) -> Error {
        let (from, to) = self.side(way);
        let message = format!(
            "nobody serves tenant {tenant} ({giver:?} on shard {}, {taker:?} on shard {}), and no token is on its way; look \
             at wakala_shard.owner on both",
            from.shard, to.shard
        );
        self.error(ErrorKind::Conflict, "hand_over", message)
    }

    pub(super) async fn owner_on(&self, side: &Side, tenant: &TenantId) -> Result<Owner> {
        registry::owner(&side.client, tenant.as_str()).await?.ok_or_else(|| {
            let message = format!("shard {} does not know tenant {tenant}; prepare the move", side.shard);
            self.error(ErrorKind::Conflict, "hand_over", message)
        })
    }

    pub(super) fn never_alone(&self, tenant: &TenantId, shard: ShardId, attempts: u32) -> Error {
        let message = format!(
            "transactions of tenant {tenant} on shard {shard} did not end within {:?}, {attempts} times; it still serves the \
             tenant. Look for long transactions (and prepared ones) that hold its advisory lock",
            self.options.fence_patience
        );
        self.error(ErrorKind::Conflict, "fence", message)
            .with_retry(Retry::Safe { after: Some(Duration::from_secs(60)) })
    }

    async fn pause_between(&mut self, attempt: u32, tenant: &TenantId, shard: ShardId) -> Result<()> {
        if attempt >= self.options.fence_attempts {
            return Err(self.never_alone(tenant, shard, attempt));
        }
        let stop = CancellationToken::new();
        let timer = async {
            tokio::time::sleep(FENCE_PAUSE).await;
            stop.cancel();
            Ok(())
        };
        futures::try_join!(self.follow(&stop), timer).map(drop)
    }

    /// Until what is committed on one side is on the other in a moment, several times in a row: who fences earlier, holds
    /// writers up for as long as the other side is behind.
    async fn wait_until_near(&mut self, way: Way) -> Result<()> {
        let mut in_time = 0;
        for _ in 0..LAG_ATTEMPTS {
            let begun = Instant::now();
            self.catch_up_on(way).await?;
            in_time = if begun.elapsed() <= self.options.lag_budget { in_time + 1 } else { 0 };
            if in_time == IN_TIME {
                return Ok(());
            }
        }
        let message = format!(
            "shard {} is never less than {:?} behind; wait for a quieter time, or raise the budget",
            self.side(way).1.shard,
            self.options.lag_budget
        );
        Err(self
            .error(ErrorKind::Conflict, "fence", message)
            .with_retry(Retry::Safe { after: Some(Duration::from_secs(60)) }))
    }

    /// The fence, and the opening on the other side.
    async fn fence(&mut self, fence: &Fence, tenant: &TenantId, way: Way) -> Result<Fenced> {
        let stopped = CancellationToken::new();
        let give_up = async {
            let answer = fence.give_up().await;
            if !matches!(answer, Ok(Fenced::Done)) {
                stopped.cancel();
            }
            answer
        };
        let (given_up, received) =
            tokio::join!(give_up, self.receive(tenant, fence.epoch + 1, way, &stopped));
        received?;
        given_up
    }

    /// The fence alone.
    pub(super) async fn fence_only(&self, tenant: &TenantId, epoch: i64) -> Result<Fenced> {
        self.make_fence(tenant, epoch, Way::There).await?.give_up().await
    }

    /// All of a fence that can be done before it.
    async fn make_fence(&self, tenant: &TenantId, epoch: i64, way: Way) -> Result<Fence> {
        let call = Call { operation: "fence", subject: format!("tenant {tenant}"), writes: true };
        let (from, to) = self.side(way);
        let session = from.connect().await?;
        let patience = format!(
            "SET synchronous_commit = on; SET lock_timeout = {}",
            self.options.fence_patience.as_millis().max(1)
        );
        session.batch_execute(&patience).await.map_err(|error| call.failed(error))?;
        // Otherwise the server looks for deadlocks while writers wait. Only a superuser may say so.
        let _allowed = session.batch_execute("SET deadlock_timeout = '1h'").await;
        let statement = session
            .prepare_typed(
                "SELECT wakala_shard.give_up($1, $2, $3, $4, $5, $6)",
                &[Type::TEXT, Type::INT8, Type::TEXT, Type::INT8, Type::INT4, Type::TEXT_ARRAY],
            )
            .await
            .map_err(|error| call.failed(error))?;
        let fence = Fence {
            call,
            session,
            statement,
            holder: self.holder()?.clone(),
            tenant: tenant.to_string(),
            epoch,
            to: to.number(),
            sequences: self.sequences(),
        };
        fence.rehearse().await?;
        Ok(fence)
    }

    /// Applies what comes until the tenant's token, and opens the tenant with it.
    async fn receive(
        &mut self,
        tenant: &TenantId,
        epoch: i64,
        way: Way,
        stopped: &CancellationToken,
    ) -> Result<()> {
        loop {
            let until = Until::Token { tenant: tenant.as_str(), epoch, stopped };
            let copied = match self.link(way)?.run(until).await {
                Ok(Ended::NeedsCopy) => self.copy_for_token().await,
                ended => return ended.map(drop).map_err(|error| self.while_fenced(tenant, error)),
            };
            copied.map_err(|error| self.while_fenced(tenant, error))?;
        }
    }

    fn while_fenced(&self, tenant: &TenantId, error: Error) -> Error {
        let message = format!(
            "the hand-over of tenant {tenant} was interrupted; if it was fenced, nobody serves it until the move goes on"
        );
        Error::new(error.kind(), "hand_over", message)
            .on(format!("move {}", self.spec.id))
            .with_retry(error.retry())
            .with_source(error)
    }

    /// The directory says what the shards say.
    pub(super) async fn flip(&self, tenant: &TenantId, to: ShardId, epoch: Epoch) -> Result<()> {
        let known = self.directory.find(tenant).await?;
        if let Some(placement) = &known
            && placement.epoch >= epoch
        {
            return Ok(());
        }
        let Some(placement) = known else {
            return Err(self.error(
                ErrorKind::NotFound,
                "flip",
                format!("the directory does not know tenant {tenant}"),
            ));
        };
        self.directory.flip(tenant, placement.epoch, to, epoch).await?;
        self.tell(MoveEvent::Flipped { tenant: tenant.clone() });
        Ok(())
    }

    /// Of the tables that are moved, as SQL has them.
    pub(super) fn sequences(&self) -> Vec<String> {
        self.catalog.sequences.iter().map(super::discover::Sequence::quoted).collect()
    }
}
