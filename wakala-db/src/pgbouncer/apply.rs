//! A new text: written, reloaded, read back; and the old one again where that shows anything else.

use std::time::Duration;

use wakala_core::{Error, ErrorKind, Result, Retry, RunContext, Versioned};

use super::home::ConfigHome;
use super::ini::PgBouncerIni;
use super::pools::compare;
use super::{Console, PoolDifference};

/// How long until the processes are told again to reload, where the text takes its time to reach them.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(super) struct Apply<'a> {
    pub(super) home: &'a dyn ConfigHome,
    pub(super) instances: &'a [Console],
}

/// Why a text is not in force.
#[derive(Debug)]
struct NotInForce {
    /// Of one that did not answer, the first.
    error: Option<Error>,
    /// What is wrong on each process, for people.
    what: Vec<String>,
}

impl NotInForce {
    fn of(instances: &[Console], answers: Vec<Result<Vec<PoolDifference>>>) -> Option<Self> {
        let (mut error, mut what) = (None, Vec::new());
        for (console, answer) in instances.iter().zip(answers) {
            match answer {
                Ok(differences) => {
                    what.extend(
                        differences.iter().map(|difference| format!("on {} {difference}", console.name())),
                    );
                }
                Err(found) => {
                    what.push(format!("{} does not answer as it should ({found})", console.name()));
                    error.get_or_insert(found);
                }
            }
        }
        (!what.is_empty()).then_some(Self { error, what })
    }

    fn kind(&self) -> ErrorKind {
        self.error.as_ref().map_or(ErrorKind::Unexpected, Error::kind)
    }

    fn into_error(self, home: &dyn ConfigHome, retry: Retry, message: String) -> Error {
        let error = Error::new(self.kind(), "write", message).on(home.resource()).with_retry(retry);
        match self.error {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

/// Tells a process to reload. That it calls the file wrong is found by the comparison too, in more detail.
pub(super) async fn reloaded(console: &Console) -> Result<()> {
    match console.reload().await {
        Err(error) if error.kind() == ErrorKind::InvalidConfig => {
            tracing::warn!(%console, %error, "reload");
            Ok(())
        }
        answer => answer,
    }
}

impl Apply<'_> {
    /// Brings the new text into force, or the old one back.
    ///
    /// # Errors
    /// Where the new text is not in force. `Retry` says whether the old one is, on every process.
    pub(super) async fn replace(
        &self,
        cx: &RunContext,
        old: &Versioned<PgBouncerIni>,
        new: &PgBouncerIni,
    ) -> Result<()> {
        let version = self.home.write(cx, &new.to_string(), old.version.as_ref()).await?;
        let Err(failed) = self.in_force(cx, new).await else { return Ok(()) };
        let why = failed.what.join("; ");
        tracing::warn!(home = %self.home.resource(), why, "the new configuration is not in force; the old one comes back");
        // Whatever became of the run: half a change is worse.
        let cx = &RunContext::new(cx.run_id().clone(), cx.clock().clone());
        if let Err(error) = self.home.write(cx, &old.value.to_string(), version.as_ref()).await {
            let message =
                format!("not in force ({why}), and the old text could NOT be put back ({error}); look at it");
            return Err(failed.into_error(self.home, Retry::ObserveFirst, message));
        }
        match self.in_force(cx, &old.value).await {
            Ok(()) => {
                // What answers now may do so again.
                let retry = if failed.error.is_some() { Retry::Safe { after: None } } else { Retry::Never };
                let message = format!("not in force ({why}); the old text is back, and in force everywhere");
                Err(failed.into_error(self.home, retry, message))
            }
            Err(left) => {
                let left = left.what.join("; ");
                let message =
                    format!("not in force ({why}); the old text is back, and is NOT in force yet: {left}");
                Err(failed.into_error(self.home, Retry::ObserveFirst, message))
            }
        }
    }

    /// Brings a text into force that is in the file already.
    pub(super) async fn reload(&self, cx: &RunContext, ini: &PgBouncerIni) -> Result<()> {
        self.in_force(cx, ini).await.map_err(|failed| {
            let message = format!("the file is right, and not in force: {}", failed.what.join("; "));
            failed.into_error(self.home, Retry::ObserveFirst, message)
        })
    }

    /// Reloads every process and compares, as long as the text may be on its way to them.
    async fn in_force(&self, cx: &RunContext, ini: &PgBouncerIni) -> Result<(), NotInForce> {
        let clock = cx.clock();
        let until = clock.monotonic() + self.home.propagation();
        let mut pause = FIRST_PAUSE;
        loop {
            let answers = compare(self.instances, ini, true).await;
            let Some(failed) = NotInForce::of(self.instances, answers) else { return Ok(()) };
            let left = until.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Err(failed);
            }
            cx.progress(0, 0, failed.what.join("; "));
            // Not the context's own sleep, which ends where the run is cancelled: the file is written.
            clock.sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
