//! The directory of a run, and what runs that were killed left behind.
//!
//! Directories lie in `<target>/chaos` and are named after their process and seed. While a run goes on its directory holds a
//! file `RUNNING`. One whose process is gone was killed: its mounts, and the directory, are taken away by the next run. Its
//! processes went with it (`process::bound_to_us`), and its network is swept as well. A run that found something wrong
//! takes the file away itself and leaves the rest: that is evidence.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use dstore_testkit::namespaces::Network;
use dstore_testkit::scratch::target_directory;

const RUNNING: &str = "RUNNING";

/// The directory of this run. It goes with this value, unless it was told to stay.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    stays: bool,
}

impl Directory {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// The target directory cannot be written.
    pub fn make(name: &str, seed: u64) -> io::Result<Directory> {
        let path = target_directory().join("chaos").join(format!("{}-{name}-{seed}", std::process::id()));
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir_all(&path)?;
        std::fs::write(path.join(RUNNING), "")?;
        Ok(Directory { path, stays: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps it, as evidence.
    pub fn keep(&mut self) {
        self.stays = true;
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.stays || std::thread::panicking() {
            let _ = std::fs::remove_file(self.path.join(RUNNING));
        } else {
            let _ = std::fs::remove_dir_all(&self.path); // what stays is in the target directory
        }
    }
}

/// Takes away what killed runs left, and says what that was.
pub fn sweep() -> Vec<String> {
    let mut swept: Vec<String> = Network::sweep().into_iter().map(|name| format!("network namespace {name}")).collect();
    let Ok(entries) = std::fs::read_dir(target_directory().join("chaos")) else { return swept };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if is_orphan(&path) {
            for mount in mounts_below(&path) {
                let _ = Command::new("umount").arg("-l").arg(&mount).output();
                swept.push(format!("mount {}", mount.display()));
            }
            if std::fs::remove_dir_all(&path).is_ok() {
                swept.push(format!("directory {}", path.display()));
            }
        }
    }
    swept
}

fn is_orphan(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let owner = name.and_then(|name| name.split('-').next()?.parse::<u32>().ok());
    path.join(RUNNING).exists() && owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Where something is mounted below a directory.
fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    points.filter(|point| point.starts_with(path)).collect()
}

#[cfg(test)]
mod tests {
    use dstore_testkit::small_disk::SmallDisk;

    use super::*;

    #[test]
    fn what_a_killed_run_left_is_swept_and_evidence_is_not() {
        // No process has so high a number.
        let chaos = target_directory().join("chaos");
        let (killed, evidence) = (chaos.join("4194998-test-1"), chaos.join("4194998-test-2"));
        for path in [&killed, &evidence] {
            std::fs::create_dir_all(path.join("node0")).unwrap();
        }
        std::fs::write(killed.join(RUNNING), "").unwrap();
        match SmallDisk::mount(&killed.join("node0"), 1 << 20) {
            Ok(disk) => std::mem::forget(disk), // as a killed process would
            Err(why) => println!("without a mount: {why}"),
        }
        let ours = Directory::make("test", 3).unwrap();
        sweep();
        assert!(!killed.exists());
        assert!(mounts_below(&killed).is_empty());
        assert!(evidence.exists() && ours.path().exists());
        std::fs::remove_dir_all(evidence).unwrap();
        let path = ours.path().to_owned();
        drop(ours);
        assert!(!path.exists());
    }
}
