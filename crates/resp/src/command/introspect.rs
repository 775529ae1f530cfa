//! What `COMMAND` and the `HELP` subcommands answer, made from the command table.

use bytes::Bytes;

use super::{Categories, CommandId, CommandSpec, KeyFlags, KeyPositions, arguments};
use crate::Reply;
use crate::glob::glob_matches_nocase;

/// Answers `COMMAND` and its subcommands, for a request that [`resolve`](super::resolve) has found to be `id`. `None`
/// for any other command.
pub fn answer_command(id: CommandId, args: &[Bytes]) -> Option<Reply> {
    Some(match id {
        CommandId::Command => info(&[]),
        CommandId::CommandCount => Reply::Integer(top_level().count() as i64),
        CommandId::CommandDocs => docs(&args[2..]),
        CommandId::CommandGetKeys => get_keys(&args[2..], |_, key| Reply::Bulk(key.clone())),
        CommandId::CommandGetKeysAndFlags => {
            get_keys(&args[2..], |flags, key| Reply::Array(vec![Reply::Bulk(key.clone()), name_set(flags.names())]))
        }
        CommandId::CommandHelp => help(CommandId::Command),
        CommandId::CommandInfo => info(&args[2..]),
        CommandId::CommandList => list(&args[2..]),
        _ => return None,
    })
}

/// The help text of a container: what its `HELP` subcommand answers.
pub fn help(container: CommandId) -> Reply {
    let spec = CommandSpec::of(container);
    let name = spec.full_name.to_ascii_uppercase();
    let mut lines = vec![format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:")];
    for subcommand in spec.subcommands().iter().filter(|subcommand| subcommand.name() != "help") {
        let usage = arguments::usage(&arguments::parse(subcommand.arguments), " ");
        let line = format!("{} {usage}", subcommand.name().to_ascii_uppercase());
        lines.push(line.trim_end().to_owned());
        lines.push(format!("    {}.", subcommand.summary));
    }
    lines.push("HELP".to_owned());
    lines.push("    Prints this help.".to_owned());
    Reply::Array(lines.into_iter().map(|line| Reply::Status(Bytes::from(line))).collect())
}

fn top_level() -> impl Iterator<Item = &'static CommandSpec> {
    CommandSpec::all().iter().filter(|spec| spec.parent.is_none())
}

/// Finds a row by its full name, as in `client|setname`.
fn lookup_full(name: &[u8]) -> Option<&'static CommandSpec> {
    let mut words = name.splitn(2, |byte| *byte == b'|');
    let spec = CommandSpec::lookup(words.next()?)?;
    match words.next() {
        None => Some(spec),
        Some(subcommand) => spec.subcommand(subcommand),
    }
}

fn name_set(names: impl Iterator<Item = &'static str>) -> Reply {
    Reply::Set(names.map(Reply::Simple).collect())
}

/// `COMMAND INFO [name ...]`: all commands, or those named, nothing for an unknown one.
fn info(names: &[Bytes]) -> Reply {
    if names.is_empty() {
        return Reply::Array(top_level().map(describe).collect());
    }
    Reply::Array(names.iter().map(|name| lookup_full(name).map_or(Reply::Null, describe)).collect())
}

fn describe(spec: &'static CommandSpec) -> Reply {
    let (keys, more) = (spec.key_positions, spec.more_keys);
    // The old, single specification covers both lots.
    let last = if more.first == 0 { keys.last } else { more.last };
    Reply::Array(vec![
        Reply::bulk_static(spec.full_name),
        Reply::Integer(spec.arity.into()),
        name_set(spec.flags.names()),
        Reply::Integer(keys.first.into()),
        Reply::Integer(last.into()),
        Reply::Integer(keys.step.into()),
        name_set(spec.categories().names()),
        Reply::Set(spec.tips.iter().map(|tip| Reply::bulk_static(tip)).collect()),
        Reply::Set(
            describe_keys(keys).into_iter().chain(describe_keys(more)).chain(describe_unknown_keys(spec.id)).collect(),
        ),
        describe_subcommands(spec.subcommands()),
    ])
}

/// In RESP3, Redis gives an array if there are any, and an empty set if there are none.
fn describe_subcommands(subcommands: &'static [CommandSpec]) -> Reply {
    if subcommands.is_empty() {
        return Reply::Set(Vec::new());
    }
    Reply::Array(subcommands.iter().map(describe).collect())
}

/// The key specification: where the search for keys begins, and how it goes on from there.
fn describe_keys(keys: KeyPositions) -> Option<Reply> {
    if keys.first == 0 {
        return None;
    }
    let last = if keys.last < 0 { i64::from(keys.last) } else { i64::from(keys.last) - i64::from(keys.first) };
    let text = Reply::bulk_static;
    let search = |kind, spec| Reply::Map(vec![(text("type"), text(kind)), (text("spec"), Reply::Map(spec))]);
    let mut fields = Vec::new();
    if !keys.notes.is_empty() {
        fields.push((text("notes"), text(keys.notes)));
    }
    fields.push((text("flags"), name_set(keys.flags.names())));
    let begin = vec![(text("index"), Reply::Integer(keys.first.into()))];
    fields.push((text("begin_search"), search("index", begin)));
    let find = vec![
        (text("lastkey"), Reply::Integer(last)),
        (text("keystep"), Reply::Integer(keys.step.into())),
        (text("limit"), Reply::Integer(0)),
    ];
    fields.push((text("find_keys"), search("range", find)));
    Some(Reply::Map(fields))
}

/// Keys that no key specification finds: those of SORT's options.
fn describe_unknown_keys(id: CommandId) -> Vec<Reply> {
    let read = (
        "For the optional BY/GET keyword. It is marked 'unknown' because the key names derive from the content of the key \
         we sort",
        KeyFlags::RO.with(KeyFlags::ACCESS),
    );
    let stored = (
        "For the optional STORE keyword. It is marked 'unknown' because the keyword can appear anywhere in the argument \
         array",
        KeyFlags::OW.with(KeyFlags::UPDATE),
    );
    let unknown = match id {
        CommandId::Sort => vec![read, stored],
        CommandId::SortRo => vec![read],
        _ => Vec::new(),
    };
    let text = Reply::bulk_static;
    let search = || Reply::Map(vec![(text("type"), text("unknown")), (text("spec"), Reply::Map(Vec::new()))]);
    let describe = |(notes, flags): (&'static str, KeyFlags)| {
        Reply::Map(vec![
            (text("notes"), text(notes)),
            (text("flags"), name_set(flags.names())),
            (text("begin_search"), search()),
            (text("find_keys"), search()),
        ])
    };
    unknown.into_iter().map(describe).collect()
}

/// `COMMAND DOCS [name ...]`: all commands, or those named that exist.
fn docs(names: &[Bytes]) -> Reply {
    let entry = |spec: &'static CommandSpec| (Reply::bulk_static(spec.full_name), document(spec));
    if names.is_empty() {
        return Reply::Map(top_level().map(entry).collect());
    }
    Reply::Map(names.iter().filter_map(|name| lookup_full(name)).map(entry).collect())
}

fn document(spec: &'static CommandSpec) -> Reply {
    let text = Reply::bulk_static;
    let mut fields = vec![
        (text("summary"), text(spec.summary)),
        (text("since"), text(spec.since)),
        (text("group"), text(spec.group.name())),
        (text("complexity"), text(spec.complexity)),
    ];
    if let Some((since, instead)) = spec.deprecated {
        fields.push((text("doc_flags"), Reply::Set(vec![Reply::Simple("deprecated")])));
        fields.push((text("deprecated_since"), text(since)));
        fields.push((text("replaced_by"), text(instead)));
    }
    if spec.id == CommandId::Debug {
        fields.push((text("doc_flags"), Reply::Set(vec![Reply::Simple("syscmd")])));
    }
    if !spec.arguments.is_empty() {
        fields.push((text("arguments"), arguments::describe(&arguments::parse(spec.arguments))));
    }
    if spec.is_container() {
        let subcommands = spec.subcommands().iter().map(|sub| (text(sub.full_name), document(sub))).collect();
        fields.push((text("subcommands"), Reply::Map(subcommands)));
    }
    Reply::Map(fields)
}

/// `COMMAND LIST [FILTERBY MODULE module | ACLCAT category | PATTERN pattern]`, subcommands included.
fn list(filter: &[Bytes]) -> Reply {
    let names = |keep: &dyn Fn(&CommandSpec) -> bool| {
        let kept = CommandSpec::all().iter().filter(|spec| keep(spec));
        Reply::Array(kept.map(|spec| Reply::bulk_static(spec.full_name)).collect())
    };
    let [filter_by, kind, value] = filter else {
        return match filter {
            [] => names(&|_| true),
            _ => Reply::error("ERR syntax error"),
        };
    };
    if !filter_by.eq_ignore_ascii_case(b"filterby") {
        return Reply::error("ERR syntax error");
    }
    match kind.to_ascii_lowercase().as_slice() {
        b"module" => Reply::Array(Vec::new()),
        b"aclcat" => names(&|spec| has_category(spec.categories(), value)),
        b"pattern" => names(&|spec| glob_matches_nocase(value, spec.full_name.as_bytes())),
        _ => Reply::error("ERR syntax error"),
    }
}

fn has_category(categories: Categories, name: &[u8]) -> bool {
    categories.names().any(|category| category.as_bytes()[1..].eq_ignore_ascii_case(name))
}

/// `COMMAND GETKEYS command arg ...`, and with each key's flags for `GETKEYSANDFLAGS`.
fn get_keys(args: &[Bytes], describe: impl Fn(KeyFlags, &Bytes) -> Reply) -> Reply {
    let found = CommandSpec::lookup(&args[0]).and_then(|spec| match args.get(1) {
        Some(subcommand) if spec.is_container() => spec.subcommand(subcommand),
        _ => Some(spec),
    });
    let Some(spec) = found else {
        return Reply::error("ERR Invalid command specified");
    };
    if spec.key_positions.first == 0 {
        return Reply::error("ERR The command has no key arguments");
    }
    if !spec.arity_allows(args.len()) {
        return Reply::error("ERR Invalid number of arguments specified for command");
    }
    let flags = spec.key_flags(args);
    let first = spec.key_positions.select(args).map(|key| describe(flags, key));
    let more = spec.more_keys.select(args).map(|key| describe(spec.more_keys.flags, key));
    let stored = spec.store_key(args).map(|key| describe(KeyFlags::OW.with(KeyFlags::UPDATE), key));
    Reply::Array(first.chain(more).chain(stored).collect())
}

impl CommandSpec {
    /// What this request does to its (first) keys: [`KeyPositions::flags`], made precise where they depend on other
    /// arguments.
    pub fn key_flags(&self, args: &[Bytes]) -> KeyFlags {
        let flags = self.key_positions.flags;
        if !flags.has(KeyFlags::VARIABLE_FLAGS) {
            return flags;
        }
        let given = |words: &[&[u8]], from: usize| {
            args.iter().skip(from).any(|arg| words.iter().any(|word| arg.eq_ignore_ascii_case(word)))
        };
        match self.id {
            CommandId::Set if given(&[b"get"], 3) => KeyFlags::RW.with(KeyFlags::ACCESS).with(KeyFlags::UPDATE),
            CommandId::Set => KeyFlags::OW.with(KeyFlags::UPDATE),
            CommandId::BitField if bitfield_only_reads(args) => KeyFlags::RO.with(KeyFlags::ACCESS),
            CommandId::BitField => KeyFlags::RW.with(KeyFlags::ACCESS).with(KeyFlags::UPDATE),
            other => unreachable!("{other:?} has no flags that vary"),
        }
    }
}

/// Whether every operation of this BITFIELD is a GET, looking where the operations of a right one stand.
fn bitfield_only_reads(args: &[Bytes]) -> bool {
    let mut at = 2;
    while let Some(operation) = args.get(at) {
        let words = match operation.to_ascii_lowercase().as_slice() {
            b"get" => 3,
            b"overflow" => 2,
            _ => return false,
        };
        at += words;
        if at > args.len() {
            return false;
        }
    }
    true
}
