//! What every [`Setting`] must do.

use super::{Common, common_case, must, skip};
use crate::{Convergence, ErrorKind, Retry, Reversibility, Setting, Undone, Versioned};

/// A setting to check. It must not be at its desired value when a check begins.
#[derive(Debug)]
pub struct SettingCase<S> {
    common: Common,
    setting: S,
}

common_case!(SettingCase<S: Setting>);

impl<S: Setting> SettingCase<S> {
    /// Checks `setting`.
    pub fn new(setting: S) -> Self {
        Self { common: Common::new(), setting }
    }

    async fn read(&self) -> Versioned<S::Value> {
        must(self.setting.read(&self.common.cx).await, "read")
    }

    /// The value now, and the one that is wanted.
    async fn values(&self) -> (Versioned<S::Value>, S::Value) {
        let prior = self.read().await;
        let wanted = must(self.setting.desired(&prior.value), "desired");
        assert_ne!(wanted, prior.value, "the case must begin where the setting is not at its desired value");
        (prior, wanted)
    }
}

impl<S: Setting> From<S> for SettingCase<S> {
    fn from(setting: S) -> Self {
        Self::new(setting)
    }
}

/// Runs every check of this module, each on a setting of its own.
pub async fn all<S: Setting, C: Into<SettingCase<S>>>(make: impl AsyncFn() -> C) {
    crate::__conformance! { setting, __conformance_all! [make] }
}

/// The setting has a summary and names what it changes.
pub async fn describes_itself<S: Setting>(case: impl Into<SettingCase<S>>) {
    let info = case.into().setting.info();
    assert!(!info.summary.is_empty(), "the setting has no summary; a person approves it");
    assert!(!info.resources.is_empty(), "the setting names no resource, so two runs could not be kept apart");
    assert!(!info.expected.is_zero(), "the setting expects to take no time, so its step would have none");
}

/// Reading changes nothing, and reads the same twice.
pub async fn read_is_read_only<S: Setting>(case: impl Into<SettingCase<S>>) {
    let case = case.into();
    let check = async {
        let (one, two) = (case.read().await, case.read().await);
        assert_eq!(one.value, two.value, "reading changed the value, or does not read the same twice");
        assert_eq!(one.version, two.version, "reading changed the version");
    };
    case.common.drive(check).await;
}

/// `desired` answers the same for the same value, and is content with its own answer.
pub async fn desired_is_pure<S: Setting>(case: impl Into<SettingCase<S>>) {
    let case = case.into();
    let check = async {
        let (prior, wanted) = case.values().await;
        let again = must(case.setting.desired(&prior.value), "desired");
        assert_eq!(again, wanted, "desired answers differently for the same value");
        let settled = must(case.setting.desired(&wanted), "desired at the desired value");
        assert_eq!(settled, wanted, "desired wants something else once it has what it wanted");
        assert!(case.setting.satisfies(&wanted, &wanted), "the desired value does not satisfy itself");
        assert!(
            case.setting.is_ours(&prior.value, &wanted, &wanted),
            "what the step wrote does not count as its own, so it could never be taken back"
        );
        assert_eq!(case.read().await.value, prior.value, "desired changed the world");
    };
    case.common.drive(check).await;
}

/// Values are the same after their way through the plan's JSON.
pub async fn value_survives_json<S: Setting>(case: impl Into<SettingCase<S>>) {
    let case = case.into();
    let check = async {
        let (prior, wanted) = case.values().await;
        for value in [prior.value, wanted] {
            let text = serde_json::to_string(&value);
            let text = text.unwrap_or_else(|error| panic!("{value:?} has no JSON form: {error}"));
            let read: S::Value = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{value:?} cannot be read back from {text}: {error}"));
            assert_eq!(read, value, "the value changed on its way through JSON ({text})");
        }
    };
    case.common.drive(check).await;
}

/// The last value that was written counts; writing it twice is as writing it once.
pub async fn write_is_absolute_and_idempotent<S: Setting>(case: impl Into<SettingCase<S>>) {
    let case = case.into();
    let check = async {
        let (prior, wanted) = case.values().await;
        for value in [&wanted, &wanted, &prior.value, &wanted] {
            let version = case.read().await.version;
            let answer = case.setting.write(&case.common.cx, value, version.as_ref()).await;
            must(answer, "write with the present version");
            assert_eq!(case.read().await.value, *value, "read does not see the value that was written last");
        }
    };
    case.common.drive(check).await;
}

/// A written value comes into force.
pub async fn converges<S: Setting>(case: impl Into<SettingCase<S>>) {
    let case = case.into();
    let check = async {
        let (prior, wanted) = case.values().await;
        let cx = case.common.patient();
        must(case.setting.write(&cx, &wanted, prior.version.as_ref()).await, "write");
        loop {
            let current = case.read().await.value;
            match must(case.setting.convergence(&cx, &current).await, "convergence") {
                Convergence::Converged => return,
                Convergence::Following(note) => {
                    must(case.setting.changed(&cx, &current).await, &format!("waiting ({note})"));
                }
            }
        }
    };
    case.common.drive(check).await;
}

/// A write with a version that no longer holds is a conflict and changes nothing.
pub async fn stale_version_conflicts<S: Setting>(case: impl Into<SettingCase<S>>) {
    let case = case.into();
    let check = async {
        let (prior, wanted) = case.values().await;
        let Some(stale) = &prior.version else {
            return skip("stale_version_conflicts", "the setting has no versions");
        };
        must(
            case.setting.write(&case.common.cx, &wanted, Some(stale)).await,
            "write with the present version",
        );
        let Err(error) = case.setting.write(&case.common.cx, &prior.value, Some(stale)).await else {
            panic!("a write with a stale version was accepted; it must be a conflict");
        };
        assert_eq!(error.kind(), ErrorKind::Conflict, "a stale version must be a conflict: {error:?}");
        assert_ne!(error.retry(), Retry::ObserveFirst, "a stale write has certainly no effect: {error:?}");
        assert_eq!(case.read().await.value, wanted, "a stale write was refused, and yet the value changed");
    };
    case.common.drive(check).await;
}

/// `restore` brings the prior value back.
pub async fn restore_brings_prior_back<S: Setting>(case: impl Into<SettingCase<S>>) {
    let case = case.into();
    let check = async {
        let reversibility = case.setting.info().reversibility;
        if reversibility != Reversibility::Exact {
            let why = format!("the setting does not promise an exact undo but: {reversibility}");
            return skip("restore_brings_prior_back", &why);
        }
        let (prior, wanted) = case.values().await;
        let cx = &case.common.cx;
        must(case.setting.write(cx, &wanted, prior.version.as_ref()).await, "write");
        let current = case.read().await;
        let undone = must(case.setting.restore(cx, &prior.value, &wanted, &current).await, "restore");
        assert_eq!(undone, Undone::Restored, "restore of what was just written");
        assert_eq!(
            case.read().await.value,
            prior.value,
            "restore says Restored, and the value is another one"
        );
    };
    case.common.drive(check).await;
}
