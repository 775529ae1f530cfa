//! Stock clients of five languages with their default settings against a *follower* of a cluster of three: redis-py
//! (Python), the `redis` crate (Rust), ioredis (JavaScript), hiredis (C) and Redis.pm (Perl). Each runs a smoke script, a
//! pipeline, MULTI, and a WATCH that fails.
//!
//! The libraries come from the places their users have them from: PyPI, crates.io, npm, Debian. Nothing is installed: they
//! are unpacked below the target directory. A language whose tools or library cannot be had here is left out, and the
//! output says why; `LANGUAGES_MIN=5` makes the test insist on that many.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::path::{Path, PathBuf};
use std::process::Command;

use dstore_e2e::connect;
use dstore_testkit::cluster::{Cluster, Plan};
use dstore_testkit::python;
use dstore_testkit::scratch::target_directory;

const IOREDIS: &str = "ioredis@5.4.1";
const HIREDIS: &[&str] = &["libhiredis-dev"];
const REDIS_PM: &[&str] =
    &["libredis-perl", "libio-socket-timeout-perl", "libtry-tiny-perl", "libperlio-via-timeout-perl"];

/// Runs a program; what it said, or why it failed.
fn attempt(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    Err(format!("{command:?}: {}: {printed}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("languages").join(name)
}

fn folder(name: &str) -> Result<PathBuf, String> {
    let folder = target_directory().join("languages").join(name);
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    Ok(folder)
}

/// Packages of Debian, unpacked but not installed.
fn debian(name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let folder = folder(name)?;
    let root = folder.join("root");
    if !folder.join("done").exists() {
        attempt(Command::new("apt-get").arg("download").args(packages).current_dir(&folder))?;
        let archives = std::fs::read_dir(&folder).map_err(|error| error.to_string())?;
        for archive in archives.flatten().map(|entry| entry.path()) {
            if archive.extension().is_some_and(|extension| extension == "deb") {
                attempt(Command::new("dpkg").arg("-x").arg(&archive).arg(&root))?;
            }
        }
        std::fs::write(folder.join("done"), "").map_err(|error| error.to_string())?;
    }
    Ok(root)
}

fn javascript() -> Result<Command, String> {
    let folder = folder("node")?;
    attempt(Command::new("node").arg("--version"))?;
    let modules = folder.join("node_modules");
    if !modules.join("ioredis").exists() {
        let npm = ["install", "--silent", "--no-audit", "--no-fund", IOREDIS];
        attempt(Command::new("npm").args(npm).arg("--prefix").arg(&folder))?;
    }
    let mut command = Command::new("node");
    command.env("NODE_PATH", modules).arg(script("smoke.js"));
    Ok(command)
}

fn c() -> Result<Command, String> {
    let root = debian("hiredis", HIREDIS)?;
    let archive = attempt(Command::new("find").arg(&root).args(["-name", "libhiredis.a"]))?;
    let program = folder("hiredis")?.join("smoke");
    let mut compiler = Command::new("cc");
    compiler.arg("-I").arg(root.join("usr/include")).arg(script("smoke.c")).arg(archive.trim());
    attempt(compiler.arg("-o").arg(&program))?;
    Ok(Command::new(program))
}

fn perl() -> Result<Command, String> {
    let root = debian("perl", REDIS_PM)?;
    let mut command = Command::new("perl");
    command.arg("-I").arg(root.join("usr/share/perl5")).arg(script("smoke.pl"));
    Ok(command)
}

/// A node that does not lead.
fn follower(cluster: &Cluster) -> usize {
    let leader = cluster.leader();
    cluster.nodes().find(|node| *node != leader).unwrap()
}

fn in_rust(cluster: &Cluster, node: usize) {
    let address = cluster.address(node);
    let (mut redis, mut other) = (connect(address), connect(address));
    redis::cmd("FLUSHALL").exec(&mut redis).unwrap();
    redis::cmd("SET").arg("rs:k").arg("v").exec(&mut redis).unwrap();
    let mut pipeline = redis::pipe();
    (0..100).for_each(|_| {
        pipeline.cmd("INCR").arg("rs:n");
    });
    assert_eq!(pipeline.query::<Vec<i64>>(&mut redis).unwrap(), (1..=100).collect::<Vec<i64>>());
    let mut block = redis::pipe();
    block.atomic().cmd("SET").arg("rs:a").arg(1).ignore().cmd("INCR").arg("rs:a");
    assert_eq!(block.query::<Vec<i64>>(&mut redis).unwrap(), [2]);
    redis::cmd("WATCH").arg("rs:a").exec(&mut redis).unwrap();
    redis::cmd("SET").arg("rs:a").arg(9).exec(&mut other).unwrap();
    let mut block = redis::pipe();
    block.atomic().cmd("SET").arg("rs:a").arg(0).ignore();
    assert_eq!(block.query::<Option<()>>(&mut redis).unwrap(), None);
    assert_eq!(redis::cmd("GET").arg("rs:a").query::<i64>(&mut redis).unwrap(), 9);
}

#[test]
fn clients_of_five_languages_talk_to_a_follower() {
    let cluster = Plan::new("languages").start();
    let node = follower(&cluster);
    let port = cluster.address(node).port().to_string();
    in_rust(&cluster, node);
    let mut passed = vec!["Rust (redis)"];

    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let interpreter = python::interpreter(&here.join("requirements.txt"));
    for protocol in ["2", "3"] {
        attempt(Command::new(&interpreter).arg(here.join("clients.py")).args([&port, protocol])).unwrap();
    }
    passed.push("Python (redis-py)");

    let others = [("JavaScript (ioredis)", javascript()), ("C (hiredis)", c()), ("Perl (Redis.pm)", perl())];
    for (language, command) in others {
        match command {
            Ok(mut command) => {
                let printed = attempt(command.arg(&port)).unwrap_or_else(|why| panic!("{language}: {why}"));
                assert!(printed.contains("smoke passed"), "{language}: {printed}");
                passed.push(language);
            }
            Err(why) => println!("{language} is left out: {why}"),
        }
    }
    println!("passed at a follower: {}", passed.join(", "));
    let wanted = std::env::var("LANGUAGES_MIN").map_or(2, |text| text.parse().unwrap());
    assert!(passed.len() >= wanted, "{} of {wanted} languages", passed.len());
}

#[test]
fn redis_benchmark_s_list_without_collections_runs_against_a_follower() {
    let cluster = Plan::new("benchmark").start();
    let port = cluster.address(follower(&cluster)).port().to_string();
    let tests = "ping_inline,ping_mbulk,set,get,incr,mset";
    for pipeline in ["1", "16"] {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &port, "-e", "--csv", "-n", "2000", "-c", "20", "-r", "1000", "-P", pipeline, "-t", tests]);
        let printed = attempt(&mut command).unwrap();
        assert!(!printed.contains("rror"), "{printed}");
        let lines = printed.lines().filter(|line| line.starts_with('"')).count();
        assert_eq!(lines, 7, "a head and six tests: {printed}");
    }
}
