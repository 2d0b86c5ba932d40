//! What this crate promises, on a real control plane. Needs `scripts/build-control-plane` to have been run, or
//! `WAKALA_TEST_KUBECONFIG` for tests that need no control plane of their own.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod autoscaler;
mod capacity;
mod conformance;
mod outage;
mod permissions;
mod pod_metrics;
mod problems;
mod scaling;
mod support;
mod template;
