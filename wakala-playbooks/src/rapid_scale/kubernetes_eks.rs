//! The playbook on a Kubernetes cluster whose nodes are an EKS managed node group.
