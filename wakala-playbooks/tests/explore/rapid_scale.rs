//! Traffic spike response.

use wakala_core::testing::explore::Explore;

use super::production::{FakeProduction, rapid_scale};
use super::shown;

#[test]
fn rapid_scale_holds() {
    let found = Explore::new(|| {
        let production = FakeProduction::new(10, Some((5, 60)));
        production.spike(rapid_scale().playbook(&production).unwrap())
    })
    .with_random(10_000)
    .run();
    shown(&found);
    found.assert_clean();
}
