//! Preflight: what does not fit is refused with its numbers.

use wakala_core::sim::{Cache, Database, NodePool, Portion, Workload, World, WorldBuilder};
use wakala_core::{Finding, FindingLevel, Playbook, step};

use crate::rapid_scale;

async fn findings(world: &World, replicas: u32, nodes: u32) -> Vec<Finding> {
    let playbook = rapid_scale(world, replicas, nodes);
    world.run(world.engine().plan(&playbook)).await.unwrap().findings().to_vec()
}

#[tokio::test]
async fn the_capacity_chain_names_what_does_not_fit() {
    let world = || World::production(1);
    let ok = findings(&world().build().unwrap(), 50, 30).await;
    assert!(ok.iter().all(|finding| finding.level == FindingLevel::Ok), "{ok:?}");
    assert!(
        ok.iter().any(|finding| finding.text.contains("tightest link is database connections")),
        "{ok:?}"
    );

    let refused = async |builder: WorldBuilder, nodes: u32, words: &[&str]| {
        let findings = findings(&builder.build().unwrap(), 50, nodes).await;
        let refusals: Vec<_> = findings.iter().filter(|f| f.level == FindingLevel::Refusal).collect();
        assert_eq!(refusals.len(), 1, "{findings:?}");
        for word in words {
            assert!(refusals[0].text.contains(word), "no {word:?} in {:?}", refusals[0].text);
        }
    };
    refused(
        world(),
        12,
        &["of 50 pods of deployment production/wakala-api", "insufficient cpu", "to at least 24 nodes"],
    )
    .await;
    let small = NodePool::new("spare", 1).with_bounds(1, 1);
    refused(world().with_node_pool(small), 12, &["node pool workers-general to at least"]).await;
    let database = Database::new(600);
    refused(world().with_database(database), 30, &["(50 + 13 surge) x 10", "= 680", "597 are accepted"])
        .await;
    let cache = Cache::new(50, 0.7).on_workload("redis-cache");
    refused(world().with_cache(cache), 30, &["(50 + 13 surge) x 5", "= 335", "250 are accepted"]).await;

    let tight = findings(&world().build().unwrap(), 50, 22).await;
    let warnings: Vec<_> = tight.iter().filter(|f| f.level == FindingLevel::Warning).collect();
    assert!(warnings.len() == 1 && warnings[0].text.contains("surge pods fit on no node"), "{tight:?}");
}

#[tokio::test]
async fn a_rollout_that_needs_its_surge_is_refused_where_there_is_no_room() {
    let world = World::builder(1)
        .with_workload(
            Workload::new("api", 2)
                .with_max_surge(Portion::Count(1))
                .with_max_unavailable(Portion::Count(0))
                .with_requests(1000, 100),
        )
        .with_node_pool(NodePool::new("n", 1).with_bounds(1, 1).with_node(2500, 1000, 10))
        .build()
        .unwrap();
    let playbook = Playbook::builder("restart")
        .then(step(world.environment("api", [("MODE", "fast")]).step("environment")))
        .with_preflight(world.capacity())
        .build()
        .unwrap();
    let plan = world.run(world.engine().plan(&playbook)).await.unwrap();
    let refusals: Vec<_> = plan.refusals().map(|finding| finding.text.as_str()).collect();
    assert!(
        refusals.len() == 1 && refusals[0].contains("cannot go on; not even node pool n at its maximum of 1"),
        "{refusals:?}"
    );
}
