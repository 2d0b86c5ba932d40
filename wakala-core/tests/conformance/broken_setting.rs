//! Settings that are broken in one way each.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wakala_core::testing::FakeSetting;
use wakala_core::testing::conformance::{SettingCase, setting};
use wakala_core::{
    Applied, Convergence, ManualClock, Result, RunContext, Setting, SettingInfo, Undone, Version, Versioned,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    DesiredCountsUp,
    ForgetsOnItsWay,
    IgnoresVersions,
    LiesThatItIsBack,
    NamesNothing,
    NeverConverges,
    ReadWrites,
    WriteAdds,
}

/// A number that may lose its lowest digit in JSON.
#[derive(Clone, Debug, PartialEq)]
struct Number(u32);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.0 / 10).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u32::deserialize(deserializer).map(|number| Self(number * 10))
    }
}

#[derive(Debug)]
struct Broken {
    setting: FakeSetting<Number>,
    defect: Defect,
    asked: AtomicU32,
}

fn broken(defect: Defect) -> SettingCase<Broken> {
    let desired = if defect == Defect::ForgetsOnItsWay { 10_001 } else { 10_000 };
    let setting = FakeSetting::new("limit", Number(100), Number(desired));
    SettingCase::new(Broken { setting, defect, asked: AtomicU32::new(0) })
        .on(&ManualClock::default())
        .with_limit(Duration::from_secs(30))
}

#[async_trait]
impl Setting for Broken {
    type Value = Number;

    fn info(&self) -> SettingInfo {
        let mut info = self.setting.info();
        if self.defect == Defect::NamesNothing {
            info.resources.clear();
        }
        info
    }

    async fn read(&self, cx: &RunContext) -> Result<Versioned<Number>> {
        if self.defect == Defect::ReadWrites {
            self.setting.meddle(Number(self.setting.value().0 + 10));
        }
        self.setting.read(cx).await
    }

    async fn write(&self, cx: &RunContext, value: &Number, expected: Option<&Version>) -> Result<Applied> {
        match self.defect {
            Defect::IgnoresVersions => self.setting.write(cx, value, None).await,
            Defect::WriteAdds => {
                self.setting.meddle(Number(self.setting.value().0 + value.0));
                Ok(Applied::Changed)
            }
            _ => self.setting.write(cx, value, expected).await,
        }
    }

    fn desired(&self, current: &Number) -> Result<Number> {
        if self.defect == Defect::DesiredCountsUp {
            return Ok(Number(self.asked.fetch_add(10, Ordering::Relaxed)));
        }
        self.setting.desired(current)
    }

    async fn convergence(&self, cx: &RunContext, current: &Number) -> Result<Convergence> {
        if self.defect == Defect::NeverConverges {
            return Ok(Convergence::Following("never".to_owned()));
        }
        self.setting.convergence(cx, current).await
    }

    async fn restore(
        &self,
        cx: &RunContext,
        prior: &Number,
        written: &Number,
        current: &Versioned<Number>,
    ) -> Result<Undone> {
        if self.defect == Defect::LiesThatItIsBack {
            return Ok(Undone::Restored);
        }
        self.setting.restore(cx, prior, written, current).await
    }
}

fails!(nameless, setting::describes_itself, broken(Defect::NamesNothing), "the setting names no resource");
fails!(writing_read, setting::read_is_read_only, broken(Defect::ReadWrites), "reading changed the value");
fails!(
    unsteady_desired,
    setting::desired_is_pure,
    broken(Defect::DesiredCountsUp),
    "desired answers differently for the same value"
);
fails!(
    forgetful_value,
    setting::value_survives_json,
    broken(Defect::ForgetsOnItsWay),
    "the value changed on its way through JSON"
);
fails!(
    adding_write,
    setting::write_is_absolute_and_idempotent,
    broken(Defect::WriteAdds),
    "read does not see the value that was written last"
);
fails!(never_in_force, setting::converges, broken(Defect::NeverConverges), "waiting (never) failed");
fails!(
    ignored_version,
    setting::stale_version_conflicts,
    broken(Defect::IgnoresVersions),
    "a write with a stale version was accepted"
);
fails!(
    lying_restore,
    setting::restore_brings_prior_back,
    broken(Defect::LiesThatItIsBack),
    "restore says Restored, and the value is another one"
);
