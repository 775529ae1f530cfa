//! `docs/redis-compatibility.md` and the command table say the same, and the page leaves out no command of Redis.

mod common;

use std::collections::BTreeMap;

use common::redis::Redis;
use dstore_resp::{CommandSpec, Reply};

/// Commands of the page, in lower case with a bar before a subcommand, and their status.
fn page() -> BTreeMap<String, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/redis-compatibility.md");
    let text = std::fs::read_to_string(path).expect("the page is there");
    let mut commands = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", names, status @ ("exact" | "differs" | "not yet"), ..] = cells.as_slice() else { continue };
        for name in names.split('`').map(str::trim).filter(|name| !name.is_empty()) {
            let name = name.to_ascii_lowercase().replace(' ', "|");
            let before = commands.insert(name.clone(), (*status).to_owned());
            assert_eq!(before, None, "{name} is on the page twice");
        }
    }
    commands
}

#[test]
fn the_page_knows_what_is_here_and_what_is_not() {
    let page = page();
    assert!(page.len() > 300, "only {} commands on the page", page.len());
    let here: Vec<&str> = CommandSpec::all().iter().map(|spec| spec.full_name).collect();
    for name in here.iter().filter(|name| !name.starts_with("kv.") && **name != "client|setinfo") {
        let status = page.get(*name).unwrap_or_else(|| panic!("{name} is not on the page"));
        assert_ne!(status, "not yet", "{name} is here");
    }
    for (name, _) in page.iter().filter(|(_, status)| *status != "not yet") {
        assert!(here.contains(&name.as_str()), "{name} is not here");
    }
}

#[test]
fn every_command_of_redis_is_on_the_page() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let page = page();
    let mut client = redis.connect();
    let (_, Reply::Array(listed)) = client.line("COMMAND LIST") else { panic!("COMMAND LIST gives an array") };
    for name in &listed {
        let Reply::Bulk(name) = name else { panic!("COMMAND LIST gave {name:?}") };
        let name = String::from_utf8_lossy(name);
        assert!(page.contains_key(&*name), "{name} is not on the page");
    }
    assert_eq!(listed.len(), page.len(), "nothing else is on the page");
}
