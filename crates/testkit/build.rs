//! Compiles the power-loss library with the C compiler that also links Rust programs.

use std::path::Path;
use std::process::Command;

#[allow(clippy::print_stdout)] // build scripts speak to cargo through standard output
fn main() {
    let source = "shim/powerloss.c";
    println!("cargo:rerun-if-changed={source}");
    println!("cargo:rerun-if-env-changed=CC");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let library = Path::new(&out).join("libpowerloss.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&compiler)
        .args(["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread"])
        .arg("-U_FORTIFY_SOURCE") // it defines the very functions that fortified headers replace
        .arg("-o")
        .arg(&library)
        .arg(source)
        .status()
        .unwrap_or_else(|error| panic!("cannot run the C compiler {compiler:?}: {error} (Debian: gcc, libc6-dev)"));
    assert!(status.success(), "{compiler:?} could not compile {source}: {status}");
    println!("cargo:rustc-env=POWERLOSS_LIBRARY={}", library.display());
}
