//! Where the configuration has its source: what a restart, or a new pod, starts from.

use std::fmt::Debug;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use wakala_core::{Error, ErrorKind, Permission, ResourceKey, Result, Retry, RunContext, Version, Versioned};

/// Where the text of a `pgbouncer.ini` is kept.
#[async_trait]
pub trait ConfigHome: Debug + Send + Sync + 'static {
    /// What a run takes for itself to change it.
    fn resource(&self) -> ResourceKey;

    /// What must be allowed to read and write it. As given: nothing.
    fn permissions(&self) -> Vec<Permission> {
        Vec::new()
    }

    /// How long after a write the processes may still read the old text: about two minutes for a ConfigMap that is
    /// mounted. As given they read the new one at once.
    fn propagation(&self) -> Duration {
        Duration::ZERO
    }

    /// The text and its version. Reads only.
    ///
    /// # Errors
    /// `NotFound` where there is none; what the provider says.
    async fn read(&self, cx: &RunContext) -> Result<Versioned<String>>;

    /// Replaces the whole text at once, only while `expected` is still its version, and answers the new version.
    /// Whoever reads meanwhile gets the old text or the new one.
    ///
    /// # Errors
    /// `Conflict` where the version is another: nothing has changed then. [`Retry`] says of the others whether something
    /// may have.
    async fn write(&self, cx: &RunContext, text: &str, expected: Option<&Version>)
    -> Result<Option<Version>>;
}

/// A file of this machine, which several processes may share.
///
/// It is replaced by renaming a new one over it that was brought to the disk before, with the owner, group and mode of
/// the old one. A symbolic link stays one: what it leads to is replaced. The version is a hash of the content. Nobody can
/// rename on a condition: between the last look at the old file and the renaming, some microseconds, another's change
/// would be lost.
#[derive(Clone, Debug)]
pub struct FileHome {
    path: PathBuf,
}

impl FileHome {
    /// The file at `path`. Nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn error(&self, operation: &'static str, error: io::Error) -> Error {
        let (kind, message) = match error.kind() {
            io::ErrorKind::NotFound => (ErrorKind::NotFound, "there is no such file"),
            io::ErrorKind::PermissionDenied => {
                (ErrorKind::Denied, "not permitted; its folder must be writable, and its owner be kept")
            }
            io::ErrorKind::InvalidData => (ErrorKind::Unsupported, "it is not UTF-8"),
            io::ErrorKind::ResourceBusy => {
                (ErrorKind::Unsupported, "it is a mount point, which cannot be replaced; mount its folder")
            }
            _ => (ErrorKind::Unavailable, "the file system refused"),
        };
        Error::new(kind, operation, message)
            .on(self.path.display())
            .with_source(error)
            .with_retry(Retry::Never)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || work(&path)).await;
        done.map_err(|error| {
            let kind = ErrorKind::Unexpected;
            Error::new(kind, operation, "the work on the file was broken off")
                .on(self.path.display())
                .with_source(error)
        })?
        .map_err(|error| self.error(operation, error))
    }
}

fn version(text: &str) -> Version {
    let digest = Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}").into()
}

enum Replaced {
    Yes,
    /// Its content is another than expected.
    Changed,
}

fn replace(path: &Path, text: &str, expected: Option<&Version>) -> io::Result<Replaced> {
    // What a symbolic link leads to.
    let path = &fs::canonicalize(path)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    // Always the same name: one that a killed process left is removed by the next.
    let new = folder.join(format!(".{name}.wakala"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_beside(path, &new, text, expected);
    match &written {
        Ok(Replaced::Yes) => fs::File::open(folder)?.sync_all()?,
        // Nothing of it was seen by anybody.
        _ => drop(fs::remove_file(&new)),
    }
    written
}

fn write_beside(path: &Path, new: &Path, text: &str, expected: Option<&Version>) -> io::Result<Replaced> {
    let old = fs::metadata(path)?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(new)?;
    file.write_all(text.as_bytes())?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, fchown};
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
    }
    file.set_permissions(old.permissions())?;
    file.sync_all()?;
    if let Some(expected) = expected
        && version(&fs::read_to_string(path)?) != *expected
    {
        return Ok(Replaced::Changed);
    }
    fs::rename(new, path)?;
    Ok(Replaced::Yes)
}

#[async_trait]
impl ConfigHome for FileHome {
    fn resource(&self) -> ResourceKey {
        // One name for one file, whichever way leads to it.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        format!("file{}", path.display()).into()
    }

    fn permissions(&self) -> Vec<Permission> {
        let resource = self.path.display().to_string();
        ["read", "replace"].map(|action| Permission::new("file", action, resource.clone())).into()
    }

    async fn read(&self, _: &RunContext) -> Result<Versioned<String>> {
        let text = self.blocking("read", |path| fs::read_to_string(path)).await?;
        let version = version(&text);
        Ok(Versioned::at(text, Some(version)))
    }

    async fn write(
        &self,
        cx: &RunContext,
        text: &str,
        expected: Option<&Version>,
    ) -> Result<Option<Version>> {
        cx.check()?;
        let (text, expected) = (text.to_owned(), expected.cloned());
        let new = version(&text);
        match self.blocking("write", move |path| replace(path, &text, expected.as_ref())).await? {
            Replaced::Yes => Ok(Some(new)),
            Replaced::Changed => {
                let message = "changed by somebody else meanwhile; look again";
                Err(Error::new(ErrorKind::Conflict, "write", message).on(self.path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_keeps_its_mode_and_link_and_is_not_written_over_a_change() {
        let folder = std::env::temp_dir().join(format!("wakala-home-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let real = folder.join("real.ini");
        fs::write(&real, "one").unwrap();
        let cx = RunContext::detached();
        let link = folder.join("pgbouncer.ini");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
            std::os::unix::fs::symlink("real.ini", &link).unwrap();
        }
        // What a killed process may have left.
        fs::write(folder.join(".real.ini.wakala"), "half").unwrap();
        let home = FileHome::new(&link);
        let read = home.read(&cx).await.unwrap();
        let next = home.write(&cx, "two", read.version.as_ref()).await.unwrap();
        assert_eq!(home.read(&cx).await.unwrap(), Versioned::at("two".to_owned(), next));

        let error = home.write(&cx, "three", read.version.as_ref()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(fs::read_to_string(&real).unwrap(), "two");
        let left = fs::read_dir(&folder).unwrap().count();
        assert_eq!(left, 2, "the file and the link");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        }
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(home.read(&cx).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
