//! Watches the repository: lengths, unfinished marks, module docs, the bans of the pure crates, traces of machines,
//! lints, and a reason for each dependency.
//!
//! The rules live in `checks`, each tested there on a small bad example. Lengths are a ratchet: what is over the limit
//! stands below with its number, and that number may only fall. The lists are short; keep them so.

mod checks;
mod source;

use std::path::{Path, PathBuf};
use std::process::Command;

use checks::{Complaint, Ratchet};

/// Files over [`checks::FILE_LINES_MAX`], with their lines.
const LONG_FILES: &[Ratchet] = &[];

/// Functions over [`checks::FUNCTION_LINES_MAX`], with their lines.
const LONG_FUNCTIONS: &[Ratchet] = &[];

/// Crates that are handed time, seeds and bytes, and reach for nothing themselves.
const PURE_CRATES: &[&str] = &["kv", "node", "raft", "resp", "rpc"];

/// A text file of the repository; the path is relative to its root and uses `/`.
struct TextFile {
    path: String,
    text: String,
}

fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the crate lies in the repository")
}

/// What is committed and what would be: ignored files are nobody's business.
fn text_files() -> Vec<TextFile> {
    let root = repository_root();
    let listing = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output()
        .expect("git is installed");
    assert!(listing.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listing.stderr));
    let names = String::from_utf8(listing.stdout).expect("file names are UTF-8");
    let files: Vec<TextFile> = names
        .split_terminator('\0')
        .filter_map(|path| {
            let bytes = std::fs::read(root.join(path)).ok()?; // deleted but not yet committed
            let text = String::from_utf8(bytes).ok()?; // not text
            Some(TextFile { path: path.to_string(), text })
        })
        .collect();
    assert!(files.len() > 20, "only {} files: is {} the repository?", files.len(), root.display());
    files
}

fn rust_files(files: &[TextFile]) -> impl Iterator<Item = (&str, &str)> {
    files.iter().filter(|file| file.path.ends_with(".rs")).map(|file| (file.path.as_str(), file.text.as_str()))
}

fn text_of<'a>(files: &'a [TextFile], path: &str) -> Option<&'a str> {
    files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
}

fn assert_none(complaints: Vec<Complaint>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn files_stay_short_enough_to_hold_one_idea() {
    assert_none(checks::file_lengths(rust_files(&text_files()), LONG_FILES));
}

#[test]
fn functions_stay_short_enough_to_read_at_a_glance() {
    assert_none(checks::function_lengths(rust_files(&text_files()), LONG_FUNCTIONS));
}

#[test]
fn nothing_is_marked_unfinished() {
    let files = text_files();
    assert_none(files.iter().flat_map(|file| checks::unfinished_marks(&file.path, &file.text)).collect());
}

#[test]
fn every_module_begins_by_saying_what_it_is_for() {
    assert_none(rust_files(&text_files()).filter_map(|(path, text)| checks::module_docs(path, text)).collect());
}

#[test]
fn pure_crates_ban_clocks_threads_sockets_files_and_random_hashing() {
    let files = text_files();
    let mut complaints = Vec::new();
    for name in PURE_CRATES {
        let prefix = format!("crates/{name}/src/");
        if rust_files(&files).any(|(path, _)| path.starts_with(&prefix)) {
            let path = format!("crates/{name}/clippy.toml");
            complaints.extend(checks::pure_crate_bans(&path, text_of(&files, &path)));
        }
    }
    assert_none(complaints);
}

#[test]
fn no_file_knows_one_machine_or_one_network() {
    let files = text_files();
    assert_none(files.iter().flat_map(|file| checks::machine_traces(&file.path, &file.text)).collect());
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    let files = text_files();
    let manifests = files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    assert_none(manifests.filter_map(|file| checks::workspace_lints(&file.path, &file.text)).collect());
}

#[test]
fn every_dependency_has_a_reason_on_the_architecture_page() {
    let files = text_files();
    let manifest = text_of(&files, "Cargo.toml").expect("the root manifest exists");
    let architecture = text_of(&files, "docs/ARCHITECTURE.md").unwrap_or("");
    assert_none(checks::dependency_reasons(manifest, architecture));
}
