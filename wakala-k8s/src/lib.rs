//! Kubernetes targets and steps.
