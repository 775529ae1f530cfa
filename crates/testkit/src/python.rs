//! A Python with the packages that the tests need, in a virtual environment below the target directory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;
use crate::scratch::target_directory;

/// The interpreter of an environment that holds what `requirements` (a pip requirements file) lists. It is made when
/// it is missing or the list changed, which takes the network once; tests in other processes wait meanwhile.
///
/// # Panics
///
/// When the environment cannot be made (Debian: python3, python3-venv).
pub fn interpreter(requirements: &Path) -> PathBuf {
    let list = std::fs::read_to_string(requirements).expect("the requirements can be read");
    let environment = target_directory().join("python");
    std::fs::create_dir_all(target_directory()).expect("the target directory can be written");
    let lock = File::create(target_directory().join("python.lock")).expect("the target directory can be written");
    lock.lock().expect("a file can be locked");
    let done = environment.join("installed.txt");
    let interpreter = environment.join("bin/python3");
    if !interpreter.exists() || std::fs::read_to_string(&done).ok().as_ref() != Some(&list) {
        // Anything that is there is of another list, or of a Python that is gone.
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment), b"");
        run(Command::new(&interpreter).args(["-m", "pip", "install", "--quiet", "-r"]).arg(requirements), b"");
        std::fs::write(&done, list).expect("the target directory can be written");
    }
    interpreter
}
