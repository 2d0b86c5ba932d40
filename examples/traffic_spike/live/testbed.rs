//! The runbook's production on a control plane and an AWS endpoint on loopback.

use std::time::Duration;

use wakala_aws::AwsConfig;
use wakala_k8s::Cluster;
use wakala_playbooks::rapid_scale::KubernetesEks;
use wakala_testbed::{Production, ProductionOptions};

use super::Site;
use crate::Failure;
use crate::view::View;

/// How often the node group is looked at: here its updates take seconds, not minutes.
const POLL: Duration = Duration::from_millis(500);

pub(super) async fn start(view: &View) -> Result<Site, Failure> {
    view.line("Starting a Kubernetes control plane and an AWS endpoint on loopback ...");
    // Slow enough to be watched.
    let options = ProductionOptions {
        node_boot_delay: Duration::from_secs(4),
        update_duration: Duration::from_secs(2),
        ready_after: Duration::from_secs(2),
        ..ProductionOptions::default()
    };
    let servers = Production::start(options).await?;
    let cluster = Cluster::from_kubeconfig(servers.control_plane().kubeconfig_path(), None).await?;
    let aws = servers.aws();
    let access = AwsConfig::new()
        .with_endpoint_url(aws.endpoint_url())
        .with_region(aws.region())
        .with_static_credentials(aws.access_key_id(), aws.secret_access_key().to_owned().into())
        .load()
        .await?;
    let production = KubernetesEks::new(
        &cluster,
        Production::NAMESPACE,
        &access,
        Production::EKS_CLUSTER,
        Production::NODE_GROUP,
    )
    .with_node_group(|group| group.with_poll(POLL).with_busy_pause(POLL));
    Ok(Site { production, _servers: Some(servers) })
}
