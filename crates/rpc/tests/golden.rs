//! Golden scripts: two nodes, a wire between them, and what they say, as text.
//!
//! A script in `tests/scripts` is a list of commands (`> `) each followed by what it printed, and remarks (`# `).
//! Every script runs twice: with the bytes delivered in the pieces they were sent in, and one by one; both must
//! print the same. `RPC_GOLDEN=write cargo test` rewrites the scripts with what was printed.

#[path = "common/world.rs"]
mod world;

use std::path::Path;

use world::{Delivery, World};

/// Runs a script and returns it with the outcome of every command.
fn play(script: &str, delivery: Delivery) -> String {
    let mut world = World::new(delivery);
    let mut played = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            played.push_str(&format!("{line}\n"));
            for outcome in world.run(command) {
                played.push_str(&format!("  {outcome}\n"));
            }
        } else if line.is_empty() || line.starts_with('#') {
            played.push_str(&format!("{line}\n"));
        }
    }
    played
}

#[test]
fn every_script_prints_what_it_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut scripts: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 8, "scripts are missing from {}", folder.display());
    let write = std::env::var("RPC_GOLDEN").is_ok_and(|mode| mode == "write");
    let mut differing = Vec::new();
    let mut all = String::new();
    for path in scripts {
        let script = std::fs::read_to_string(&path).unwrap();
        let whole = play(&script, Delivery::Whole);
        let bytes = play(&script, Delivery::ByteByByte);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(whole, bytes, "{name} depends on how the bytes are split");
        all.push_str(&whole);
        if write {
            std::fs::write(&path, &whole).unwrap();
        } else if whole != script {
            let line = whole.lines().zip(script.lines()).position(|(now, then)| now != then);
            let line = line.unwrap_or_else(|| whole.lines().count().min(script.lines().count()));
            let now = whole.lines().nth(line).unwrap_or("(end)");
            let then = script.lines().nth(line).unwrap_or("(end)");
            differing.push(format!("{name}:{}\n  expected {then}\n  printed  {now}", line + 1));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    for kind in dstore_rpc::frame::Kind::ALL {
        let seen = [format!("a>b {kind:?}"), format!("b>a {kind:?}")].iter().any(|frame| all.contains(frame));
        assert!(seen, "no script shows a {kind:?} frame");
    }
}
