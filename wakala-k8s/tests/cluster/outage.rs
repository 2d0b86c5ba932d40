use std::sync::Arc;
use std::time::Duration;

use wakala_core::{
    ChannelObserver, ErrorKind, Retry, RunContext, ScalableTarget, ScalableTargetExt, ScaleOptions, Units,
};
use wakala_k8s::Workload;
use wakala_testbed::{self as bed, ControlPlane, NodeGroup};

use crate::support::{MINUTE, connect, wait_ready};

#[tokio::test]
async fn an_api_server_that_goes_away_is_an_error_to_try_again() {
    let plane = ControlPlane::builder().with_nodes(NodeGroup::new("few", 1)).start().await.unwrap();
    let namespace = plane.create_namespace("outage").await.unwrap();
    // Its second pod would take an hour.
    let slow = bed::Workload::new("api", 1).with_ready_after(Duration::from_secs(3600));
    namespace.create(&slow.deployment()).await.unwrap();
    namespace.create(&bed::Workload::new("quick", 1).deployment()).await.unwrap();
    wait_ready(&namespace, "quick", 1).await;
    let cluster = connect(&plane).await.with_request_timeout(Duration::from_secs(5));
    let api = Workload::deployment(&cluster, namespace.name(), "api");

    let (observer, mut events) = ChannelObserver::new();
    let cx = RunContext::detached().with_observer(Arc::new(observer));
    let (waited, stopped) = tokio::join!(api.wait_ready(&cx, Units(1), MINUTE), async {
        // It has looked once, and waits for a change from here on.
        events.recv().await.unwrap();
        plane.stop_api_server().await
    });
    stopped.unwrap();
    let error = waited.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Safe { after: None }),
        "{error:?}"
    );

    let error = api.set_desired(&cx, Units(2), ScaleOptions::default()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Safe { after: None }),
        "{error:?}"
    );

    plane.start_api_server().await.unwrap();
    let quick = Workload::deployment(&cluster, namespace.name(), "quick");
    quick.scale_to(&cx, Units(2), MINUTE).await.unwrap();
}
