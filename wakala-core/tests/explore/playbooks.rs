//! Playbooks that hold.

use wakala_core::OnFailure;
use wakala_core::testing::explore::Explore;

use super::world::World;

fn holds(make: impl Fn() -> World + Sync) {
    let found = Explore::new(|| make().scene()).with_random(2000).run();
    println!("{found}");
    found.assert_clean();
    assert!(found.single > 500 && found.planning > 10, "{found}");
}

#[test]
fn a_playbook_that_keeps_what_it_got() {
    holds(|| World::new(OnFailure::KeepAndHold));
}

#[test]
fn a_playbook_that_takes_back() {
    holds(|| World::new(OnFailure::TakeBack));
}

#[test]
fn a_playbook_that_goes_back_to_health() {
    holds(|| World::new(OnFailure::BackToHealthy));
}

#[test]
fn a_playbook_in_which_somebody_must_agree() {
    holds(|| World::new(OnFailure::TakeBack).gated());
}

#[test]
fn a_playbook_whose_sources_cannot_go_dark() {
    let make = || World::new(OnFailure::BackToHealthy).scene_that_cannot_go_dark();
    let found = Explore::new(make).with_random(500).run();
    println!("{found}");
    found.assert_clean();
}
