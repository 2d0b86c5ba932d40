//! Where the file is: a folder that exists, on a disk of this host.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// File systems that other hosts share. SQLite's log needs memory that all who write share, and locks that hold: both end
/// at the host.
const SHARED: [&str; 19] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "smbfs",
];

/// The network file system that `folder` is on; `None` where it is on none, or the system does not tell (only Linux
/// does).
pub(super) fn shared(folder: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let kind = file_system(&mounts, device(folder)?)?;
    SHARED.contains(&kind).then(|| kind.to_owned())
}

/// The sort of file system with that device number, from Linux' list of mounts.
///
/// A line: `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn file_system(mounts: &str, device: (u64, u64)) -> Option<&str> {
    let number = format!("{}:{}", device.0, device.1);
    mounts.lines().find_map(|mount| {
        let (before, after) = mount.split_once(" - ")?;
        (before.split(' ').nth(2)? == number).then(|| after.split(' ').next())?
    })
}

#[cfg(unix)]
fn device(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;

    let number = fs::metadata(path).ok()?.dev();
    // As glibc's `major` and `minor` take them apart.
    Some(((number >> 8) & 0xfff | (number >> 32) & !0xfff, number & 0xff | (number >> 12) & !0xff))
}

#[cfg(not(unix))]
fn device(_: &Path) -> Option<(u64, u64)> {
    None
}

/// Which file is at a path, whatever it is called; `None` where there is none, or the system does not tell.
#[cfg(unix)]
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;

    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(not(unix))]
pub(super) fn identity(_: &Path) -> Option<(u64, u64)> {
    None
}

/// A new, empty file that only its owner can read and write.
pub(super) fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes what was made or renamed in `folder` outlast the host's power.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// `path` with more at its end.
pub(super) fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 27 0:21 / /proc rw,nosuid - proc proc rw
27 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw,discard
31 27 0:52 /export/a\\040-\\040b /mnt/team rw,relatime shared:9 - nfs4 server:/export rw,vers=4.2
32 27 0:53 / /mnt/other rw - fuse.sshfs me@host:/ rw
";

    #[test]
    fn the_file_system_is_found_by_its_device() {
        assert_eq!(file_system(MOUNTS, (259, 1)), Some("ext4"));
        assert_eq!(file_system(MOUNTS, (0, 53)), Some("fuse.sshfs"));
        assert_eq!(file_system(MOUNTS, (0, 99)), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn proc_is_known_and_not_shared() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(file_system(&mounts, device("/proc".as_ref()).unwrap()), Some("proc"));
        assert_eq!(shared("/proc".as_ref()), None);
    }
}
