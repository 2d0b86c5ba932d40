//! An autoscaler that only has bounds.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::cell::{Cell, Write};
use super::target::FakeTarget;
use crate::testing::lock;
use crate::{
    Autoscaler, AutoscalerState, Bounds, Error, ErrorKind, Permission, ResourceKey, Result, RunContext,
    ScalableTarget, Version,
};

/// The autoscaler of a [`FakeTarget`]: its bounds, versions and a record of writes.
///
/// Clones are the same autoscaler. It never scales; the test does, with [`FakeTarget::meddle`].
#[derive(Clone, Debug)]
pub struct FakeAutoscaler {
    target: FakeTarget,
    bounds: Arc<Mutex<Cell<Option<Bounds>>>>,
}

impl FakeAutoscaler {
    /// The autoscaler of `target`, with these bounds.
    pub fn new(target: &FakeTarget, bounds: Bounds) -> Self {
        Self { target: target.clone(), bounds: Arc::new(Mutex::new(Cell::new(Some(bounds)))) }
    }

    /// Nothing scales `target` by itself.
    pub fn none(target: &FakeTarget) -> Self {
        Self { target: target.clone(), bounds: Arc::new(Mutex::new(Cell::new(None))) }
    }

    /// The bounds now; `None` where there is no autoscaler.
    pub fn bounds(&self) -> Option<Bounds> {
        lock(&self.bounds).value
    }

    /// Every write, in order.
    pub fn writes(&self) -> Vec<Write<Option<Bounds>>> {
        lock(&self.bounds).writes.clone()
    }

    /// How many writes changed the bounds.
    pub fn effects(&self) -> usize {
        lock(&self.bounds).writes.iter().filter(|write| write.changed).count()
    }

    /// Somebody else sets the bounds, or takes the autoscaler away.
    pub fn meddle(&self, bounds: Option<Bounds>) {
        lock(&self.bounds).set(bounds);
    }

    /// The next write fails so, without effect. Further calls queue up.
    pub fn fail_next(&self, error: Error) {
        lock(&self.bounds).fail_next(error);
    }

    /// The next write takes effect and its answer is lost: the caller cannot know. Further calls queue up.
    pub fn lose_next_answer(&self) {
        lock(&self.bounds).lose_next_answer("set_bounds", &self.name());
    }

    /// The next observation fails so. Further calls queue up.
    pub fn fail_next_observe(&self, error: Error) {
        lock(&self.bounds).fail_next_read(error);
    }

    fn name(&self) -> String {
        format!("autoscaler of {}", self.target.id())
    }

    fn gone(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::NotFound, operation, "nothing scales the target by itself").on(self.name())
    }
}

#[async_trait]
impl Autoscaler for FakeAutoscaler {
    fn id(&self) -> String {
        self.name()
    }

    fn resource(&self) -> ResourceKey {
        // Beside the target and not below it: floor and size are steps of one playbook, and may be of two.
        ResourceKey::from(format!("fake/{}", self.name()))
    }

    fn target(&self) -> ResourceKey {
        self.target.resource()
    }

    fn permissions(&self) -> Vec<Permission> {
        vec![Permission::new("fake", "move bounds", self.name())]
    }

    async fn observe(&self, _: &RunContext) -> Result<Option<AutoscalerState>> {
        let mut cell = lock(&self.bounds);
        cell.read()?;
        let size = self.target.size();
        Ok(cell.value.map(|bounds| {
            let mut state = AutoscalerState::new(self.name(), bounds, size);
            state.version = cell.version();
            state
        }))
    }

    async fn set_bounds(&self, cx: &RunContext, bounds: Bounds, if_version: Option<&Version>) -> Result<()> {
        let mut cell = lock(&self.bounds);
        let Some(present) = cell.value else { return Err(self.gone("set_bounds")) };
        cx.permit_bounds(&self.target(), self.target.size(), present, bounds)?;
        cell.write(cx, &Some(bounds), if_version, "set_bounds", &self.name()).map(|_| ())
    }

    async fn rehearse(&self, _: &RunContext, _: Bounds) -> Result<()> {
        if self.bounds().is_none() { Err(self.gone("rehearse")) } else { Ok(()) }
    }
}
