//! The command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use wakala_playbooks::gradual_scale_down::GradualScaleDown;

/// Gradual scale down after a peak: smaller by fractions, watched at each, and back on trouble.
///
/// As given it runs against a simulated production, in virtual time, and shows the sizes and the error rate.
#[derive(Debug, Parser)]
#[command(name = "gradual_scale_down")]
pub(crate) struct Args {
    /// What goes wrong, and at which fraction: `error-rate-at=0.6`, `metrics-gone-at=0.6`. May be given several times.
    #[arg(long, value_name = "WHAT=FRACTION")]
    pub(crate) fault: Vec<Trouble>,

    /// Seed of the simulation: the same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// The simulated API has an autoscaler, whose minimum comes down instead of the size.
    #[arg(long, conflicts_with = "live")]
    pub(crate) autoscaler: bool,

    /// Prints one JSON report and nothing else.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) parameters: Parameters,

    /// Runs against a real cluster: that of the kubeconfig.
    #[arg(long)]
    pub(crate) live: bool,

    #[command(flatten)]
    pub(crate) live_options: LiveOptions,
}

/// The playbook's parameters. As given they are the runbook's.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Parameters of the playbook")]
pub(crate) struct Parameters {
    /// What is left after each step, as shares of the size at the start.
    #[arg(long, value_delimiter = ',', default_values_t = GradualScaleDown::default().fractions)]
    fractions: Vec<f64>,

    /// Never fewer replicas of the API.
    #[arg(long, default_value_t = GradualScaleDown::default().api_minimum)]
    api_minimum: u32,

    /// Never fewer replicas of the worker.
    #[arg(long, default_value_t = GradualScaleDown::default().worker_minimum)]
    worker_minimum: u32,

    /// How long to watch after each step.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10m")]
    soak: Duration,

    /// The largest error rate with which it goes on.
    #[arg(long, default_value_t = GradualScaleDown::default().max_error_rate)]
    max_error_rate: f64,

    /// How long the error rate may be unknown before it goes back.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "5m")]
    blind_for: Duration,

    /// How many replicas of each workload may be taken away within a minute.
    #[arg(long)]
    max_removed_per_minute: Option<u32>,

    /// How many requests per second one replica of the API can serve.
    #[arg(long)]
    max_requests_per_api_replica: Option<f64>,

    /// Lets the soaks be shorter than ten minutes, where nobody is served.
    #[arg(long)]
    rehearsal: bool,
}

impl Parameters {
    pub(crate) fn playbook(&self) -> GradualScaleDown {
        let mut parameters = GradualScaleDown::default();
        parameters.fractions.clone_from(&self.fractions);
        parameters.api_minimum = self.api_minimum;
        parameters.worker_minimum = self.worker_minimum;
        parameters.soak = self.soak;
        parameters.max_error_rate = self.max_error_rate;
        parameters.blind_for = self.blind_for;
        parameters.max_removed_per_minute = self.max_removed_per_minute;
        parameters.max_requests_per_api_replica = self.max_requests_per_api_replica;
        parameters.rehearsal = self.rehearsal;
        parameters
    }

    /// How many replicas of so many are left at a fraction.
    #[cfg(feature = "live")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a small number")]
    pub(crate) fn api_size(&self, whole: u16, fraction: f64) -> u32 {
        let share = (f64::from(whole) * fraction.clamp(0.0, 1.0) - 1e-6).ceil();
        (share as u32).max(self.api_minimum)
    }
}

/// Where the real cluster is.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "With --live")]
#[cfg_attr(
    not(feature = "live"),
    allow(dead_code, reason = "parsed so that the program can say what it lacks")
)]
pub(crate) struct LiveOptions {
    /// Starts a control plane on loopback, makes the runbook's objects, and runs there.
    #[arg(long, requires = "live")]
    pub(crate) testbed: bool,

    /// The kubeconfig; as given, the one that kubectl would use.
    #[arg(long, requires = "live", conflicts_with = "testbed")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The namespace.
    #[arg(long, requires = "live", default_value = "production")]
    pub(crate) namespace: String,

    /// The counter of failed requests that the API's pods show.
    #[arg(long, requires = "live", default_value = "http_requests_errors_total")]
    pub(crate) errors_metric: String,

    /// The counter of all requests that the API's pods show.
    #[arg(long, requires = "live", default_value = "http_requests_total")]
    pub(crate) requests_metric: String,

    /// Approves the plan without asking.
    #[arg(long, requires = "live")]
    pub(crate) yes: bool,
}

/// What goes wrong while the playbook watches what it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trouble {
    pub(crate) what: What,
    /// At which fraction.
    pub(crate) at: f64,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Requests fail as long as there are no more replicas than then.
    ErrorRate,
    /// Nobody knows the error rate any more.
    MetricsGone,
}

impl FromStr for Trouble {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = "error-rate-at=0.6 and metrics-gone-at=0.6 are known";
        let (what, at) = text.split_once('=').ok_or(known)?;
        let what = match what {
            "error-rate-at" => What::ErrorRate,
            "metrics-gone-at" => What::MetricsGone,
            _ => return Err(known.to_owned()),
        };
        let at = at.parse().map_err(|_| format!("{at} is no fraction; {known}"))?;
        Ok(Self { what, at })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::ErrorRate => "error-rate-at",
            What::MetricsGone => "metrics-gone-at",
        };
        write!(f, "{what}={}", self.at)
    }
}
