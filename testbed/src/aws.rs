//! An AWS endpoint on loopback for tests: moto, behind a stateful front that answers what moto lacks or gets wrong.
//!
//! **This is a fake.** It follows the documented API, each rule naming its place in the API reference, but it was never
//! compared with AWS call by call. A test that passes here shows that a client keeps to the documented rules.
//!
//! ```no_run
//! use wakala_testbed::aws::{AwsEndpoint, Fault, Operation};
//!
//! # async fn run() -> wakala_testbed::aws::Result<()> {
//! let aws = AwsEndpoint::builder().start().await?;
//! aws.create_cluster("prod").await?;
//! aws.create_nodegroup("prod", "api", 2, 3, 10).await?;
//! aws.inject(Operation::UpdateNodegroupConfig, Fault::throttled().times(2));
//! // Point a client at aws.endpoint_url() with aws.region(), aws.access_key_id() and aws.secret_access_key().
//! # Ok(())
//! # }
//! ```
//!
//! # What the front answers
//!
//! EKS managed node groups:
//!
//! - `UpdateNodegroupConfig`: sizes merged with the present ones and checked, one update at a time, idempotency by
//!   `clientRequestToken`, `UPDATING` while the update is in progress ([`Builder::update_duration`]), then the change or,
//!   when the update fails, the previous configuration. Labels and taints are handed to moto with the sizes.
//! - `DescribeUpdate` and `ListUpdates` of node-group updates.
//! - `DescribeNodegroup`: moto's answer with the true `status` and `health`.
//! - `DeleteNodegroup`: refused while an update is in progress, else moto's.
//! - An EKS request without an AWS signature is refused. The signature's region is used; the signature is not checked.
//!
//! # What it does not
//!
//! - Everything else goes to moto as it came, with moto's own gaps: clusters and node groups are `ACTIVE` at once,
//!   `CreateNodegroup` checks no sizes and knows no repeated token, deletion is immediate. What moto does not know is
//!   answered with status 501 and the code `NotImplementedByTestbed`.
//! - Policies are not evaluated: [`Fault::access_denied`] is how a test meets a missing permission.
//! - No instances or nodes: [`AwsEndpoint::scaling_events`] tells whoever plays that part.
//! - `CancelUpdate`, cluster and add-on updates, `UpdateNodegroupVersion`, quotas, and limits on labels and taints.
//! - One account.
//!
//! moto comes from `scripts/install-moto`; where it is missing, [`Builder::start`] fails and says so.

mod call;
mod change;
mod eks;
mod error;
mod fault;
mod front;
mod moto;
mod nodegroup;
mod reply;

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, oneshot};

pub use call::{Call, Operation};
pub use error::{Error, Result};
pub use fault::Fault;
pub use nodegroup::{HealthIssue, NodegroupScaled, NodegroupSizes, NodegroupStatus, UpdateOutcome};

use front::{Front, lock};
use moto::Moto;
use nodegroup::GroupId;

const ACCESS_KEY_ID: &str = "testing";
const REGION: &str = "us-east-1";
const SECRET_ACCESS_KEY: &str = "testing";
const UPDATE_DURATION: Duration = Duration::from_millis(300);

/// A running endpoint. Dropping it ends both servers before it returns, which takes some milliseconds; they also end
/// with the process, however that ends.
///
/// It serves from a thread of its own, so it may be shared by tests that each have their own runtime.
#[derive(Debug)]
pub struct AwsEndpoint {
    front: Arc<Front>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    url: String,
}

/// Settings of an [`AwsEndpoint`].
#[derive(Clone, Debug)]
pub struct Builder {
    update_duration: Duration,
}

impl Builder {
    /// How long a node-group update is in progress; 300 ms unless set.
    #[must_use]
    pub fn update_duration(mut self, duration: Duration) -> Self {
        self.update_duration = duration;
        self
    }

    /// Starts moto and the front on free ports of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// [`Error::NotInstalled`] or [`Error::NoCacheFolder`] where moto cannot be found, [`Error::Start`] when a server
    /// did not start. Nothing keeps running then.
    pub async fn start(self) -> Result<AwsEndpoint> {
        let failed = |reason: String| Error::Start { reason };
        let (ready, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("aws-testbed".to_owned())
            .spawn(move || run(&self, ready, stopped))
            .map_err(|error| failed(format!("no thread: {error}")))?;
        let (front, url) = started.await.map_err(|_| failed("its thread ended".to_owned()))??;
        Ok(AwsEndpoint { front, stop: Some(stop), thread: Some(thread), url })
    }
}

type Started = (Arc<Front>, String);

/// The servers' whole life. The runtime ends last and takes every connection and pending update with it.
fn run(builder: &Builder, ready: oneshot::Sender<Result<Started>>, stopped: oneshot::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(Error::Start { reason: format!("no runtime: {error}") }));
            return;
        }
    };
    runtime.block_on(async {
        let (moto, listener, started) = match boot(builder).await {
            Ok(booted) => booted,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let serve = Arc::clone(&started.0).serve(listener);
        // Nobody waits for the endpoint any more: `stopped` ends too, for its sender is gone.
        let _ = ready.send(Ok(started));
        tokio::select! {
            never = serve => match never {},
            _ = stopped => {}
        }
        moto.stop().await;
    });
}

async fn boot(builder: &Builder) -> Result<(Moto, TcpListener, Started)> {
    let failed = |error: std::io::Error| Error::Start { reason: format!("no free loopback port: {error}") };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
    let url = format!("http://{}", listener.local_addr().map_err(failed)?);
    let moto = Moto::start().await?;
    let front = Front::new(moto.url(), builder.update_duration)?;
    Ok((moto, listener, (Arc::new(front), url)))
}

impl AwsEndpoint {
    /// The default settings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder { update_duration: UPDATE_DURATION }
    }

    /// Where clients connect: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn endpoint_url(&self) -> &str {
        &self.url
    }

    /// moto itself, past the front: for what a test wants neither recorded nor answered by the front.
    #[must_use]
    pub fn moto_url(&self) -> &str {
        &self.front.moto
    }

    /// The region of what [`create_cluster`](Self::create_cluster) and its like make.
    #[must_use]
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// A key id that is accepted. Any other is too.
    #[must_use]
    pub fn access_key_id(&self) -> &'static str {
        ACCESS_KEY_ID
    }

    /// The secret to it. Signatures are not checked.
    #[must_use]
    pub fn secret_access_key(&self) -> &'static str {
        SECRET_ACCESS_KEY
    }

    /// The variables that make the AWS SDKs and tools of another process use this endpoint.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
            // boto3 reads only this one, the SDKs only AWS_REGION.
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
            ("AWS_ENDPOINT_URL", self.url.clone()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
        ]
    }

    /// Creates an EKS cluster, `ACTIVE` at once. Not recorded as a call.
    ///
    /// # Errors
    ///
    /// [`Error::Answer`] when there is one of that name, [`Error::NoAnswer`] when moto has ended.
    pub async fn create_cluster(&self, name: &str) -> Result<()> {
        let body = json!({
            "name": name,
            "resourcesVpcConfig": {"subnetIds": ["subnet-0a1b2c3d"]},
            "roleArn": "arn:aws:iam::123456789012:role/cluster",
        });
        self.ask("CreateCluster", name, Method::POST, "/clusters", Some(&body)).await?;
        Ok(())
    }

    /// Creates a managed node group, `ACTIVE` at once, and sends [`NodegroupScaled`]. Not recorded as a call.
    ///
    /// # Errors
    ///
    /// [`Error::Answer`] when the cluster is unknown, the group exists or the sizes are not in order (status 400,
    /// answered here because moto does not check them), [`Error::NoAnswer`] when moto has ended.
    pub async fn create_nodegroup(
        &self,
        cluster: &str,
        name: &str,
        min: u32,
        desired: u32,
        max: u32,
    ) -> Result<()> {
        let subject = format!("{cluster}/{name}");
        if let Err(error) = (NodegroupSizes { min, desired, max }).check() {
            let operation = "CreateNodegroup";
            return Err(Error::Answer { operation, subject, status: 400, body: error.message().to_owned() });
        }
        let body = json!({
            "instanceTypes": ["r5.2xlarge"],
            "nodegroupName": name,
            "nodeRole": "arn:aws:iam::123456789012:role/node",
            "scalingConfig": {"minSize": min, "desiredSize": desired, "maxSize": max},
            "subnets": ["subnet-0a1b2c3d"],
        });
        let path = format!("/clusters/{cluster}/node-groups");
        self.ask("CreateNodegroup", &subject, Method::POST, &path, Some(&body)).await?;
        self.front.announce(NodegroupScaled {
            cluster: cluster.to_owned(),
            desired,
            nodegroup: name.to_owned(),
        });
        Ok(())
    }

    /// The sizes that a node group has now. Not recorded as a call.
    ///
    /// # Errors
    ///
    /// [`Error::Answer`] when the cluster or the group is unknown, [`Error::NoAnswer`] when moto has ended.
    pub async fn nodegroup_sizes(&self, cluster: &str, name: &str) -> Result<NodegroupSizes> {
        let subject = format!("{cluster}/{name}");
        let path = format!("/clusters/{cluster}/node-groups/{name}");
        let body = self.ask("DescribeNodegroup", &subject, Method::GET, &path, None).await?;
        nodegroup::sizes(&body).ok_or_else(|| Error::Answer {
            operation: "DescribeNodegroup",
            subject,
            status: 200,
            body: body.to_string(),
        })
    }

    /// Puts health issues on a node group, or takes all off with an empty list. With issues an idle group is
    /// `DEGRADED`, until a later update raises its desired size successfully.
    ///
    /// # Errors
    ///
    /// As [`nodegroup_sizes`](Self::nodegroup_sizes).
    pub async fn set_nodegroup_health(
        &self,
        cluster: &str,
        name: &str,
        issues: Vec<HealthIssue>,
    ) -> Result<()> {
        self.nodegroup_sizes(cluster, name).await?;
        lock(&self.front.groups).set_issues(group(cluster, name), issues);
        Ok(())
    }

    /// Makes a node group show this status whenever no update is in progress. `Active` returns it to the status it has
    /// by itself.
    ///
    /// # Errors
    ///
    /// As [`nodegroup_sizes`](Self::nodegroup_sizes).
    pub async fn set_nodegroup_status(
        &self,
        cluster: &str,
        name: &str,
        status: NodegroupStatus,
    ) -> Result<()> {
        self.nodegroup_sizes(cluster, name).await?;
        lock(&self.front.groups).set_status(group(cluster, name), status);
        Ok(())
    }

    /// Lets the next call of `operation` meet `fault` instead of its true answer. Faults for the same operation are met
    /// in the order in which they were injected.
    pub fn inject(&self, operation: Operation, fault: Fault) {
        lock(&self.front.faults).push(operation, fault);
    }

    /// How many injected faults no call has met yet: a test of faults ends by finding 0 here.
    #[must_use]
    pub fn faults_left(&self) -> u32 {
        lock(&self.front.faults).left()
    }

    /// Sets how the next update that is accepted, of whichever node group, ends. Several are used in order; without any
    /// an update is successful.
    pub fn script_update(&self, outcome: UpdateOutcome) {
        lock(&self.front.groups).script(outcome);
    }

    /// Changes how long updates are in progress, from the next one on.
    pub fn set_update_duration(&self, duration: Duration) {
        *lock(&self.front.update_duration) = duration;
    }

    /// Every call that arrived since the start or the last [`clear_calls`](Self::clear_calls), oldest first.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.front.calls).clone()
    }

    /// Those of [`calls`](Self::calls) that were of one operation.
    #[must_use]
    pub fn calls_of(&self, operation: Operation) -> Vec<Call> {
        lock(&self.front.calls).iter().filter(|call| call.operation == operation).cloned().collect()
    }

    /// Forgets the calls recorded so far.
    pub fn clear_calls(&self) {
        lock(&self.front.calls).clear();
    }

    /// Changes of desired sizes from now on, in order: groups created or deleted, and updates as they take effect. The
    /// group shows its new sizes before the event is sent. Whoever lags 1 024 events behind misses the oldest.
    #[must_use]
    pub fn scaling_events(&self) -> broadcast::Receiver<NodegroupScaled> {
        self.front.scaled.subscribe()
    }

    async fn ask(
        &self,
        operation: &'static str,
        subject: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let answer = self
            .front
            .ask_moto(REGION, method, path, body)
            .await
            .map_err(|source| Error::NoAnswer { operation, subject: subject.to_owned(), source })?;
        let refused = || Error::Answer {
            operation,
            subject: subject.to_owned(),
            status: answer.status.as_u16(),
            body: String::from_utf8_lossy(&answer.body).into_owned(),
        };
        if !answer.status.is_success() {
            return Err(refused());
        }
        serde_json::from_slice(&answer.body).map_err(|_| refused())
    }
}

impl Drop for AwsEndpoint {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread of the AWS testbed had panicked");
        }
    }
}

fn group(cluster: &str, nodegroup: &str) -> GroupId {
    GroupId { region: REGION.to_owned(), cluster: cluster.to_owned(), nodegroup: nodegroup.to_owned() }
}
