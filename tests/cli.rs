//! The command line: what it prints, and that every reason not to start is one clear line and exit code 1.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::net::TcpListener;
use std::process::{Command, Output};

use dstore_e2e::connect;
use dstore_testkit::process::{Dstore, dstore_program, run, run_to_end};
use dstore_testkit::scratch::Scratch;

/// It ended with 1 and one line that contains each of `parts`.
fn assert_refused(output: &Output, parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "one line, not:\n{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is missing in: {stderr}");
    }
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing claims that it serves");
}

#[test]
fn help_and_version_are_told() {
    let version = run(Command::new(dstore_program()).arg("--version"), b"");
    assert_eq!(version.trim_end(), concat!("dstore ", env!("CARGO_PKG_VERSION")));
    let help = run(Command::new(dstore_program()).args(["start", "--help"]), b"");
    for flag in ["--data-dir", "--listen", "--config", "--log-level"] {
        assert!(help.contains(flag), "{flag} is missing in:\n{help}");
    }
    assert!(help.contains("127.0.0.1:6379"), "the default address is told");
    assert!(run(Command::new(dstore_program()).arg("--help"), b"").contains("start"));
}

#[test]
fn a_data_directory_in_use_is_refused_and_its_user_is_not_disturbed() {
    let scratch = Scratch::new("cli");
    let data = scratch.directory("data");
    let server = Dstore::on(&data).start(&scratch).unwrap();
    let second = run_to_end(&mut Dstore::on(&data).command(), b"");
    assert_refused(&second, &["in use", data.to_str().unwrap()]);
    redis::cmd("SET").arg("k").arg("v").exec(&mut connect(server.address())).unwrap();
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_directory_that_is_somebody_elses_is_refused_and_left_as_it_was() {
    let scratch = Scratch::new("cli");
    let data = scratch.directory("home");
    std::fs::write(data.join("thesis.txt"), "ten years of work").unwrap();
    let output = run_to_end(&mut Dstore::on(&data).command(), b"");
    assert_refused(&output, &[data.to_str().unwrap(), "not a dstore data directory"]);
    let names: Vec<_> = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["thesis.txt"]);
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let scratch = Scratch::new("cli");
    let path = scratch.path().join("file");
    std::fs::write(&path, "").unwrap();
    assert_refused(&run_to_end(&mut Dstore::on(&path).command(), b""), &[path.to_str().unwrap()]);
}

#[test]
fn a_taken_port_is_refused() {
    let scratch = Scratch::new("cli");
    let data = scratch.directory("data");
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let output = run_to_end(&mut Dstore::on(&data).flags(&["--listen", &address]).command(), b"");
    assert_refused(&output, &[&address]);
}

#[test]
fn a_typo_in_the_configuration_is_refused_with_its_place() {
    let scratch = Scratch::new("cli");
    let data = scratch.directory("data");
    let config = scratch.path().join("dstore.toml");
    let attempt = |text: &str| {
        std::fs::write(&config, text).unwrap();
        run_to_end(&mut Dstore::on(&data).flags(&["--config", config.to_str().unwrap()]).command(), b"")
    };
    assert_refused(
        &attempt("log_level = \"info\"\nlissten = \"127.0.0.1:0\"\n"),
        &["dstore.toml", "line 2", "lissten"],
    );
    assert_refused(&attempt("listen = 6379\n"), &["dstore.toml", "line 1"]);
    assert_refused(&attempt("log_level = \"info\n"), &["dstore.toml", "line 1"]);
    std::fs::remove_file(&config).unwrap();
    let missing = run_to_end(&mut Dstore::on(&data).flags(&["--config", config.to_str().unwrap()]).command(), b"");
    assert_refused(&missing, &["dstore.toml"]);
}

#[test]
fn every_setting_may_stand_in_the_configuration_and_a_flag_wins() {
    let scratch = Scratch::new("cli");
    let data = scratch.directory("data");
    let config = scratch.path().join("dstore.toml");
    std::fs::write(&config, "listen = \"192.0.2.1:1\"\nlog_level = \"debug\"\nvalue_bytes_max = \"1MiB\"\n").unwrap();
    let server = Dstore::on(&data).flags(&["--config", config.to_str().unwrap()]).start(&scratch).unwrap();
    let mut connection = connect(server.address());
    redis::cmd("SET").arg("k").arg(vec![b'x'; 1 << 20]).exec(&mut connection).unwrap();
    assert!(redis::cmd("SET").arg("k").arg(vec![b'x'; (1 << 20) + 1]).exec(&mut connection).is_err());
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn beyond_this_machine_only_with_a_password_or_on_request() {
    let scratch = Scratch::new("cli");
    let data = scratch.directory("data");
    let output = run_to_end(&mut Dstore::on(&data).flags(&["--listen", "0.0.0.0:0"]).command(), b"");
    assert_refused(&output, &["0.0.0.0:0", "requirepass", "--protected-mode false"]);
    let server =
        Dstore::on(&data).flags(&["--listen", "0.0.0.0:0", "--protected-mode", "false"]).start(&scratch).unwrap();
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn peers_that_make_no_cluster_are_refused() {
    let scratch = Scratch::new("cli");
    let data = scratch.directory("data");
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "as long as it has to be\n").unwrap();
    let attempt = |flags: &[&str]| run_to_end(&mut Dstore::on(&data).flags(flags).command(), b"");
    let with_secret = |peers: &str| attempt(&["--peers", peers, "--cluster-secret-file", secret.to_str().unwrap()]);
    assert_refused(&attempt(&["--peers", "127.0.0.1:1"]), &["--cluster-secret-file", "/dev/urandom"]);
    assert_refused(&with_secret("127.0.0.1"), &["127.0.0.1", "no port"]);
    assert_refused(&with_secret("127.0.0.1:1,127.0.0.1:1"), &["127.0.0.1:1 twice"]);
    assert_refused(&with_secret("127.0.0.1:1,127.0.0.1:2"), &["--peer-listen"]);
    std::fs::write(&secret, "too short\n").unwrap();
    assert_refused(&with_secret("127.0.0.1:1"), &[secret.to_str().unwrap(), "16 bytes", "/dev/urandom"]);
}

#[test]
fn the_directory_of_one_node_does_not_join_others_by_its_settings() {
    let scratch = Scratch::new("cli");
    let data = scratch.directory("data");
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "as long as it has to be").unwrap();
    assert_eq!(Dstore::on(&data).start(&scratch).unwrap().stop().code(), Some(0));
    let peers = "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3";
    let flags = ["--peers", peers, "--cluster-secret-file", secret.to_str().unwrap()];
    assert_refused(&run_to_end(&mut Dstore::on(&data).flags(&flags).command(), b""), &["names 3", "a cluster of 1"]);
}

#[test]
fn a_directory_of_another_format_or_a_damaged_one_is_refused() {
    let scratch = Scratch::new("cli");
    let data = scratch.directory("data");
    assert_eq!(Dstore::on(&data).start(&scratch).unwrap().stop().code(), Some(0));
    let attempt = || run_to_end(&mut Dstore::on(&data).command(), b"");
    let identity = std::fs::read_to_string(data.join("IDENTITY")).unwrap();
    std::fs::write(data.join("IDENTITY"), identity.replace("format = 2", "format = 1")).unwrap();
    assert_refused(&attempt(), &[data.to_str().unwrap(), "format 1", "format 2"]);
    std::fs::write(data.join("IDENTITY"), &identity[..identity.len() / 2]).unwrap();
    assert_refused(&attempt(), &["IDENTITY", "damaged"]);
    std::fs::write(data.join("IDENTITY"), &identity).unwrap();
    std::fs::remove_file(data.join("INCARNATION")).unwrap();
    assert_refused(&attempt(), &["INCARNATION", "damaged", "missing"]);
}

#[test]
fn wrong_usage_is_told_from_failure() {
    let output = run_to_end(Command::new(dstore_program()).args(["start", "--no-such-flag"]), b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--no-such-flag"));
}
