//! The command table: look-up, arity, keys and Redis's error texts.

use bytes::Bytes;
use dstore_resp::{CommandId, CommandSpec, Reply, resolve};

fn args(line: &str) -> Vec<Bytes> {
    line.split(' ').map(|arg| Bytes::copy_from_slice(arg.as_bytes())).collect()
}

fn error_of(args: &[Bytes]) -> String {
    match resolve(args) {
        Err(Reply::Error(text)) => String::from_utf8_lossy(&text).into_owned(),
        other => panic!("expected an error, got {other:?}"),
    }
}

#[test]
fn every_row_is_found_by_its_name_in_any_case_and_by_its_id() {
    for spec in CommandSpec::all() {
        assert!(std::ptr::eq(CommandSpec::of(spec.id), spec));
        let upper = spec.name().to_ascii_uppercase();
        let found = match spec.parent {
            None => CommandSpec::lookup(upper.as_bytes()),
            Some(parent) => CommandSpec::of(parent).subcommand(upper.as_bytes()),
        };
        assert_eq!(found.map(|found| found.id), Some(spec.id));
        assert_eq!(spec.full_name, spec.full_name.to_ascii_lowercase());
    }
    assert!(CommandSpec::lookup(b"setname").is_none(), "a subcommand is not a command");
    assert!(CommandSpec::lookup(b"client|setname").is_none());
    assert!(CommandSpec::lookup(b"").is_none());
    assert!(CommandSpec::lookup(&[b'g'; 1000]).is_none());
}

#[test]
fn containers_know_their_subcommands() {
    let client = CommandSpec::of(CommandId::Client);
    assert!(client.is_container());
    let names: Vec<_> = client.subcommands().iter().map(CommandSpec::name).collect();
    assert_eq!(
        names,
        [
            "caching",
            "getname",
            "getredir",
            "help",
            "id",
            "info",
            "kill",
            "list",
            "no-evict",
            "pause",
            "reply",
            "setinfo",
            "setname",
            "tracking",
            "trackinginfo",
            "unblock",
            "unpause",
        ]
    );
    assert!(!CommandSpec::of(CommandId::KvCas).is_container());
    assert!(CommandSpec::of(CommandId::KvCas).subcommands().is_empty());
    assert!(CommandSpec::of(CommandId::ClientSetName).subcommands().is_empty());
}

#[test]
fn a_request_resolves_to_the_subcommand_it_names() {
    assert_eq!(resolve(&args("CLIENT setname x")).unwrap().id, CommandId::ClientSetName);
    assert_eq!(resolve(&args("command")).unwrap().id, CommandId::Command);
    assert_eq!(resolve(&args("Command COUNT")).unwrap().id, CommandId::CommandCount);
}

#[test]
fn a_wrong_number_of_arguments_is_named_as_redis_names_it() {
    assert_eq!(error_of(&args("GET")), "ERR wrong number of arguments for 'get' command");
    assert_eq!(error_of(&args("gEt a b")), "ERR wrong number of arguments for 'get' command");
    assert_eq!(error_of(&args("set a")), "ERR wrong number of arguments for 'set' command");
    assert_eq!(error_of(&args("client")), "ERR wrong number of arguments for 'client' command");
    assert_eq!(error_of(&args("client setname")), "ERR wrong number of arguments for 'client|setname' command");
}

#[test]
fn unknown_commands_are_quoted_and_cut_as_redis_does() {
    assert_eq!(error_of(&args("foo")), "ERR unknown command 'foo', with args beginning with: ");
    assert_eq!(error_of(&args("foo a b")), "ERR unknown command 'foo', with args beginning with: 'a' 'b' ");
    assert_eq!(error_of(&args("client nope x")), "ERR unknown subcommand 'nope'. Try CLIENT HELP.");
    let long = "x".repeat(200);
    assert_eq!(
        error_of(&args(&format!("{long} {long} y"))),
        format!("ERR unknown command '{0}', with args beginning with: '{0}' ", &long[..128])
    );
    let a = "a".repeat(100);
    assert_eq!(
        error_of(&args(&format!("foo {a} {long} z"))),
        format!("ERR unknown command 'foo', with args beginning with: '{a}' '{}' ", &long[..25])
    );
    let odd = [Bytes::from_static(b"f\0o"), Bytes::from_static(b"a\r\nb"), Bytes::from_static(b"c\0d")];
    assert_eq!(error_of(&odd), "ERR unknown command 'f', with args beginning with: 'a  b' 'c' ");
}

#[test]
fn the_keys_of_a_request_are_where_the_table_says() {
    let keys = |line: &str| -> Vec<String> {
        let args = args(line);
        let spec = resolve(&args).unwrap();
        spec.keys(&args).map(|key| String::from_utf8(key.to_vec()).unwrap()).collect()
    };
    assert_eq!(keys("get a"), ["a"]);
    assert_eq!(keys("set a b EX 1"), ["a"]);
    assert_eq!(keys("mget a b c"), ["a", "b", "c"]);
    assert_eq!(keys("mset a 1 b 2"), ["a", "b"]);
    assert_eq!(keys("mset a 1 b"), ["a", "b"], "MSET itself refuses the odd argument");
    assert_eq!(keys("watch a b"), ["a", "b"]);
    assert_eq!(keys("kv.cas k 1 v"), ["k"]);
    assert_eq!(keys("kv.range a b"), [""; 0]);
    assert_eq!(keys("ping"), [""; 0]);
}
