//! The configuration of a group of PgBouncers as a setting: one source, several processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{join_all, try_join_all};
use serde::{Deserialize, Serialize};
use wakala_core::{
    Applied, Error, ErrorKind, Permission, Result, Retry, RunContext, Setting, SettingInfo, SettingStep,
    StepId, Version, Versioned,
};

use super::apply::{Apply, reloaded};
use super::change::{PoolChange, PoolKey};
use super::connstr;
use super::home::ConfigHome;
use super::ini::PgBouncerIni;
use super::running::{RESERVE, RESERVE_NEW, Running, reserve};
use super::{Console, PgBouncerVersion, PoolDifference};

/// The version from which the reserve of a database has the name that it has in `[pgbouncer]`.
const NEW_RESERVE: PgBouncerVersion = PgBouncerVersion::new(1, 24);

/// The version from which a `RELOAD` that changes nothing about TLS leaves connections with TLS alone.
const TLS_KEPT: PgBouncerVersion = PgBouncerVersion::new(1, 24);

/// Keys of a `pgbouncer.ini` as a setting: changed at the source, reloaded by every process, read back from each.
///
/// It is written only where all processes answer, where the whole file is one that each of their versions takes as it is
/// meant, and where `RELOAD` would bring nothing else into force than what is wanted: a change of somebody else's that
/// waits in the file, or one that was made by `SET` and is in no file, is named and left alone. After the write every
/// process reloads, and each key of the file is compared with its `SHOW CONFIG` and `SHOW DATABASES`. Where one differs or
/// does not answer, the old text comes back, is reloaded and compared too, and the error says what differed.
///
/// Keys that need a restart are written, named in the plan's warnings, and not counted as applied.
///
/// A crash between write and reload is seen: the value has, beside what the file says, what each process runs with.
/// Undo puts the keys back as they were written, and takes away those that there were not.
#[derive(Clone, Debug)]
pub struct PgBouncerPools {
    home: Arc<dyn ConfigHome>,
    instances: Vec<Console>,
    change: PoolChange,
}

/// The value of [`PgBouncerPools`] in a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolValues {
    /// The keys that the setting names, as they are written in the file; `None` for one that is not there.
    pub file: BTreeMap<String, Option<String>>,
    /// For each process that runs with something else than the file says: by key, what it runs with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub behind: BTreeMap<String, BTreeMap<String, Option<String>>>,
    // What they were read from: a circumstance of the values and not a part of them.
    #[serde(skip)]
    seen: Option<Arc<Seen>>,
}

#[derive(Debug)]
struct Seen {
    ini: PgBouncerIni,
    running: Vec<Running>,
}

impl PartialEq for PoolValues {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file && self.behind == other.behind
    }
}

impl PgBouncerPools {
    /// The processes at `instances`, which all read what is kept at `home`. A process that is not among them stays
    /// unverified.
    pub fn new(
        home: Arc<dyn ConfigHome>,
        instances: impl IntoIterator<Item = Console>,
        change: PoolChange,
    ) -> Self {
        Self { home, instances: instances.into_iter().collect(), change }
    }

    /// The step of that name.
    pub fn step(self, id: impl Into<StepId>) -> SettingStep<Self> {
        SettingStep::new(id, self)
    }

    /// The processes.
    pub fn instances(&self) -> &[Console] {
        &self.instances
    }

    /// The file as it is, and as the change would make it.
    pub(super) async fn texts(&self, cx: &RunContext) -> Result<(PgBouncerIni, PgBouncerIni)> {
        let current = self.read(cx).await?;
        let desired = self.desired(&current.value)?;
        let before = match current.value.seen {
            Some(seen) => seen.ini.clone(),
            None => PgBouncerIni::parse(&self.home.read(cx).await?.value),
        };
        let versions = try_join_all(self.instances.iter().map(Console::version)).await?;
        let after = self.changed_text(&before, &desired, &versions)?;
        Ok((before, after))
    }

    async fn running(&self) -> Result<Vec<Running>> {
        try_join_all(self.instances.iter().map(Running::read)).await
    }

    async fn parsed(&self, cx: &RunContext) -> Result<Versioned<PgBouncerIni>> {
        let read = self.home.read(cx).await?;
        let ini = PgBouncerIni::parse(&read.value);
        if let Some(line) = ini.include() {
            let message =
                format!("line {line} is %include: what it takes in is not looked into; put its lines there");
            return Err(Error::new(ErrorKind::Unsupported, "read", message).on(self.home.resource()));
        }
        Ok(Versioned::at(ini, read.version))
    }

    /// Whether a difference is of our making or goes back to a key of ours, such as a pool that has the default's size.
    fn explains(&self, difference: &PoolDifference) -> bool {
        let key = PoolKey::from(difference.key.as_str());
        let inherited = |key: &str| match key {
            "pool_size" => "default_pool_size".to_owned(),
            RESERVE => "reserve_pool_size".to_owned(),
            key => key.to_owned(),
        };
        self.change.values().any(|(ours, _)| match (ours, &key) {
            (ours, key) if ours == key => true,
            (PoolKey::Setting(ours), PoolKey::Parameter { key, .. }) => *ours == inherited(key),
            // A database that is served because of this line.
            (PoolKey::Parameter { database, key: ours }, PoolKey::Parameter { key, .. }) => {
                database == "*" && ours == key
            }
            _ => false,
        })
    }

    /// What `RELOAD` would change beside what is wanted.
    fn pending(&self, ini: &PgBouncerIni, running: &[Running], ours_too: bool) -> Vec<String> {
        let mut pending = Vec::new();
        for (console, running) in self.instances.iter().zip(running) {
            for difference in running.differences(ini) {
                if ours_too || !self.explains(&difference) {
                    pending.push(format!("on {} {difference}", console.name()));
                }
            }
        }
        pending
    }

    fn value(&self, ini: PgBouncerIni, running: Vec<Running>) -> PoolValues {
        let file = self.change.values().map(|(key, _)| (key.to_string(), raw(&ini, key))).collect();
        let mut behind: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
        for (console, running) in self.instances.iter().zip(&running) {
            for difference in running.differences(&ini) {
                if self.explains(&difference) {
                    behind
                        .entry(console.name().to_owned())
                        .or_default()
                        .insert(difference.key, difference.running);
                }
            }
        }
        PoolValues { file, behind, seen: Some(Arc::new(Seen { ini, running })) }
    }

    fn changed_text(
        &self,
        ini: &PgBouncerIni,
        value: &PoolValues,
        versions: &[PgBouncerVersion],
    ) -> Result<PgBouncerIni> {
        let mut changed = ini.clone();
        for (key, raw) in &value.file {
            match PoolKey::from(key.as_str()) {
                PoolKey::Setting(key) => changed.set_setting(&key, raw.as_deref())?,
                PoolKey::Parameter { database, key } if key == RESERVE => {
                    // The name that is there stays; a new one is the present one where all processes know it.
                    let there = reserve(&changed, &database).map(|(key, _)| key);
                    let all_new =
                        !versions.is_empty() && versions.iter().all(|version| *version >= NEW_RESERVE);
                    let key = there.unwrap_or(if all_new { RESERVE_NEW } else { RESERVE });
                    changed.set_raw_parameter(&database, key, raw.as_deref())?;
                }
                PoolKey::Parameter { database, key } => {
                    changed.set_raw_parameter(&database, &key, raw.as_deref())?;
                }
            }
        }
        Ok(changed)
    }

    /// Refuses a text that one of the processes would not take as it is meant.
    fn check(&self, operation: &'static str, ini: &PgBouncerIni, running: &[Running]) -> Result<()> {
        for (console, running) in self.instances.iter().zip(running) {
            let problems = ini.check_with(running.version, Some(&running.keys()));
            if !problems.is_empty() {
                let shown: Vec<_> = problems.iter().take(5).map(ToString::to_string).collect();
                let more = match problems.len().saturating_sub(5) {
                    0 => String::new(),
                    more => format!("; and {more} more"),
                };
                let message = format!(
                    "nothing was written, since {} ({}) would not take it as it is meant: {}{more}",
                    console.name(),
                    running.version,
                    shown.join("; ")
                );
                return Err(Error::invalid(operation, message).on(self.home.resource()));
            }
        }
        Ok(())
    }

    fn refuse_pending(&self, operation: &'static str, pending: &[String]) -> Result<()> {
        if pending.is_empty() {
            return Ok(());
        }
        let message = format!(
            "a RELOAD would also change what is not part of this: {}; bring file and processes together first (RELOAD, or \
             correct the file)",
            pending.join(", ")
        );
        Err(Error::new(ErrorKind::Conflict, operation, message).on(self.home.resource()))
    }

    fn check_instances(&self) -> Result<()> {
        let refuse = |message: &'static str| Err(Error::invalid("plan", message).on(self.home.resource()));
        if self.instances.is_empty() {
            return refuse("no process is named, so nothing could be verified; name the console of each");
        }
        let names: BTreeSet<_> = self.instances.iter().map(Console::name).collect();
        if names.len() < self.instances.len() {
            return refuse("two processes have one name; name each console by named()");
        }
        if self.change.is_empty() { refuse("no change is named; name one") } else { Ok(()) }
    }
}

/// The value of a key as it is written.
fn raw(ini: &PgBouncerIni, key: &PoolKey) -> Option<String> {
    match key {
        PoolKey::Setting(key) => ini.setting(key),
        PoolKey::Parameter { database, key } if key == RESERVE => {
            ini.raw_parameter(database, reserve(ini, database)?.0)
        }
        PoolKey::Parameter { database, key } => ini.raw_parameter(database, key),
    }
    .map(str::to_owned)
}

#[async_trait]
impl Setting for PgBouncerPools {
    type Value = PoolValues;

    fn info(&self) -> SettingInfo {
        let mut permissions = self.home.permissions();
        for console in &self.instances {
            for action in ["RELOAD", "SHOW CONFIG", "SHOW DATABASES"] {
                permissions.push(Permission::new("pgbouncer", action, format!("console {}", console.name())));
            }
        }
        let count = self.instances.len();
        let summary =
            format!("set {} on {count} PgBouncer{}", self.change, if count == 1 { "" } else { "s" });
        SettingInfo::new(summary, self.home.resource())
            .with_permissions(permissions)
            // The way there, and back.
            .with_expected(self.home.propagation() * 2 + Duration::from_secs(10))
    }

    async fn read(&self, cx: &RunContext) -> Result<Versioned<PoolValues>> {
        let (ini, running) = (self.parsed(cx).await?, cx.until(self.running()).await??);
        Ok(Versioned::at(self.value(ini.value, running), ini.version))
    }

    fn desired(&self, current: &PoolValues) -> Result<PoolValues> {
        self.check_instances()?;
        let mut file = BTreeMap::new();
        for (key, value) in self.change.values() {
            let there = current.file.get(&key.to_string()).cloned().flatten();
            let wanted = match key {
                PoolKey::Setting(_) => value.to_owned(),
                PoolKey::Parameter { database, key } => {
                    if let Some(seen) = &current.seen
                        && !seen.ini.databases().contains(&database.as_str())
                    {
                        let message = format!(
                            "the section [databases] has no {database}; there are: {}",
                            seen.ini.databases().join(", ")
                        );
                        return Err(
                            Error::new(ErrorKind::NotFound, "desired", message).on(self.home.resource())
                        );
                    }
                    // As it is written, where it is the value already.
                    let same = |raw: &String| {
                        let text = format!("{key}={raw}");
                        connstr::parameters(&text).is_ok_and(|found| found.iter().any(|p| p.value == value))
                    };
                    there.clone().filter(same).unwrap_or_else(|| connstr::quoted(value).into_owned())
                }
            };
            file.insert(key.to_string(), Some(wanted));
        }
        Ok(PoolValues { file, behind: BTreeMap::new(), seen: None })
    }

    /// Between write and reload, or with only some processes reloaded: on the way, of our own making.
    fn tolerates(&self, prior: &PoolValues, current: &PoolValues) -> bool {
        let Ok(desired) = self.desired(current) else { return false };
        self.is_ours(prior, &desired, current)
    }

    fn is_ours(&self, prior: &PoolValues, written: &PoolValues, current: &PoolValues) -> bool {
        current.file.iter().all(|(key, value)| {
            [prior, written].iter().any(|known| known.file.get(key).is_some_and(|known| known == value))
        })
    }

    fn warnings(&self, current: &PoolValues, desired: &PoolValues) -> Vec<String> {
        let Some(seen) = current.seen.as_deref().filter(|_| current != desired) else { return Vec::new() };
        let mut warnings = Vec::new();
        for (console, running) in self.instances.iter().zip(&seen.running) {
            let tls = running.setting("server_tls_sslmode").is_some_and(|mode| mode != "disable");
            if tls && running.version < TLS_KEPT {
                warnings.push(format!(
                    "{} ({}) replaces its server connections at every RELOAD, since they have TLS",
                    console.name(),
                    running.version
                ));
            }
        }
        for (key, value) in self.change.values() {
            if current.file.get(&key.to_string()) == desired.file.get(&key.to_string()) {
                continue;
            }
            match key {
                PoolKey::Setting(key) => {
                    let stuck = |(_, running): &(_, &Running)| !running.is_changeable(key);
                    for (console, running) in self.instances.iter().zip(&seen.running).filter(stuck) {
                        warnings.push(format!(
                            "{key} NEEDS A RESTART of {}: it is written, and not applied; it runs with {} until then",
                            console.name(),
                            running.setting(key).unwrap_or("nothing")
                        ));
                    }
                    let number = |text: &str| text.parse::<u64>().ok();
                    let running =
                        seen.running.iter().filter_map(|running| running.setting(key).and_then(number)).max();
                    if key == "max_client_conn" && number(value) < running {
                        warnings.push(format!(
                            "max_client_conn falls to {value}: clients beyond that stay, new ones are refused"
                        ));
                    }
                    if key == "pool_mode" {
                        warnings.push(mode_warning("all databases without a mode of their own", value));
                    }
                }
                PoolKey::Parameter { database, key } => {
                    if database == "*" {
                        let served: BTreeSet<_> =
                            seen.running.iter().flat_map(|running| running.automatic(&seen.ini)).collect();
                        warnings.push(if served.is_empty() {
                            "no database is served by * now, so its line cannot be read back until one is"
                                .to_owned()
                        } else {
                            format!("* now serves {}", served.into_iter().collect::<Vec<_>>().join(", "))
                        });
                    }
                    if key == "pool_mode" {
                        warnings.push(mode_warning(database, value));
                    }
                }
            }
        }
        warnings
    }

    async fn rehearse(&self, cx: &RunContext, value: &PoolValues) -> Result<()> {
        let (ini, running) = (self.parsed(cx).await?.value, cx.until(self.running()).await??);
        let versions: Vec<_> = running.iter().map(|running| running.version).collect();
        let changed = self.changed_text(&ini, value, &versions)?;
        self.check("rehearse", &changed, &running)?;
        self.refuse_pending("rehearse", &self.pending(&ini, &running, true))?;
        for key in value.file.keys() {
            let PoolKey::Setting(key) = PoolKey::from(key.as_str()) else { continue };
            let stays = |running: &Running| running.is_changeable(&key) && !running.has_default(&key);
            if ini.setting(&key).is_none() && running.iter().any(stays) {
                let message = format!(
                    "{key} is not in the file, and PgBouncer would keep it when it is taken out again; put it there by hand"
                );
                return Err(Error::new(ErrorKind::Unsupported, "rehearse", message).on(self.home.resource()));
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        cx: &RunContext,
        value: &PoolValues,
        expected: Option<&Version>,
    ) -> Result<Applied> {
        // Until the file is written nothing has happened, whatever a console says or does not say.
        let safe = |error: Error| match error.retry() {
            Retry::ObserveFirst => error.with_retry(Retry::Safe { after: None }),
            _ => error,
        };
        let read = self.parsed(cx).await.map_err(safe)?;
        if expected.is_some() && read.version.as_ref() != expected {
            let message = "changed by somebody else meanwhile; look again";
            return Err(Error::new(ErrorKind::Conflict, "write", message).on(self.home.resource()));
        }
        let running = cx.until(self.running()).await?.map_err(safe)?;
        let versions: Vec<_> = running.iter().map(|running| running.version).collect();
        let changed = self.changed_text(&read.value, value, &versions)?;
        self.check("write", &changed, &running)?;
        self.refuse_pending("write", &self.pending(&read.value, &running, false))?;
        let apply = Apply { home: &*self.home, instances: &self.instances };
        if changed != read.value {
            apply.replace(cx, &read, &changed).await?;
        } else if running.iter().all(|running| running.differences(&changed).is_empty()) {
            return Ok(Applied::NoChange);
        } else {
            apply.reload(cx, &changed).await?;
        }
        Ok(Applied::Changed)
    }
}

fn mode_warning(of: &str, mode: &str) -> String {
    let effect = if mode.eq_ignore_ascii_case("session") {
        "each client then holds a server connection until it leaves"
    } else {
        "SET, prepared statements, advisory locks and LISTEN of a session no longer last"
    };
    format!("pool_mode of {of} becomes {mode}: {effect}")
}

/// Where each process is not as the file wants it; an error is one that did not answer.
pub(super) async fn compare(
    instances: &[Console],
    ini: &PgBouncerIni,
    reload: bool,
) -> Vec<Result<Vec<PoolDifference>>> {
    join_all(instances.iter().map(|console| async move {
        if reload {
            reloaded(console).await?;
        }
        Ok(Running::read(console).await?.differences(ini))
    }))
    .await
}
