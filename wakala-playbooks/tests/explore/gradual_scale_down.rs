//! Gradual scale down.

use wakala_core::testing::explore::Explore;

use super::production::{FakeProduction, gradual_scale_down};
use super::shown;

#[test]
fn gradual_scale_down_holds() {
    let found = Explore::new(|| {
        let production = FakeProduction::new(50, None);
        production.descent(gradual_scale_down().playbook(&production).unwrap())
    })
    .with_random(10_000)
    .run();
    shown(&found);
    found.assert_clean();
}
