//! Scratch directories that outlive a failing test, so that its author can look into them.

use std::path::{Path, PathBuf};

/// A directory of its own below the target directory, on a real disk. It is removed when dropped, unless the test that
/// drops it is failing: then it stays, and its path is printed.
#[derive(Debug)]
pub struct Scratch {
    /// `None` once it was decided to keep the directory.
    directory: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty directory whose name begins with `name`.
    ///
    /// # Panics
    ///
    /// When the target directory cannot be written.
    pub fn new(name: &str) -> Scratch {
        let parent = target_directory().join("scratch");
        std::fs::create_dir_all(&parent).expect("the target directory can be written");
        let directory =
            tempfile::Builder::new().prefix(name).tempdir_in(&parent).expect("the target directory can be written");
        Scratch { path: directory.path().to_path_buf(), directory: Some(directory) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes an empty sub-directory.
    ///
    /// # Panics
    ///
    /// When it exists or cannot be made.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::create_dir(&path).expect("the scratch directory can be written");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let (true, Some(directory)) = (std::thread::panicking(), self.directory.take()) {
            let path = directory.keep();
            #[allow(clippy::print_stderr)] // shown with the failing test's output
            {
                eprintln!("scratch directory kept: {}", path.display());
            }
        }
    }
}

/// Cargo's target directory: the running test lies in `<target>/<profile>/deps/`, a program in `<target>/<profile>/`.
///
/// # Panics
///
/// When the running program does not lie in a target directory.
pub fn target_directory() -> PathBuf {
    profile_directory().parent().expect("a profile directory lies in a target directory").to_path_buf()
}

/// Where cargo puts the programs that it builds, `<target>/release` as a rule.
///
/// # Panics
///
/// When the running program does not lie in a target directory.
pub fn profile_directory() -> PathBuf {
    let program = std::env::current_exe().expect("the running program has a path");
    let directory = program.parent().expect("a program lies in a directory");
    let is_test = directory.ends_with("deps") || directory.ends_with("examples");
    let profile = if is_test { directory.parent() } else { Some(directory) };
    profile.expect("cargo's directories are nested").to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_goes_with_a_passing_test_and_stays_with_a_failing_one() {
        let passing = Scratch::new("passing");
        let path = passing.path().to_path_buf();
        assert!(path.is_dir());
        drop(passing);
        assert!(!path.exists());

        let failing = Scratch::new("failing");
        let path = failing.path().to_path_buf();
        let outcome = std::thread::spawn(move || {
            let _kept = failing;
            panic!("as a test would");
        })
        .join();
        assert!(outcome.is_err());
        assert!(path.is_dir());
        std::fs::remove_dir_all(path).unwrap();
    }
}
