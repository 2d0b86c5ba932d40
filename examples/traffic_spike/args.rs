//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use wakala_playbooks::rapid_scale::RapidScale;

/// Traffic spike response, end to end: plan, approval, run, soak, revert.
///
/// As given it runs against a simulated production that is fed by a recorded spike, and writes a page with charts.
#[derive(Debug, Parser)]
#[command(name = "traffic_spike")]
pub(crate) struct Args {
    /// Who answers the spike. As given: nobody, the autoscaler alone and the playbook, side by side.
    #[arg(long, value_enum)]
    pub(crate) policy: Option<Policy>,

    /// The recorded spike.
    #[arg(long, value_enum, default_value_t = Trace::Crane)]
    pub(crate) trace: Trace,

    /// Seed of the simulation: the same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// How long people take from the alarm to an approved plan.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1m")]
    pub(crate) reaction: Duration,

    /// Prints one JSON report and nothing else.
    #[arg(long)]
    pub(crate) json: bool,

    /// Where the page with charts goes.
    #[arg(long, default_value = "traffic_spike.html")]
    pub(crate) page: PathBuf,

    /// Writes no page.
    #[arg(long)]
    pub(crate) no_page: bool,

    /// Simulated time that passes in a second of the live view on a terminal.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10m")]
    pub(crate) pace: Duration,

    #[command(flatten)]
    pub(crate) parameters: Parameters,

    /// Runs against real systems: the cluster of the kubeconfig, and EKS.
    #[arg(long)]
    pub(crate) live: bool,

    #[command(flatten)]
    pub(crate) live_options: LiveOptions,
}

/// The playbook's parameters. As given they are the runbook's.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Parameters of the playbook")]
pub(crate) struct Parameters {
    /// Replicas of the API.
    #[arg(long, default_value_t = RapidScale::default().api_replicas)]
    api_replicas: u32,

    /// Replicas of the cache.
    #[arg(long, default_value_t = RapidScale::default().cache_replicas)]
    cache_replicas: u32,

    /// Nodes of the node group.
    #[arg(long, default_value_t = RapidScale::default().nodes)]
    nodes: u32,

    /// Requests that the API admits in each window.
    #[arg(long, default_value_t = RapidScale::default().rate_limit_requests)]
    rate_limit_requests: u32,

    /// The window of the rate limit.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1m")]
    rate_limit_window: Duration,

    /// How long to watch afterwards.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10m")]
    pub(crate) soak: Duration,

    /// The largest error rate that the soak accepts.
    #[arg(long, default_value_t = RapidScale::default().max_error_rate)]
    max_error_rate: f64,

    /// Raises the maximum of an autoscaler or node group where it is in the way.
    #[arg(long)]
    raise_ceilings: bool,

    /// Lets the soak be shorter than ten minutes, where nobody is served.
    #[arg(long)]
    rehearsal: bool,
}

impl Parameters {
    pub(crate) fn playbook(&self) -> RapidScale {
        let mut parameters = RapidScale::default();
        parameters.api_replicas = self.api_replicas;
        parameters.cache_replicas = self.cache_replicas;
        parameters.nodes = self.nodes;
        parameters.rate_limit_requests = self.rate_limit_requests;
        parameters.rate_limit_window = self.rate_limit_window;
        parameters.soak = self.soak;
        parameters.max_error_rate = self.max_error_rate;
        parameters.raise_ceilings = self.raise_ceilings;
        parameters.rehearsal = self.rehearsal;
        parameters
    }
}

/// Where the real systems are.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "With --live")]
#[cfg_attr(
    not(feature = "live"),
    allow(dead_code, reason = "parsed so that the program can say what it lacks")
)]
pub(crate) struct LiveOptions {
    /// Starts a control plane and an AWS endpoint on loopback, makes the runbook's objects, and runs there.
    #[arg(long, requires = "live")]
    pub(crate) testbed: bool,

    /// The kubeconfig; as given, the one that kubectl would use.
    #[arg(long, requires = "live", conflicts_with = "testbed")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The namespace.
    #[arg(long, requires = "live", default_value = "production")]
    pub(crate) namespace: String,

    /// The EKS cluster.
    #[arg(long, requires = "live", default_value = "wakala-production")]
    pub(crate) cluster: String,

    /// The managed node group.
    #[arg(long, requires = "live", default_value = "workers-general")]
    pub(crate) node_group: String,

    /// The AWS endpoint; as given, the real one.
    #[arg(long, requires = "live", conflicts_with = "testbed")]
    pub(crate) aws_endpoint: Option<String>,

    /// Approves the plan without asking.
    #[arg(long, requires = "live")]
    pub(crate) yes: bool,

    /// What Ctrl-C does: keep what was done, or take it back.
    #[arg(long, requires = "live", value_enum, default_value_t = Interrupt::Keep)]
    pub(crate) on_interrupt: Interrupt,

    /// Takes the temporary changes back after the soak.
    #[arg(long, requires = "live")]
    pub(crate) revert: bool,

    /// Where runs are kept.
    #[arg(long, requires = "live", default_value = "wakala-runs.db")]
    pub(crate) runs: PathBuf,

    /// Goes on with a run whose process is gone, or that was held.
    #[arg(long, requires = "live", value_name = "RUN", conflicts_with_all = ["testbed", "take_back"])]
    pub(crate) resume: Option<String>,

    /// Takes back what was temporary of an earlier run.
    #[arg(long, requires = "live", value_name = "RUN", conflicts_with = "testbed")]
    pub(crate) take_back: Option<String>,
}

/// Who answers the spike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// Nobody: replicas and nodes stay.
    None,
    /// The autoscaler alone.
    Hpa,
    /// The autoscaler and the playbook.
    Playbook,
}

impl Policy {
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Hpa, Self::Playbook];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Hpa => "hpa",
            Self::Playbook => "playbook",
        }
    }
}

/// A recorded spike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Trace {
    /// A production service: twentyfold within three minutes, for three quarters of an hour.
    Crane,
    /// A company in the news: hundredfold within half an hour.
    Tweets,
    /// Requests at a load balancer: bursts of five minutes.
    Elb,
}

/// What Ctrl-C does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Interrupt {
    /// Keeps what was done.
    Keep,
    /// Takes it back.
    Revert,
}
