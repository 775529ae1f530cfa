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
use dstore_resp::{CommandFlags, CommandId, CommandSpec, Reply, resolve};

use crate::generator::{Generator, KEYS};
use crate::redis::{Answer, RedisClient, RedisServer};
use crate::support::{Store, setting, words};

/// Requests compared in an ordinary test run.
const REQUESTS: u64 = 20_000;

/// Both sides.
struct Pair {
    redis: RedisClient,
    ours: Store,
}

#[test]
fn answers_are_those_of_redis() {
    let server = match RedisServer::start() {
        Ok(server) => server,
        Err(reason) => {
            println!("skipped, there is no redis-server to compare with: {reason}");
            return;
        }
    };
    let seed = setting("KV_SEED", 1);
    let requests = setting("KV_DIFFERENTIAL", REQUESTS);
    let mut pair = Pair { redis: server.connect(), ours: Store::new(0) };
    pair.ours.limits.value_bytes_max = 1 << 20;
    let mut generator = Generator::new(seed);
    for number in 0..requests {
        if generator.random.one_in(100) {
            pair.select(generator.random.below(2) as u8);
        }
        let request = generator.request();
        if let Err(difference) = pair.compare(&request) {
            panic!("request {number} of KV_SEED={seed}: {request:?}\n{difference}");
        }
        if number % 200 == 0 {
            pair.compare_keys().unwrap_or_else(|difference| {
                panic!("after request {number} of KV_SEED={seed}: {request:?}\n{difference}");
            });
        }
    }
}

#[test]
fn strings_end_where_redis_says() {
    let Ok(server) = RedisServer::start() else {
        println!("skipped, there is no redis-server to compare with");
        return;
    };
    let mut pair = Pair { redis: server.connect(), ours: Store::new(0) };
    pair.ours.limits.value_bytes_max = 1 << 20;
    let append = |len: usize| vec![Bytes::from("append"), Bytes::from("k"), Bytes::from(vec![b'x'; len])];
    for len in [600_000, 448_576, 0, 1] {
        pair.compare(&append(len)).unwrap();
    }
    assert_eq!(pair.ours.run(&words("strlen k")), Reply::Integer(1 << 20));
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
            Err(error) => return same(theirs, &error),
        };
        match spec.id {
            CommandId::Ttl | CommandId::PTtl => self.compare_remaining(spec, request, theirs, before_ms..=after_ms),
            CommandId::Scan => self.compare_scan(spec, request, theirs),
            CommandId::Keys => same_set(theirs, &self.run_at(spec, request, before_ms).0),
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
        same(theirs, &reply)?;
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
        let most = Answer::of(&self.run_at(spec, request, *moment_ms.start()).0);
        let least = Answer::of(&self.run_at(spec, request, *moment_ms.end()).0);
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
            return same(theirs, &first);
        }
        if request[1] != "0" {
            return Ok(());
        }
        let theirs = whole_scan(request, |request| self.redis.pipeline(&[request]).remove(0));
        let ours = whole_scan(request, |request| Answer::of(&self.ours.run(request)));
        if theirs == ours { Ok(()) } else { Err(format!("Redis: {theirs:?}\nours:  {ours:?}")) }
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

fn same(theirs: &Answer, ours: &Reply) -> Result<(), Difference> {
    let ours = Answer::of(ours);
    if *theirs == ours { Ok(()) } else { Err(format!("Redis: {theirs:?}\nours:  {ours:?}")) }
}

fn same_set(theirs: &Answer, ours: &Reply) -> Result<(), Difference> {
    let ours = Answer::of(ours);
    let sorted = |answer: &Answer| {
        let mut answers = answer.array().to_vec();
        answers.sort();
        answers
    };
    if sorted(theirs) == sorted(&ours) { Ok(()) } else { Err(format!("Redis: {theirs:?}\nours:  {ours:?}")) }
}
