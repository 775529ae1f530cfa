//! Commands of Redis that are not here: what to use instead. The command table does not have them, so clients that ask
//! for it (`COMMAND`) do not count on them.

use bytes::Bytes;
use dstore_resp::{CommandSpec, Reply};

/// The error of a command of Redis that is not here; `None` for a name that is no command of Redis either.
pub(crate) fn refusal(args: &[Bytes]) -> Option<Reply> {
    let name = String::from_utf8(args[0].to_ascii_lowercase()).ok()?;
    if name == "cluster" {
        // Client libraries recognize Redis's words.
        return Some(Reply::error(
            "ERR This instance has cluster support disabled: connect to any node as to a single Redis, each takes every \
             command; see INFO raft for the members",
        ));
    }
    // What is here was refused for another reason.
    let container = CommandSpec::lookup(&args[0]);
    if container.is_some_and(|spec| args.get(1).is_some_and(|word| spec.subcommand(word).is_some())) {
        return None;
    }
    let subcommand = args.get(1).map(|word| String::from_utf8_lossy(word).to_ascii_lowercase());
    let instead = match (name.as_str(), subcommand.as_deref()) {
        ("acl", Some(_)) => {
            "there is one user, `default`, who may do everything; CONFIG SET requirepass sets his password until the \
             node is started again"
        }
        _ => instead(&name)?,
    };
    let full = match subcommand.filter(|_| name == "acl") {
        Some(subcommand) => format!("{name} {}", subcommand.replace(['\r', '\n'], " ")),
        None => name,
    };
    Some(Reply::error(format!("ERR {} is not supported: {instead}", full.to_ascii_uppercase())))
}

fn instead(name: &str) -> Option<&'static str> {
    Some(match name {
        "save" | "bgsave" | "bgrewriteaof" | "lastsave" => {
            "every answered write is already on the disks of a majority; there is nothing to save"
        }
        "replicaof" | "slaveof" | "psync" | "sync" | "replconf" | "role" | "failover" | "restore-asking" => {
            "replication is the cluster's own, by Raft; see INFO raft for the members and who leads"
        }
        "asking" | "readonly" | "readwrite" => "every node takes every command; there are no slots and no redirections",
        "sentinel" => "the cluster elects its leader itself; connect to any node",
        "module" => "there are no modules",
        "migrate" => "copy keys with DUMP and RESTORE",
        "swapdb" => "write to a new database and SELECT it",
        "subscribe" | "unsubscribe" | "psubscribe" | "punsubscribe" | "ssubscribe" | "sunsubscribe" | "publish"
        | "spublish" | "pubsub" => "messages between clients are not there; poll a key with KV.VERSION instead",
        "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "script" | "fcall" | "fcall_ro" | "function" => {
            "there are no scripts; use MULTI with WATCH, or KV.CAS, which are atomic at any node"
        }
        _ => return None,
    })
}
