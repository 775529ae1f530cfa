//! Golden scripts: the files in `golden/`, commands with what they printed when somebody last looked at it.
//!
//! A line that begins with `> ` is a request or, with a `!`, a directive; the lines behind it are its outcome. `UPDATE=1`
//! writes the outcomes anew. Directives:
//!
//! ```text
//! !clock MS        the wall clock is at MS          !db N             selects a database
//! !log COMMAND     through the log, even a read     !peek COMMAND     without the log, whatever it needs
//! !effects on|off  shows what changes               !data             shows what is stored
//! !sweep N         sweeps up to N index records     !next-deadline    the earliest one
//! !version KEY     what WATCH sees                  !limit NAME N     sets a limit
//! @                stands for the cursor of the last SCAN
//! %70000x          stands for 70,000 times the letter x
//! ```

use std::fmt::Write;
use std::path::Path;

use bytes::Bytes;
use dstore_kv::{key_count, next_deadline, sweep, version_of};
use dstore_resp::{CommandFlags, CommandId, Reply, resolve};
use dstore_storage::WriteOp;
use dstore_storage::layout::{Head, Stamp, chunk, key, local};

use crate::support::{RANGE, Store};

#[test]
fn scripts_print_what_they_printed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/golden");
    let mut paths: Vec<_> = directory.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut differing = Vec::new();
    for path in paths {
        let expected = std::fs::read_to_string(&path).unwrap();
        let printed = Script::new().run(&expected);
        if printed == expected {
            continue;
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, printed).unwrap();
        } else {
            differing.push(format!("{}:\n{}", path.display(), first_difference(&expected, &printed)));
        }
    }
    assert!(differing.is_empty(), "{}\nUPDATE=1 accepts what is printed now", differing.join("\n"));
}

fn first_difference(expected: &str, printed: &str) -> String {
    let at = expected.lines().zip(printed.lines()).take_while(|(a, b)| a == b).count();
    let line = |text: &str| text.lines().nth(at).unwrap_or("(the end)").to_owned();
    format!("line {}\n  expected: {}\n  printed:  {}", at + 1, line(expected), line(printed))
}

struct Script {
    store: Store,
    show_effects: bool,
    /// Where the last sweep said the next may begin.
    resume_ms: u64,
    /// The cursor of the last SCAN, which `@` stands for.
    cursor: Bytes,
}

impl Script {
    fn new() -> Script {
        Script { store: Store::new(1_000_000), show_effects: false, resume_ms: 0, cursor: Bytes::new() }
    }

    /// The script with its outcomes replaced by those of this run.
    fn run(&mut self, script: &str) -> String {
        let mut out = String::new();
        for line in script.lines() {
            match line.strip_prefix("> ") {
                Some(input) => {
                    out.push_str(line);
                    out.push('\n');
                    out.push_str(&self.step(&split_words(input)));
                    self.store.data.check(false);
                }
                // Comments and blank lines stand; old outcomes go.
                None if line.is_empty() || line.starts_with('#') => {
                    out.push_str(line);
                    out.push('\n');
                }
                None => {}
            }
        }
        out
    }

    fn step(&mut self, input: &[Bytes]) -> String {
        let words: Vec<String> = input.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap_or_else(|_| panic!("{} is not a number", words[at]));
        match words[0].as_str() {
            "!clock" => self.store.now_ms = number(1),
            "!db" => self.store.db = u8::try_from(number(1)).unwrap(),
            "!effects" => self.show_effects = words[1] == "on",
            "!limit" => self.limit(&words[1], number(2)),
            "!log" => return self.command(&input[1..], Way::Logged),
            "!peek" => return self.command(&input[1..], Way::Peek),
            "!data" => return self.data(),
            "!sweep" => return self.sweep(usize::try_from(number(1)).unwrap()),
            "!next-deadline" => {
                return format!("{:?}\n", next_deadline(&self.store.data, RANGE, self.resume_ms).unwrap());
            }
            "!version" => {
                let store = &self.store;
                return version(version_of(&store.data, store.db, &input[1], store.applied).unwrap()) + "\n";
            }
            directive if directive.starts_with('!') => panic!("unknown directive {directive}"),
            _ => return self.command(input, Way::Node),
        }
        String::new()
    }

    fn limit(&mut self, name: &str, to: u64) {
        let limits = &mut self.store.limits;
        let bytes = usize::try_from(to).unwrap();
        match name {
            "key-bytes" => limits.key_bytes_max = bytes,
            "value-bytes" => limits.value_bytes_max = bytes,
            "reply-bytes" => limits.reply_bytes_max = bytes,
            "pattern-bytes" => limits.pattern_bytes_max = bytes,
            "walk-keys" => limits.walk_keys_max = to,
            "scan-count" => limits.scan_count_max = to,
            "read-bytes" => limits.read_bytes_max = bytes,
            "databases" => limits.databases = u8::try_from(to).unwrap(),
            _ => panic!("unknown limit {name}"),
        }
    }

    fn command(&mut self, args: &[Bytes], way: Way) -> String {
        let args: Vec<Bytes> =
            args.iter().map(|arg| if arg == "@" { self.cursor.clone() } else { arg.clone() }).collect();
        let args = args.as_slice();
        let spec = match resolve(args) {
            Ok(spec) => spec,
            Err(reply) => return show_reply(&reply) + "\n",
        };
        let writes = spec.flags.has(CommandFlags::WRITE);
        let logged = writes || way == Way::Logged;
        let outcome = if logged { self.store.log(spec, args) } else { self.store.read(spec, args) };
        if outcome.needs_time && !logged && way == Way::Node {
            return format!("(needs time)\n{}", self.command(args, Way::Logged));
        }
        if let (CommandId::Scan, Reply::Array(parts)) = (spec.id, &outcome.reply)
            && let Some(Reply::Bulk(cursor)) = parts.first()
        {
            self.cursor = cursor.clone();
        }
        let mut out = match outcome.needs_time {
            true if !logged => "(needs time)".to_owned(),
            true => format!("{} (at a time that must be logged)", show_reply(&outcome.reply)),
            false => show_reply(&outcome.reply),
        };
        out.push('\n');
        if self.show_effects {
            for effect in &outcome.effects {
                writeln!(out, "  {}", show_effect(effect)).unwrap();
            }
        }
        out
    }

    fn sweep(&mut self, index_records_max: usize) -> String {
        let stamp = self.store.next_stamp();
        let sweep = sweep(&self.store.data, RANGE, stamp, self.resume_ms, index_records_max).unwrap();
        self.resume_ms = sweep.resume_ms;
        self.store.data.apply(&sweep.effects);
        self.store.applied = stamp;
        self.store.last_used = stamp.as_u64();
        let mut out = format!("removed {}, resume at {}", sweep.keys_removed, sweep.resume_ms);
        out.push_str(if sweep.more { ", more\n" } else { "\n" });
        for effect in &sweep.effects {
            writeln!(out, "  {}", show_effect(effect)).unwrap();
        }
        out
    }

    fn data(&self) -> String {
        let mut out = String::new();
        for (key, value) in &self.store.data.0 {
            writeln!(out, "  {}", show_record(key, value)).unwrap();
        }
        for db in 0..16 {
            let count = key_count(&self.store.data, RANGE, db).unwrap();
            assert_eq!(count, self.store.data.heads().iter().filter(|(of, ..)| *of == db).count() as u64);
        }
        if out.is_empty() { "  (nothing)\n".into() } else { out }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// As a node would.
    Node,
    Logged,
    Peek,
}

/// Words, or strings in double quotes with `\r \n \t \" \\ \xNN`.
fn split_words(line: &str) -> Vec<Bytes> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let mut word = Vec::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next().expect("a closing quote") {
                    (at, '"') => break at + 1,
                    (_, '\\') => match chars.next().expect("an escaped character").1 {
                        'r' => word.push(b'\r'),
                        'n' => word.push(b'\n'),
                        't' => word.push(b'\t'),
                        'x' => {
                            let digits: String = chars.by_ref().take(2).map(|(_, digit)| digit).collect();
                            word.push(u8::from_str_radix(&digits, 16).expect("two hexadecimal digits"));
                        }
                        other => word.extend(other.to_string().bytes()),
                    },
                    (_, other) => word.extend(other.to_string().bytes()),
                }
            };
            rest = &quoted[end..];
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            word.extend(long_word(&rest[..end]).unwrap_or_else(|| rest[..end].into()));
            rest = &rest[end..];
        }
        words.push(Bytes::from(word));
        rest = rest.trim_start();
    }
    words
}

/// What `%70000x` stands for.
fn long_word(word: &str) -> Option<Vec<u8>> {
    let (count, letter) = word.strip_prefix('%')?.split_at_checked(word.len() - 2)?;
    Some(letter.repeat(count.parse().ok()?).into_bytes())
}

/// As a script would have it; of long ones the ends.
fn quote(bytes: &[u8]) -> String {
    if bytes.len() > 200 {
        let (first, last) = (&bytes[..4], &bytes[bytes.len() - 4..]);
        return format!("\"{}...{}\" ({} bytes)", first.escape_ascii(), last.escape_ascii(), bytes.len());
    }
    format!("\"{}\"", bytes.escape_ascii()).replace("\\'", "'")
}

fn show_reply(reply: &Reply) -> String {
    match reply {
        Reply::Simple(text) => (*text).to_owned(),
        Reply::Error(text) => format!("(error) {}", text.escape_ascii()).replace("\\'", "'"),
        Reply::Integer(value) => format!("(integer) {value}"),
        Reply::Bulk(bytes) => quote(bytes),
        Reply::Null => "(nil)".to_owned(),
        Reply::Array(replies) => format!("[{}]", replies.iter().map(show_reply).collect::<Vec<_>>().join(", ")),
        Reply::Map(pairs) => {
            let pair = |(key, value): &(Reply, Reply)| format!("{}: {}", show_reply(key), show_reply(value));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        other => panic!("no command answers {other:?}"),
    }
}

/// A version as the time of its stamp and the counter.
fn version(version: u64) -> String {
    let stamp = Stamp::from_u64(version);
    format!("v{}+{}", stamp.ms(), version - Stamp::from_ms(stamp.ms()).as_u64())
}

fn show_effect(effect: &WriteOp) -> String {
    match effect {
        WriteOp::Put { key, value } => format!("put {}", show_record(key, value)),
        WriteOp::Delete { key } => format!("delete {}", show_key(key)),
        WriteOp::DeleteRange { start, end } => {
            format!("delete range {}..{}", start.escape_ascii(), end.escape_ascii())
        }
    }
}

fn show_key(encoded: &[u8]) -> String {
    if let Ok(key) = key::decode(encoded) {
        let shown = format!("key {}/{}", key.db, quote(&key.key));
        return match (chunk::decode(key.sub), chunk::decode_orphans(key.sub)) {
            (Some((generation, index)), _) => format!("{shown} chunk {index} of {}", version(generation)),
            (None, Some(generation)) => format!("{shown} chunks of {}", version(generation)),
            (None, None) => shown,
        };
    }
    if let Some((deadline_ms, data_key)) = local::decode_expiry(encoded) {
        return format!("expiry {deadline_ms} {}", show_key(data_key));
    }
    let db = encoded.last().expect("not empty");
    assert_eq!(encoded, &local::count_key(RANGE, *db)[..], "a key of some known form");
    format!("count {db}")
}

fn show_record(encoded: &[u8], value: &Bytes) -> String {
    let shown = show_key(encoded);
    if shown.starts_with("key") && shown.contains(" chunk ") {
        return format!("{shown} = {} bytes", value.len());
    }
    if shown.starts_with("key") {
        let head = Head::decode(value).unwrap();
        let expires = head.expires_at_ms.map_or(String::new(), |ms| format!(" expires {ms}"));
        if let (Some(chunked), Some(generation)) = (head.chunked, head.generation) {
            let (len, size) = (chunked.len, 1 << chunked.bits);
            let version = version(head.version);
            return format!(
                "{shown} = string {version}{expires} {len} bytes in chunks of {size}, generation {}",
                self::version(generation)
            );
        }
        return format!(
            "{shown} = {} {}{expires} {}",
            head.kind.name(),
            version(head.version),
            quote(&head.value(value))
        );
    }
    if shown.starts_with("count") {
        return format!("{shown} = {}", local::decode_count(value).unwrap());
    }
    assert!(value.is_empty());
    shown
}
