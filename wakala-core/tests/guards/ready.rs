//! Guards on what is ready.

use std::sync::Arc;

use wakala_core::testing::{FakeTarget, Faults, FaultyTarget, MockScalableTarget};
use wakala_core::{
    Bounds, Capability, ErrorKind, Guard, Permission, ReadyGuard, ScalableTarget, SharedTarget, Units,
};

use crate::World;

fn ready(target: &SharedTarget, size: u32) -> ReadyGuard {
    ReadyGuard::new("ready", Arc::clone(target), size)
}

#[tokio::test]
async fn it_holds_from_its_size_on() {
    let world = World::new();
    let target: SharedTarget = Arc::new(FakeTarget::new("t", 3));
    assert_eq!(world.says(&ready(&target, 3)).await, "pass: 3 ready");
    assert_eq!(world.says(&ready(&target, 4)).await, "FAIL: 3 ready, must be at least 4");
}

#[tokio::test]
async fn sizes_that_are_always_or_never_ready_are_found_beforehand() {
    let world = World::new();
    let capability = Capability::new(Bounds { min: Units(0), max: Units(50) });
    let target: SharedTarget = Arc::new(FakeTarget::new("t", 3).with_capability(capability));
    let error = ready(&target, 0).check().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("0 are always ready"), "{error}");
    ready(&target, 1).check().unwrap();
    assert_eq!(
        world.proof(&ready(&target, 51)).await,
        "no verdict: it could never hold: t can have at most 50, and 51 must be ready"
    );
    // Before a scale-up it does not hold yet.
    assert_eq!(world.proof(&ready(&target, 50)).await, "FAIL: 3 ready, must be at least 50");
}

#[test]
fn it_asks_for_what_it_reads_only() {
    let fake = FakeTarget::new("t", 3);
    let observe = [Permission::new("fake", "observe", "t")];
    assert_ne!(fake.permissions(), observe);
    let wrapped: SharedTarget = Arc::new(FaultyTarget::new(fake, &Faults::new()));
    assert_eq!(ready(&wrapped, 3).permissions(), observe);

    // Of a target that does not tell reading from writing, all.
    let mut mock = MockScalableTarget::new();
    mock.expect_permissions().returning(|| vec![Permission::new("mock", "all", "t")]);
    let target: SharedTarget = Arc::new(mock);
    assert_eq!(ready(&target, 3).permissions(), [Permission::new("mock", "all", "t")]);
}
