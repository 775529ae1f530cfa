//! The same random requests to us and to a model that is as plain as it can be: a map, emptied of what has expired
//! before every command. What it is here for is time, which the comparison with Redis leaves out: clocks that jump and
//! step back, keys that expire between two commands, reads that must not answer from an applied state that is too old,
//! sweeps at any moment, and several commands in one entry.
//!
//! `KV_SEED=n` replays a run, `KV_MODEL=n` compares that many requests.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dstore_kv::{CursorTable, Cursors, Mode, next_deadline, sweep};
use dstore_resp::{CommandFlags, Reply, glob_matches, resolve};
use dstore_storage::layout::Stamp;

use crate::support::{RANGE, Store, setting, words};
use dstore_testkit::requests::{Generator, KEYS, Random};

const REQUESTS: u64 = 40_000;
/// Of those on long values, which take longer.
const LONG_REQUESTS: u64 = 2_000;

const VALUE_BYTES_MAX: usize = 1 << 20;
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
const SYNTAX: &str = "ERR syntax error";

/// A time as given, with the option that says how.
type Time = (String, Bytes);

/// Value and deadline.
type Entry = (Vec<u8>, Option<u64>);

#[derive(Clone, Default)]
struct Model {
    keys: BTreeMap<(u8, Vec<u8>), Entry>,
    db: u8,
    now_ms: u64,
}

impl Model {
    fn expire(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.keys.retain(|_, (_, deadline_ms)| deadline_ms.is_none_or(|deadline_ms| deadline_ms > now_ms));
    }

    fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.keys.get(&(self.db, key.to_vec()))
    }

    fn value(&self, key: &[u8]) -> Reply {
        self.get(key).map_or(Reply::Null, |(value, _)| Reply::Bulk(Bytes::copy_from_slice(value)))
    }

    fn set(&mut self, key: &[u8], value: &[u8], deadline_ms: Option<u64>) {
        self.keys.insert((self.db, key.to_vec()), (value.to_vec(), deadline_ms));
        self.expire(self.now_ms);
    }

    fn remove(&mut self, key: &[u8]) -> i64 {
        i64::from(self.keys.remove(&(self.db, key.to_vec())).is_some())
    }

    fn matching(&self, pattern: &[u8]) -> Reply {
        let here =
            self.keys.keys().filter(|(db, key)| *db == self.db && (pattern == b"*" || glob_matches(pattern, key)));
        Reply::Array(here.map(|(_, key)| Reply::Bulk(Bytes::copy_from_slice(key))).collect())
    }

    fn run(&mut self, args: &[Bytes]) -> Result<Reply, String> {
        let name = String::from_utf8(args[0].to_ascii_lowercase()).unwrap();
        let key = args.get(1).map_or(&b""[..], |key| key);
        let int = |value: i64| Ok(Reply::Integer(value));
        match name.as_str() {
            "get" => Ok(self.value(key)),
            "set" => self.run_set(args),
            "getex" => self.run_getex(args),
            "getdel" => {
                let value = self.value(key);
                self.remove(key);
                Ok(value)
            }
            "mget" => Ok(Reply::Array(args[1..].iter().map(|key| self.value(key)).collect())),
            "mset" | "msetnx" if args.len().is_multiple_of(2) => {
                Err(format!("ERR wrong number of arguments for '{name}' command"))
            }
            "mset" | "msetnx" => {
                let nx = name == "msetnx";
                if nx && args[1..].iter().step_by(2).any(|key| self.get(key).is_some()) {
                    return int(0);
                }
                args[1..].chunks(2).for_each(|pair| self.set(&pair[0], &pair[1], None));
                if nx { int(1) } else { Ok(Reply::OK) }
            }
            "setnx" if self.get(key).is_some() => int(0),
            "setnx" => {
                self.set(key, &args[2], None);
                int(1)
            }
            "append" => {
                let (old, deadline_ms) = self.get(key).cloned().unwrap_or_default();
                let new = [&old[..], &args[2]].concat();
                if new.len() > VALUE_BYTES_MAX {
                    return Err(TOO_LONG.into());
                }
                self.set(key, &new, deadline_ms);
                int(new.len() as i64)
            }
            "strlen" => int(self.get(key).map_or(0, |(value, _)| value.len() as i64)),
            "incr" => self.add(key, 1),
            "decr" => self.add(key, -1),
            "incrby" => self.add(key, integer(&args[2])?.into()),
            "decrby" => match integer(&args[2])? {
                i64::MIN => Err("ERR decrement would overflow".into()),
                by => self.add(key, -i128::from(by)),
            },
            "setex" | "psetex" => {
                let form = if name == "setex" { "EX" } else { "PX" };
                let deadline_ms = self.positive_deadline(&name, &(form.to_owned(), args[2].clone()))?;
                self.set(key, &args[3], Some(deadline_ms));
                Ok(Reply::OK)
            }
            "getset" => {
                let old = self.value(key);
                self.set(key, &args[2], None);
                Ok(old)
            }
            "setrange" => self.run_setrange(args),
            _ => self.run_on_keys(&name, args),
        }
    }

    /// The commands that would be the same for any type.
    fn run_on_keys(&mut self, name: &str, args: &[Bytes]) -> Result<Reply, String> {
        let key = args.get(1).map_or(&b""[..], |key| key);
        let int = |value: i64| Ok(Reply::Integer(value));
        match name {
            "del" | "unlink" => int(args[1..].iter().map(|key| self.remove(key)).sum()),
            "rename" | "renamenx" => self.run_rename(name == "renamenx", key, &args[2]),
            "move" => self.run_move(key, &args[2]),
            "copy" => self.run_copy(args),
            "exists" | "touch" => int(args[1..].iter().filter(|key| self.get(key).is_some()).count() as i64),
            "type" => Ok(Reply::Simple(if self.get(key).is_some() { "string" } else { "none" })),
            "expire" | "pexpire" | "expireat" | "pexpireat" => self.run_expire(name, args),
            "ttl" | "pttl" | "expiretime" | "pexpiretime" => int(self.tell(name, key)),
            "persist" => match self.get(key).cloned() {
                Some((value, Some(_))) => {
                    self.set(key, &value, None);
                    int(1)
                }
                _ => int(0),
            },
            "keys" => Ok(self.matching(key)),
            "dbsize" => int(self.keys.keys().filter(|(db, _)| *db == self.db).count() as i64),
            "flushall" | "flushdb" => {
                let option = args.get(1).map(|option| option.to_ascii_lowercase());
                if args.len() > 2 || option.is_some_and(|option| option != b"sync" && option != b"async") {
                    return Err(SYNTAX.into());
                }
                let db = self.db;
                self.keys.retain(|(of, _), _| name == "flushdb" && *of != db);
                Ok(Reply::OK)
            }
            other => panic!("{other} is not in the model"),
        }
    }

    fn add(&mut self, key: &[u8], by: i128) -> Result<Reply, String> {
        let (old, deadline_ms) = self.get(key).cloned().unwrap_or((b"0".to_vec(), None));
        let new =
            i64::try_from(i128::from(integer(&old)?) + by).map_err(|_| "ERR increment or decrement would overflow")?;
        self.set(key, new.to_string().as_bytes(), deadline_ms);
        Ok(Reply::Integer(new))
    }

    fn run_setrange(&mut self, args: &[Bytes]) -> Result<Reply, String> {
        let offset = usize::try_from(integer(&args[2])?).map_err(|_| "ERR offset is out of range")?;
        let (mut value, deadline_ms) = self.get(&args[1]).cloned().unwrap_or_default();
        if args[3].is_empty() {
            return Ok(Reply::Integer(value.len() as i64));
        }
        let end = offset.saturating_add(args[3].len());
        if end > VALUE_BYTES_MAX {
            return Err(TOO_LONG.into());
        }
        value.resize(value.len().max(end), 0);
        value[offset..end].copy_from_slice(&args[3]);
        self.set(&args[1], &value, deadline_ms);
        Ok(Reply::Integer(value.len() as i64))
    }

    fn run_rename(&mut self, if_absent: bool, key: &[u8], new_key: &[u8]) -> Result<Reply, String> {
        let (value, deadline_ms) = self.get(key).cloned().ok_or("ERR no such key")?;
        let done = key != new_key && !(if_absent && self.get(new_key).is_some());
        if done {
            self.remove(key);
            self.set(new_key, &value, deadline_ms);
        }
        Ok(if if_absent { Reply::Integer(done.into()) } else { Reply::OK })
    }

    fn database(text: &[u8]) -> Result<u8, String> {
        let index = i32::try_from(integer(text)?)
            .map_err(|_| "ERR value is out of range, value must between -2147483648 and 2147483647")?;
        let db = u8::try_from(index).ok().filter(|db| *db < 16);
        db.ok_or_else(|| "ERR DB index is out of range".into())
    }

    fn run_move(&mut self, key: &[u8], db: &[u8]) -> Result<Reply, String> {
        let db = Model::database(db)?;
        if db == self.db {
            return Err("ERR source and destination objects are the same".into());
        }
        let Some(entry) = self.get(key).cloned() else { return Ok(Reply::Integer(0)) };
        if self.keys.contains_key(&(db, key.to_vec())) {
            return Ok(Reply::Integer(0));
        }
        self.remove(key);
        self.keys.insert((db, key.to_vec()), entry);
        Ok(Reply::Integer(1))
    }

    fn run_copy(&mut self, args: &[Bytes]) -> Result<Reply, String> {
        let (mut db, mut replace) = (self.db, false);
        let mut rest = args[3..].iter();
        while let Some(option) = rest.next() {
            match (option.to_ascii_uppercase().as_slice(), rest.as_slice().first()) {
                (b"REPLACE", _) => replace = true,
                (b"DB", Some(text)) => {
                    db = Model::database(text)?;
                    rest.next();
                }
                _ => return Err(SYNTAX.into()),
            }
        }
        if db == self.db && args[1] == args[2] {
            return Err("ERR source and destination objects are the same".into());
        }
        let target = (db, args[2].to_vec());
        let Some(entry) = self.get(&args[1]).cloned() else { return Ok(Reply::Integer(0)) };
        if self.keys.contains_key(&target) && !replace {
            return Ok(Reply::Integer(0));
        }
        self.keys.insert(target, entry);
        Ok(Reply::Integer(1))
    }

    fn tell(&self, name: &str, key: &[u8]) -> i64 {
        let Some((_, deadline_ms)) = self.get(key) else { return -2 };
        let Some(deadline_ms) = deadline_ms else { return -1 };
        let ms = if name.ends_with("ttl") { deadline_ms - self.now_ms } else { *deadline_ms } as i64;
        if name.starts_with('p') { ms } else { (i128::from(ms) + 500).div_euclid(1000) as i64 }
    }

    /// The options of SET and GETEX: which there are, and the last time given.
    fn options(args: &[Bytes], known: &[&str]) -> Result<(Vec<String>, Option<Time>), String> {
        let mut seen = Vec::new();
        let mut time = None;
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            let option = String::from_utf8_lossy(option).to_ascii_uppercase();
            if !known.contains(&option.as_str()) {
                return Err(SYNTAX.into());
            }
            if ["EX", "PX", "EXAT", "PXAT"].contains(&option.as_str()) {
                time = Some((option.clone(), rest.next().ok_or(SYNTAX)?.clone()));
            }
            seen.push(option);
        }
        seen.sort();
        seen.dedup();
        let kinds = ["EX", "PX", "EXAT", "PXAT", "KEEPTTL", "PERSIST"];
        let exclusive = seen.iter().filter(|option| kinds.contains(&option.as_str())).count();
        if exclusive > 1 || (seen.contains(&"NX".into()) && seen.contains(&"XX".into())) {
            return Err(SYNTAX.into());
        }
        Ok((seen, time))
    }

    /// The deadline of a positive time.
    fn positive_deadline(&self, name: &str, (form, time): &Time) -> Result<u64, String> {
        let time = integer(time)?;
        let deadline = self.deadline(form.starts_with('E'), form.ends_with("AT"), time);
        match deadline.and_then(|ms| u64::try_from(ms).ok()) {
            Some(ms) if time > 0 => Ok(ms),
            _ => Err(format!("ERR invalid expire time in '{name}' command")),
        }
    }

    fn deadline(&self, seconds: bool, absolute: bool, time: i64) -> Option<i64> {
        let ms = i128::from(time) * if seconds { 1000 } else { 1 };
        let base = if absolute { 0 } else { i128::from(self.now_ms) };
        // Both steps must fit by themselves.
        i64::try_from(ms).ok()?;
        i64::try_from(ms + base).ok()
    }

    fn run_set(&mut self, args: &[Bytes]) -> Result<Reply, String> {
        let known = ["NX", "XX", "GET", "KEEPTTL", "EX", "PX", "EXAT", "PXAT"];
        let (seen, time) = Model::options(&args[3..], &known)?;
        let has = |option: &str| seen.iter().any(|seen| seen == option);
        let mut deadline_ms = time.map(|time| self.positive_deadline("set", &time)).transpose()?;
        let old = self.get(&args[1]).cloned();
        let reply = if has("GET") { self.value(&args[1]) } else { Reply::OK };
        if (has("NX") && old.is_some()) || (has("XX") && old.is_none()) {
            return Ok(if has("GET") { reply } else { Reply::Null });
        }
        if has("KEEPTTL") {
            deadline_ms = old.and_then(|(_, deadline_ms)| deadline_ms);
        }
        self.set(&args[1], &args[2], deadline_ms);
        Ok(reply)
    }

    fn run_getex(&mut self, args: &[Bytes]) -> Result<Reply, String> {
        let (seen, time) = Model::options(&args[2..], &["PERSIST", "EX", "PX", "EXAT", "PXAT"])?;
        let Some((value, deadline_ms)) = self.get(&args[1]).cloned() else {
            return Ok(Reply::Null);
        };
        let deadline_ms = match time {
            Some(time) => Some(self.positive_deadline("getex", &time)?),
            None => deadline_ms.filter(|_| seen.is_empty()),
        };
        self.set(&args[1], &value, deadline_ms);
        Ok(Reply::Bulk(Bytes::from(value)))
    }

    fn run_expire(&mut self, name: &str, args: &[Bytes]) -> Result<Reply, String> {
        let mut seen = Vec::new();
        for option in &args[3..] {
            let raw = String::from_utf8_lossy(option);
            let option = raw.to_ascii_uppercase();
            if !["NX", "XX", "GT", "LT"].contains(&option.as_str()) {
                let shown = raw.split('\0').next().unwrap_or("").trim_end_matches(['\r', '\n']);
                return Err(format!("ERR Unsupported option {shown}"));
            }
            seen.push(option);
        }
        let has = |option: &str| seen.iter().any(|seen| seen == option);
        if has("NX") && (has("XX") || has("GT") || has("LT")) {
            return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
        }
        if has("GT") && has("LT") {
            return Err("ERR GT and LT options at the same time are not compatible".into());
        }
        let time = integer(&args[2])?;
        let new = self
            .deadline(!name.starts_with('p'), name.ends_with("at"), time)
            .ok_or_else(|| format!("ERR invalid expire time in '{name}' command"))?;
        let Some((value, current)) = self.get(&args[1]).cloned() else {
            return Ok(Reply::Integer(0));
        };
        let current = current.map(|current| current as i64);
        let refused = (has("NX") && current.is_some())
            || (has("XX") && current.is_none())
            || (has("GT") && current.is_none_or(|current| new <= current))
            || (has("LT") && current.is_some_and(|current| new >= current));
        if refused {
            return Ok(Reply::Integer(0));
        }
        self.set(&args[1], &value, Some(u64::try_from(new).unwrap_or(0)));
        Ok(Reply::Integer(1))
    }
}

fn integer(text: &[u8]) -> Result<i64, String> {
    let text = String::from_utf8_lossy(text);
    text.parse::<i64>().ok().filter(|value| value.to_string() == text).ok_or_else(|| NOT_AN_INTEGER.into())
}

/// Runs a request on the model as of this time.
fn expected(model: &mut Model, now_ms: u64, args: &[Bytes]) -> Reply {
    model.expire(now_ms);
    model.run(args).unwrap_or_else(Reply::error)
}

/// Times near the clock of the run, so that keys expire all the time.
fn generator(seed: u64) -> Generator {
    let mut generator = Generator::new(seed);
    generator.relative_times = vec!["1", "2", "5", "10", "50", "200", "1000", "-1", "0", "x"];
    generator.absolute_times =
        vec!["1000", "1001", "1002", "1010", "1000100", "1000500", "1001000", "1002000", "1010000", "-5", "0", "x"];
    generator
}

/// Ours and the model, and what is needed to judge them.
struct Run {
    ours: Store,
    model: Model,
    /// Since the last FLUSHALL no FLUSHDB left index records behind.
    index_is_exact: bool,
    resume_ms: u64,
}

impl Run {
    /// Evaluates the requests as one entry, as MULTI does, each over the effects of those before. An entry that neither
    /// changes anything nor needs its time to be known is not logged: it is as if it had never been.
    fn entry(&mut self, requests: &[Vec<Bytes>]) {
        let stamp = self.ours.next_stamp();
        let mut ordinal = 0;
        let mut logged = false;
        let model_before = self.model.clone();
        for request in requests {
            let before = self.ours.data.clone();
            let reply = match resolve(request) {
                Err(reply) => reply,
                Ok(spec) => {
                    let outcome = self.ours.evaluate(spec, request, Mode::Write { stamp, ordinal });
                    logged |= outcome.needs_time || !outcome.effects.is_empty();
                    self.ours.data.apply(&outcome.effects);
                    let first = stamp.as_u64() + ordinal;
                    ordinal += outcome.versions_used;
                    self.check_versions(&before, first..stamp.as_u64() + ordinal);
                    assert_eq!(outcome.reply, expected(&mut self.model, stamp.ms(), request));
                    outcome.reply
                }
            };
            let flush = request[0].to_ascii_lowercase();
            if flush.starts_with(b"flush") && reply == Reply::OK {
                self.index_is_exact = flush == b"flushall";
            }
            self.ours.data.check(self.index_is_exact);
        }
        if logged {
            self.ours.applied = stamp;
            self.ours.last_used = stamp.as_u64() + ordinal.saturating_sub(1);
        } else {
            self.model = model_before;
        }
    }

    /// What changed has a version out of those used up.
    fn check_versions(&self, before: &crate::support::Data, used: std::ops::Range<u64>) {
        let before = before.heads();
        for head in self.ours.data.heads() {
            assert!(before.contains(&head) || used.contains(&head.2.version), "{head:?} has a version that is not new");
        }
    }

    /// Answers a read without the log, if that will do.
    fn read(&mut self, request: &[Bytes]) {
        let Ok(spec) = resolve(request) else { return };
        let outcome = self.ours.read(spec, request);
        let (applied_ms, now_ms) = (self.ours.applied.ms(), self.ours.now_ms);
        if outcome.needs_time {
            let mut deadlines = self.model.keys.values().filter_map(|(_, deadline_ms)| *deadline_ms);
            assert!(deadlines.any(|ms| (applied_ms + 1..=now_ms).contains(&ms)), "needs no time");
            self.entry(&[request.to_vec()]);
            return;
        }
        self.model.expire(applied_ms);
        self.model.now_ms = applied_ms.max(now_ms);
        assert_eq!(outcome.reply, self.model.run(request).unwrap_or_else(Reply::error));
    }

    fn sweep(&mut self, index_records_max: usize) {
        let stamp = self.ours.next_stamp();
        let resume_ms = self.resume_ms;
        let next = next_deadline(&self.ours.data, RANGE, 0).unwrap();
        assert_eq!(next_deadline(&self.ours.data, RANGE, resume_ms).unwrap(), next, "resume_ms skips a record");
        let swept = sweep(&self.ours.data, RANGE, stamp, resume_ms, index_records_max).unwrap();
        assert_eq!(swept.effects.is_empty(), next.is_none_or(|ms| ms > stamp.ms()), "what is due is swept");
        self.resume_ms = swept.resume_ms;
        let before = self.ours.data.heads();
        self.ours.data.apply(&swept.effects);
        let after = self.ours.data.heads();
        assert_eq!((before.len() - after.len()) as u64, swept.keys_removed);
        let kept = |head: &_| after.contains(head);
        assert!(before.iter().all(|head| kept(head) || head.2.expired_at(stamp.ms())), "a live key was swept");
        if !swept.more {
            assert!(!after.iter().any(|(.., head, _)| head.expired_at(stamp.ms())), "an expired key was left");
        }
        self.ours.data.check(self.index_is_exact);
        if !swept.effects.is_empty() {
            self.ours.applied = stamp;
            self.ours.last_used = stamp.as_u64();
            self.model.expire(stamp.ms());
        }
    }

    fn step(&mut self, generator: &mut Generator) {
        match generator.random.below(4) {
            0 => self.ours.now_ms += generator.random.below(60),
            1 if generator.random.one_in(4) => self.ours.now_ms += generator.random.below(1_500),
            2 if generator.random.one_in(4) => self.ours.now_ms -= generator.random.below(40),
            _ => {}
        }
        if generator.random.one_in(20) {
            self.ours.db = generator.random.below(2) as u8;
            self.model.db = self.ours.db;
        }
        if generator.random.one_in(15) {
            let index_records_max = 1 + generator.random.below(4) as usize;
            self.sweep(index_records_max);
        }
        let mut requests = vec![request(generator)];
        while generator.random.one_in(6) {
            requests.push(request(generator));
        }
        if requests.iter().flatten().any(|arg| arg.eq_ignore_ascii_case(b"dbsize")) {
            // It counts what is not swept yet, which the model does not know.
            self.sweep(usize::MAX);
        }
        let reads = |args: &Vec<Bytes>| resolve(args).is_ok_and(|spec| !spec.flags.has(CommandFlags::WRITE));
        if requests.len() == 1 && reads(&requests[0]) { self.read(&requests[0]) } else { self.entry(&requests) }
    }
}

/// Commands in which time plays no part of its own, and which Redis itself is better to compare with.
const NOT_MODELLED: &str = "incrbyfloat scan getrange substr lcs setbit getbit bitcount bitpos bitop bitfield bitfield_ro \
    randomkey object dump restore sort sort_ro";

/// A request that the model knows.
fn request(generator: &mut Generator) -> Vec<Bytes> {
    loop {
        let request = generator.request();
        if !NOT_MODELLED.split_whitespace().any(|name| request[0].eq_ignore_ascii_case(name.as_bytes())) {
            return request;
        }
    }
}

#[test]
fn answers_are_those_of_the_model_whatever_time_does() {
    let seed = setting("KV_SEED", 1);
    println!("KV_SEED={seed}");
    run(generator(seed), setting("KV_MODEL", REQUESTS));
}

#[test]
fn long_values_expire_and_leave_nothing_behind() {
    let seed = setting("KV_SEED", 1);
    println!("KV_SEED={seed}");
    let mut generator = generator(seed);
    generator.large = true;
    let mut run = run(generator, setting("KV_MODEL", REQUESTS) * LONG_REQUESTS / REQUESTS);
    let chunked = run.ours.data.heads().iter().filter(|(.., head, _)| head.chunked.is_some()).count();
    assert!(chunked > 0, "no long value to be seen");
    for db in 0..16 {
        run.ours.db = db;
        run.ours.run(&words("set a short"));
        run.ours.run(&words("pexpire a 1"));
        for key in KEYS {
            run.ours.run(&[Bytes::from("del"), Bytes::from(key)]);
        }
    }
    let mut sweeps = 0;
    // Keys that the sweep removes leave chunks, which are due a little later.
    while let Some(deadline_ms) = next_deadline(&run.ours.data, RANGE, 0).unwrap() {
        let stamp = Stamp::from_ms(deadline_ms);
        let swept = sweep(&run.ours.data, RANGE, stamp, 0, 3).unwrap();
        assert!(!swept.effects.is_empty() || !swept.more, "a sweep that has more to do does something");
        assert!(swept.effects.len() <= 3 * 2 + 16, "a sweep is bounded");
        run.ours.data.apply(&swept.effects);
        run.ours.data.check(true);
        sweeps += 1;
    }
    assert!(sweeps > 3, "{sweeps} sweeps for all that");
    assert_eq!(run.ours.data.0.len(), 0, "{:?}", run.ours.data.0.keys().next());
}

fn run(mut generator: Generator, requests: u64) -> Run {
    let mut run = Run { ours: Store::new(1_000_000), model: Model::default(), index_is_exact: true, resume_ms: 0 };
    run.ours.limits.value_bytes_max = VALUE_BYTES_MAX;
    for number in 0..requests {
        // The clock of a real node does not start before the times that clients give.
        if number % 1_000 == 0 {
            run.ours.now_ms = run.ours.now_ms.max(1_000_000);
        }
        run.step(&mut generator);
    }
    run
}

#[test]
fn a_scan_finds_every_key_that_stays_whatever_else_happens() {
    let seed = setting("KV_SEED", 1);
    let mut random = Random(seed);
    println!("KV_SEED={seed}");
    for _ in 0..500 {
        let mut store = Store::new(1_000);
        // Few enough to forget cursors now and then.
        store.cursors = Cursors::with_bounds(random.next(), 3, 1_000);
        for key in KEYS {
            store.run(&[Bytes::from("set"), Bytes::from(key), Bytes::from("1")]);
        }
        let (stays, comes_and_goes) = KEYS.split_at(KEYS.len() / 2);
        let mut found = Vec::new();
        let mut cursor = Bytes::from("0");
        loop {
            let count = Bytes::from((1 + random.below(3)).to_string());
            let reply = store.run(&[Bytes::from("scan"), cursor, Bytes::from("count"), count]);
            let Reply::Array(parts) = reply else { panic!("SCAN answered {reply:?}") };
            let [Reply::Bulk(next), Reply::Array(keys)] = parts.as_slice() else { panic!("SCAN answered {parts:?}") };
            found.extend(keys.iter().cloned());
            if next == "0" {
                break;
            }
            cursor = next.clone();
            let name = random.pick(&["set", "del"]);
            let mut write = words(name);
            write.push(Bytes::from(random.pick(comes_and_goes)));
            if name == "set" {
                write.push(Bytes::from("2"));
            }
            store.run(&write);
            if random.one_in(6) {
                // Other scans, abandoned at once, push this one out of the table.
                for _ in 0..3 {
                    store.cursors.advance(0, 0, Bytes::from("x"));
                }
            }
        }
        for key in stays {
            assert!(found.contains(&Reply::Bulk(Bytes::from(*key))), "{key:?} was not found");
        }
    }
}

/// Keys that share much, and some that share nothing.
fn a_key(random: &mut Random) -> Vec<u8> {
    let number = random.below(5_000);
    match random.below(8) {
        0 => format!("session:{:x}", number * 0x9E37_79B9).into_bytes(),
        1..5 => format!("app:production:user:{number:06}:name").into_bytes(),
        5 => vec![0; 1 + random.below(12) as usize],
        6 => vec![b'x'; 1 + random.below(300) as usize],
        _ => format!("{number}").into_bytes(),
    }
}

#[test]
fn a_scan_goes_on_at_any_node_and_misses_nothing() {
    let seed = setting("KV_SEED", 1);
    let mut random = Random(seed);
    println!("KV_SEED={seed}");
    for _ in 0..20 {
        let mut store = Store::new(1_000);
        let set = |store: &mut Store, key: &[u8]| {
            store.run(&[Bytes::from("set"), Bytes::copy_from_slice(key), Bytes::from("1")]);
        };
        let stays: BTreeSet<Vec<u8>> = (0..600).map(|_| a_key(&mut random)).collect();
        stays.iter().for_each(|key| set(&mut store, key));
        let changing = random.one_in(2);
        let mut found = Vec::new();
        let mut cursor = Bytes::from("0");
        for call in 0.. {
            assert!(call < 2_000, "the scan does not get on");
            // Another node every time: none remembers a cursor of another.
            store.cursors = Cursors::new(random.next());
            let count = Bytes::from((1 + random.below(20)).to_string());
            let reply = store.run(&[Bytes::from("scan"), cursor, Bytes::from("count"), count]);
            let Reply::Array(parts) = reply else { panic!("SCAN answered {reply:?}") };
            let [Reply::Bulk(next), Reply::Array(keys)] = parts.as_slice() else { panic!("SCAN answered {parts:?}") };
            found.extend(keys.iter().map(|key| match key {
                Reply::Bulk(key) => key.to_vec(),
                other => panic!("SCAN gave {other:?}"),
            }));
            if next == "0" {
                break;
            }
            cursor = next.clone();
            for _ in 0..if changing { random.below(8) } else { 0 } {
                let key = a_key(&mut random);
                if stays.contains(&key) {
                    continue;
                }
                if random.one_in(2) {
                    set(&mut store, &key);
                } else {
                    store.run(&[Bytes::from("del"), Bytes::from(key)]);
                }
            }
        }
        if !changing {
            let once: BTreeSet<&Vec<u8>> = found.iter().collect();
            assert_eq!(once.len(), found.len(), "where nothing changes, no key is given twice");
        }
        let found: BTreeSet<Vec<u8>> = found.into_iter().collect();
        let missed: Vec<_> = stays.difference(&found).collect();
        assert!(missed.is_empty(), "missed {missed:?}");
    }
}
