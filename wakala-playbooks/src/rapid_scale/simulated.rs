//! The playbook on the simulated production.
