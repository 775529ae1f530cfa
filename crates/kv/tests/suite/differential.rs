//! The same random requests to us and to a real Redis 7.0: the answers must be the same.
//!
//! Time is no matter of luck. A request goes to Redis between two TIMEs, so its moment is known to within a few
//! milliseconds. Where the moment shows (a relative expiry), Redis is asked for the deadline it set; ours must be able
//! to be the same at a moment between the two, and evaluation, being pure, is then done again for that moment. Answers
//! that tell a remaining time must lie between ours for both ends. Nothing expires by itself during a run: times are
//! either long past or far away. (What time does to keys is compared with the model instead.)
//!
//! `KV_SEED=n` replays a run, `KV_DIFFERENTIAL=n` compares that many requests.

use bytes::Bytes;
use dstore_resp::{CommandFlags, CommandId, CommandSpec, ProtocolVersion, Reply, resolve};
use dstore_testkit::requests::{Generator, KEYS};

use crate::redis::{Answer, RedisClient, RedisServer, answer_of};
use crate::support::{Store, setting, words};

/// Requests compared in an ordinary test run.
const REQUESTS: u64 = 20_000;
/// Of those on long values, which take longer.
const LARGE_REQUESTS: u64 = 2_000;

/// Not among the generator's keys.
const OTHER_KEY: &str = "payload";

/// Both sides.
struct Pair {
    redis: RedisClient,
    ours: Store,
    version: ProtocolVersion,
}

impl Pair {
    /// None if there is no `redis-server` here.
    #[allow(clippy::print_stdout, reason = "a test that is skipped says so")]
    fn start() -> Option<(RedisServer, Pair)> {
        let server = RedisServer::start()
            .inspect_err(|reason| println!("skipped, there is no redis-server to compare with: {reason}"))
            .ok()?;
        let mut pair = Pair { redis: server.connect(), ours: Store::new(0), version: ProtocolVersion::Resp2 };
        pair.ours.limits.value_bytes_max = 1 << 20;
        pair.ours.limits.databases = 4;
        Some((server, pair))
    }

    /// What Redis dumps of some strings, compressed ones among them.
    fn payloads(&mut self) -> Vec<Bytes> {
        let mixed = "abc".repeat(30) + "xyz" + &"-".repeat(300);
        let strings = ["", "hello", "7", "-300", "70000", "12345678901", "007", mixed.as_str(), &"ab".repeat(30_000)];
        let dump = |string: &str| {
            let key = Bytes::from(OTHER_KEY);
            let set = [Bytes::from("set"), key.clone(), Bytes::copy_from_slice(string.as_bytes())];
            let answers = self.redis.pipeline(&[&set, &[Bytes::from("dump"), key.clone()], &[Bytes::from("del"), key]]);
            answers[1].bulk().clone()
        };
        strings.map(dump).to_vec()
    }

    fn run(&mut self, mut generator: Generator, requests: u64, seed: u64) {
        generator.payloads = self.payloads();
        for number in 0..requests {
            if generator.random.one_in(100) {
                self.select(generator.random.below(2) as u8);
            }
            if generator.random.one_in(200) {
                self.speak(if generator.random.one_in(2) { ProtocolVersion::Resp2 } else { ProtocolVersion::Resp3 });
            }
            let request = generator.request();
            if let Err(difference) = self.compare(&request) {
                panic!("request {number} of KV_SEED={seed}: {request:?}\n{difference}");
            }
            if number % 200 == 0 {
                self.compare_keys().unwrap_or_else(|difference| {
                    panic!("after request {number} of KV_SEED={seed}: {request:?}\n{difference}");
                });
            }
        }
    }

    fn speak(&mut self, version: ProtocolVersion) {
        self.version = version;
        self.redis.pipeline(&[&words(if version == ProtocolVersion::Resp2 { "hello 2" } else { "hello 3" })]);
    }
}

#[test]
fn answers_are_those_of_redis() {
    let Some((_server, mut pair)) = Pair::start() else { return };
    let seed = setting("KV_SEED", 1);
    pair.run(Generator::new(seed), setting("KV_DIFFERENTIAL", REQUESTS), seed);
}

#[test]
fn answers_about_long_values_are_those_of_redis() {
    let Some((_server, mut pair)) = Pair::start() else { return };
    let seed = setting("KV_SEED", 1);
    let mut generator = Generator::new(seed);
    generator.large = true;
    let requests = setting("KV_DIFFERENTIAL", REQUESTS) * LARGE_REQUESTS / REQUESTS;
    pair.run(generator, requests, seed);
}

#[test]
fn strings_end_where_redis_says() {
    let Some((_server, mut pair)) = Pair::start() else { return };
    let append = |len: usize| vec![Bytes::from("append"), Bytes::from("k"), Bytes::from(vec![b'x'; len])];
    for len in [600_000, 448_576, 0, 1] {
        pair.compare(&append(len)).unwrap();
    }
    assert_eq!(pair.ours.run(&words("strlen k")), Reply::Integer(1 << 20));
    for line in ["setrange k 1048576 x", "setbit k 8388608 1", "setbit k 8388607 1", "bitfield k set u16 8388600 65535"]
    {
        pair.compare(&words(line)).unwrap();
    }
    for line in ["strlen k", "append k x", "getrange k -3 -1", "bitcount k", "lcs k k", "lcs k none len"] {
        pair.compare(&words(line)).unwrap();
    }
}

type Difference = String;

impl Pair {
    fn select(&mut self, db: u8) {
        self.ours.db = db;
        self.redis.pipeline(&[&words(&format!("select {db}"))]);
    }

    /// Runs a request on both sides.
    fn compare(&mut self, request: &[Bytes]) -> Result<(), Difference> {
        if request[0].eq_ignore_ascii_case(b"dbsize") {
            // Redis removes what has expired when it is looked at; we have none such here.
            self.redis.pipeline(&[&all_keys("exists")]);
        }
        let (time, deadline) =
            (words("time"), [Bytes::from("pexpiretime"), request.get(1).cloned().unwrap_or_default()]);
        let answers = self.redis.pipeline(&[&time, request, &time, &deadline]);
        let [before, theirs, after, deadline_ms] = answers.as_slice() else {
            panic!("four requests have four answers");
        };
        let (before_ms, after_ms) = (milliseconds(before), milliseconds(after));
        let spec = match resolve(request) {
            Ok(spec) => spec,
            Err(error) => return self.same(theirs, &error),
        };
        match spec.id {
            CommandId::Ttl | CommandId::PTtl => self.compare_remaining(spec, request, theirs, before_ms..=after_ms),
            CommandId::Scan => self.compare_scan(spec, request, theirs),
            CommandId::Keys => {
                let ours = self.run_at(spec, request, before_ms).0;
                self.same_set(theirs, &ours)
            }
            CommandId::RandomKey => self.compare_random(spec, request, theirs),
            CommandId::Dump => self.compare_dump(spec, request, theirs),
            CommandId::ObjectEncoding | CommandId::ObjectRefCount | CommandId::ObjectIdleTime => {
                self.compare_object(spec, request, theirs)
            }
            _ => self.compare_effects(spec, request, theirs, deadline_ms.integer(), before_ms..=after_ms),
        }
    }

    /// Evaluates and applies as of this moment. Also gives the deadline of the first key afterwards.
    fn run_at(&mut self, spec: &'static CommandSpec, request: &[Bytes], now_ms: u64) -> (Reply, i64) {
        self.ours.now_ms = now_ms;
        let reply = if spec.flags.has(CommandFlags::WRITE) {
            self.ours.log(spec, request).reply
        } else {
            let outcome = self.ours.read(spec, request);
            assert!(!outcome.needs_time, "nothing expires by itself");
            outcome.reply
        };
        let key = request.get(1).cloned().unwrap_or_default();
        match self.ours.run(&[Bytes::from("pexpiretime"), key]) {
            Reply::Integer(deadline_ms) => (reply, deadline_ms),
            other => panic!("PEXPIRETIME answered {other:?}"),
        }
    }

    fn compare_effects(
        &mut self,
        spec: &'static CommandSpec,
        request: &[Bytes],
        theirs: &Answer,
        their_deadline_ms: i64,
        moment_ms: std::ops::RangeInclusive<u64>,
    ) -> Result<(), Difference> {
        let (data, last_used) = (self.ours.data.clone(), self.ours.last_used);
        let (mut reply, mut deadline_ms) = self.run_at(spec, request, *moment_ms.start());
        let later = their_deadline_ms.checked_sub(deadline_ms).and_then(|ms| u64::try_from(ms).ok());
        match later.map(|ms| moment_ms.start().saturating_add(ms)) {
            Some(moment) if moment > *moment_ms.start() && moment_ms.contains(&moment) => {
                (self.ours.data, self.ours.last_used) = (data, last_used);
                (reply, deadline_ms) = self.run_at(spec, request, moment);
            }
            _ => {}
        }
        self.same(theirs, &reply)?;
        self.ours.data.check(false);
        if deadline_ms != their_deadline_ms {
            return Err(format!("deadline afterwards: {their_deadline_ms} in Redis, {deadline_ms} here"));
        }
        Ok(())
    }

    /// A remaining time shrinks as time goes by.
    fn compare_remaining(
        &mut self,
        spec: &'static CommandSpec,
        request: &[Bytes],
        theirs: &Answer,
        moment_ms: std::ops::RangeInclusive<u64>,
    ) -> Result<(), Difference> {
        let most = self.run_at(spec, request, *moment_ms.start()).0;
        let least = self.run_at(spec, request, *moment_ms.end()).0;
        let (most, least) = (answer_of(&most, self.version), answer_of(&least, self.version));
        if (&least..=&most).contains(&theirs) {
            return Ok(());
        }
        Err(format!("Redis: {theirs:?}\nours:  {least:?} to {most:?}"))
    }

    /// One SCAN call is not comparable, since the order is not; a scan from the beginning to the end is.
    fn compare_scan(
        &mut self,
        spec: &'static CommandSpec,
        request: &[Bytes],
        theirs: &Answer,
    ) -> Result<(), Difference> {
        let now_ms = self.ours.now_ms;
        let first = self.run_at(spec, request, now_ms).0;
        if theirs.is_error() || matches!(first, Reply::Error(_)) {
            return self.same(theirs, &first);
        }
        if request[1] != "0" {
            return Ok(());
        }
        let theirs = whole_scan(request, |request| self.redis.pipeline(&[request]).remove(0));
        let ours = whole_scan(request, |request| answer_of(&self.ours.run(request), self.version));
        if theirs == ours { Ok(()) } else { Err(format!("Redis: {theirs:?}\nours:  {ours:?}")) }
    }

    /// Neither side says which key; each must have it, or none.
    fn compare_random(
        &mut self,
        spec: &'static CommandSpec,
        request: &[Bytes],
        theirs: &Answer,
    ) -> Result<(), Difference> {
        let ours = answer_of(&self.run_at(spec, request, self.ours.now_ms).0, self.version);
        if theirs.is_error() || theirs.is_nothing() || ours.is_nothing() {
            return if *theirs == ours { Ok(()) } else { Err(differ(theirs, &ours)) };
        }
        for key in [theirs.bulk(), ours.bulk()] {
            let exists = self.ours.run(&[Bytes::from("exists"), key.clone()]);
            assert_eq!(exists, Reply::Integer(1), "{key:?} is a key");
        }
        Ok(())
    }

    /// Redis compresses some payloads, and how depends on what its memory held before. Each side must restore the
    /// other's payload, and short ones must be the same.
    fn compare_dump(
        &mut self,
        spec: &'static CommandSpec,
        request: &[Bytes],
        theirs: &Answer,
    ) -> Result<(), Difference> {
        let ours = answer_of(&self.run_at(spec, request, self.ours.now_ms).0, self.version);
        let (Answer::Bulk(Some(their_payload)), Answer::Bulk(Some(our_payload))) = (theirs, &ours) else {
            return if *theirs == ours { Ok(()) } else { Err(differ(theirs, &ours)) };
        };
        if our_payload.len() > 1 << 20 {
            // No request may carry it.
            return Ok(());
        }
        if our_payload.len() <= 20 && their_payload != our_payload {
            return Err(differ(theirs, &ours));
        }
        let [restore, key, ttl] = ["restore", OTHER_KEY, "0"].map(Bytes::from);
        let (get, del) = (words(&format!("get {OTHER_KEY}")), words(&format!("del {OTHER_KEY}")));
        let theirs_here = [restore.clone(), key.clone(), ttl.clone(), their_payload.clone()];
        assert_eq!(self.ours.run(&theirs_here), Reply::OK, "their payload is taken here");
        let ours_there = [restore, key, ttl, our_payload.clone()];
        let answers = self.redis.pipeline(&[&ours_there, &get, &del]);
        assert!(!answers[0].is_error(), "our payload is taken there: {answers:?}");
        let value = self.ours.run(&get);
        self.ours.run(&del);
        self.same(&answers[1], &value)
    }

    /// Redis keeps a value as it was made; here only the value itself counts (see `object.rs`).
    fn compare_object(
        &mut self,
        spec: &'static CommandSpec,
        request: &[Bytes],
        theirs: &Answer,
    ) -> Result<(), Difference> {
        let ours = answer_of(&self.run_at(spec, request, self.ours.now_ms).0, self.version);
        let excused = match spec.id {
            // What APPEND and its like have made stays raw there, and a number that INCRBYFLOAT has made a string.
            CommandId::ObjectEncoding => {
                let is = |answer: &Answer, name: &'static str| *answer == Answer::Bulk(Some(Bytes::from(name)));
                (is(theirs, "raw") && !ours.is_nothing()) || (is(theirs, "embstr") && is(&ours, "int"))
            }
            // A copy of a shared number is not shared.
            CommandId::ObjectRefCount => *theirs == Answer::Integer(1) && !ours.is_nothing(),
            // Reads count there.
            _ => matches!((theirs, &ours), (Answer::Integer(_), Answer::Integer(_))),
        };
        if *theirs == ours || excused { Ok(()) } else { Err(differ(theirs, &ours)) }
    }

    /// Compares what is stored under every key.
    fn compare_keys(&mut self) -> Result<(), Difference> {
        self.compare(&all_keys("mget"))?;
        self.compare(&words("dbsize"))?;
        for key in KEYS {
            self.compare(&[Bytes::from("pexpiretime"), Bytes::from(key)])?;
        }
        Ok(())
    }
}

/// Follows a scan from cursor 0 to its end: all keys, sorted.
fn whole_scan(request: &[Bytes], mut call: impl FnMut(&[Bytes]) -> Answer) -> Vec<Answer> {
    let mut request = request.to_vec();
    let mut keys = Vec::new();
    loop {
        let answer = call(&request);
        let [cursor, found] = answer.array() else {
            panic!("SCAN answered {answer:?}");
        };
        keys.extend_from_slice(found.array());
        request[1] = cursor.bulk().clone();
        if request[1] == "0" {
            keys.sort();
            keys.dedup();
            return keys;
        }
    }
}

fn all_keys(name: &'static str) -> Vec<Bytes> {
    [name].into_iter().chain(KEYS).map(Bytes::from).collect()
}

/// The time of a TIME answer.
fn milliseconds(time: &Answer) -> u64 {
    let part = |at: usize| -> u64 { std::str::from_utf8(time.array()[at].bulk()).unwrap().parse().unwrap() };
    part(0) * 1000 + part(1) / 1000
}

fn differ(theirs: &Answer, ours: &Answer) -> Difference {
    let shown = |answer: &Answer| format!("{answer:?}").chars().take(2_000).collect::<String>();
    format!("Redis: {}\nours:  {}", shown(theirs), shown(ours))
}

impl Pair {
    fn same(&self, theirs: &Answer, ours: &Reply) -> Result<(), Difference> {
        let ours = answer_of(ours, self.version);
        if *theirs == ours { Ok(()) } else { Err(differ(theirs, &ours)) }
    }

    fn same_set(&self, theirs: &Answer, ours: &Reply) -> Result<(), Difference> {
        let ours = answer_of(ours, self.version);
        let sorted = |answer: &Answer| {
            let mut answers = answer.array().to_vec();
            answers.sort();
            answers
        };
        if sorted(theirs) == sorted(&ours) { Ok(()) } else { Err(differ(theirs, &ours)) }
    }
}
