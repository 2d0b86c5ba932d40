//! Playbooks that hold.

use wakala_core::OnFailure;
use wakala_core::testing::explore::Explore;

use super::world::World;

fn holds(on_failure: OnFailure) {
    let found = Explore::new(|| World::new(on_failure).scene()).with_random(2000).run();
    println!("{found}");
    found.assert_clean();
    assert!(found.single > 500 && found.planning > 10, "{found}");
}

#[test]
fn a_playbook_that_keeps_what_it_got() {
    holds(OnFailure::KeepAndHold);
}

#[test]
fn a_playbook_that_takes_back() {
    holds(OnFailure::TakeBack);
}

#[test]
fn a_playbook_that_goes_back_to_health() {
    holds(OnFailure::BackToHealthy);
}
