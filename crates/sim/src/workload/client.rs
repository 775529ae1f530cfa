//! [`Client`]: one client, which connects here and there, sends, waits, loses patience, and remembers what it was told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use dstore_resp::{Decoded, Reply, ReplyDecoder, ReplyLimits};

use super::answers::{Answers, Form, Walk};
use super::recorder::{Recorder, TransactionId};
use super::request;
use super::scan::Scan;
use super::values::Values;
use crate::checker::{COUNTERS, Key, MicroOp, REGISTERS, Token, Until, key_name};
use crate::network::Machine;
use crate::random::Random;
use crate::time::{MILLI, Moment, SECOND};

/// How clients behave; the same for all clients of a run.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Lists in use.
    pub keys: u64,
    /// Counters and registers in use, of each as many.
    pub others: u64,
    /// Of a thousand plain commands and parts of blocks, those about a counter.
    pub counter_permille: u64,
    /// Of a thousand, those about a register.
    pub register_permille: u64,
    /// Of a thousand tokens put into registers, those with a deadline.
    pub expiry_permille: u64,
    /// The longest that such a token may live, in milliseconds.
    pub life_ms_max: u64,
    /// Of a thousand parts of blocks, those that are done by another way than the shortest.
    pub detour_permille: u64,
    /// Of a thousand reads of lists, those of their end or their length alone; and of a thousand changes, half as many that
    /// write again what is there.
    pub partial_permille: u64,
    /// Of a thousand plain commands and parts of blocks, those that read a range of keys.
    pub range_permille: u64,
    /// Of a thousand plain commands, those that go on with a scan of all keys.
    pub scan_permille: u64,
    /// The database that registers are in; everything else is in the first.
    pub register_db: u8,
    /// Of a thousand parts of blocks, those that take all registers by removing all that is in their database. Not where anything
    /// else is in it.
    pub clear_permille: u64,
    /// What values look like.
    pub values: Values,
    /// The mean pause between a reply and the next request.
    pub think_mean: Moment,
    /// Of a thousand turns, those with several commands sent at once.
    pub burst_permille: u64,
    /// Of a thousand commands, those that are blocks.
    pub block_permille: u64,
    /// Of a thousand turns, those that watch a key first.
    pub watch_permille: u64,
    /// Of a thousand plain commands and parts of blocks, those that read.
    pub read_permille: u64,
    /// Of a thousand turns, those in which the client walks away, with replies owed or not.
    pub leave_permille: u64,
    /// How long a client waits for a reply.
    pub patience: Moment,
    /// How many transactions all clients begin before the faults are over.
    pub transactions_max: usize,
}

impl Habits {
    /// Habits drawn from a seed.
    pub fn draw(random: &mut Random) -> Habits {
        let mut habits = Habits::draw_freely(random);
        let registers_alone = random.one_in(6);
        if registers_alone {
            (habits.counter_permille, habits.register_permille) = (0, 1000);
        }
        habits.register_db = if random.one_in(3) { *random.pick(&[1, 15]) } else { 0 };
        if registers_alone || habits.register_db != 0 {
            habits.clear_permille = *random.pick(&[0, 50, 200]);
        }
        habits
    }

    fn draw_freely(random: &mut Random) -> Habits {
        Habits {
            keys: random.between(2, 6),
            others: random.between(1, 3),
            counter_permille: *random.pick(&[0, 100, 250]),
            register_permille: *random.pick(&[0, 200, 400]),
            expiry_permille: *random.pick(&[0, 300, 700]),
            life_ms_max: *random.pick(&[100, 1000, 6000]),
            detour_permille: *random.pick(&[0, 300, 700]),
            partial_permille: *random.pick(&[0, 250, 500]),
            range_permille: *random.pick(&[0, 20, 100]),
            scan_permille: *random.pick(&[0, 30, 100]),
            register_db: 0,
            clear_permille: 0,
            values: Values::draw(random),
            think_mean: *random.pick(&[30 * MILLI, 80 * MILLI, 200 * MILLI]),
            burst_permille: *random.pick(&[0, 100, 300, 600]),
            block_permille: *random.pick(&[0, 200, 500]),
            watch_permille: *random.pick(&[0, 50, 200]),
            read_permille: *random.pick(&[300, 500, 700]),
            leave_permille: *random.pick(&[0, 10, 40]),
            patience: *random.pick(&[2 * SECOND, 7 * SECOND, 20 * SECOND]),
            transactions_max: usize::MAX,
        }
    }

    /// The database that a key is in.
    fn db(&self, key: Key) -> u8 {
        if key >= REGISTERS { self.register_db } else { 0 }
    }

    /// Every key there may be.
    fn all_keys(&self) -> impl Iterator<Item = Key> + use<> {
        let (lists, others) = (self.keys as Key, self.others as Key);
        (0..lists).chain(COUNTERS..COUNTERS + others).chain(REGISTERS..REGISTERS + others)
    }
}

/// What reads a key.
fn reading(key: Key) -> MicroOp {
    match key {
        REGISTERS.. => MicroOp::Look { key, saw: None },
        COUNTERS.. => MicroOp::Count { key, value: None },
        _ => MicroOp::Read { key, list: None },
    }
}

/// What a client wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAction {
    /// Connect to a node.
    Connect(Machine),
    /// Send bytes.
    Send(Bytes),
    /// Close the connection.
    Close,
}

/// What a reply is an answer to.
#[derive(Debug)]
enum Expected {
    /// The OK of MULTI.
    Ok,
    /// The greeting: from here on the third version of the protocol.
    Hello,
    /// The OK of WATCH, or a refusal: it may need the data.
    Watch,
    /// A cursor and keys.
    Scan,
    /// QUEUED.
    Queued,
    /// A command of its own, and how it is answered.
    Command(TransactionId, Form),
    /// The GET behind a WATCH.
    Watched(TransactionId),
    /// EXEC of a block.
    Exec(Block),
}

/// A block that was sent.
#[derive(Debug)]
struct Block {
    id: TransactionId,
    /// Some key may be under WATCH, so that the block may do nothing.
    may_abort: bool,
    /// What it has seen if it commits: a key under WATCH, and what that held.
    saw: Option<MicroOp>,
    answers: Answers,
}

/// A part of a block.
struct Part {
    ops: Vec<MicroOp>,
    requests: Vec<Vec<u8>>,
    /// Which of them is answered with what is to be known, and how.
    answer: usize,
    form: Form,
}

/// The connection of the moment.
#[derive(Debug)]
struct Connection {
    number: u64,
    machine: Machine,
    decoder: ReplyDecoder,
    input: BytesMut,
    expected: VecDeque<Expected>,
    /// WATCH was sent since the last block.
    under_watch: bool,
    /// The reply to the last WATCH was OK.
    watching: bool,
    /// The read of a key under WATCH.
    watched: Option<MicroOp>,
    /// After `-UNCERTAIN` nothing more may come.
    uncertain: bool,
}

/// What a client is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// Whatever the habits say.
    Work,
    /// The same, until so many commands sent from now on have committed.
    Recover { left: u32 },
    /// Every key is to be read at one node.
    ReadAll { machine: Machine, next: usize },
    /// Nothing more.
    Rest,
}

/// Commands that have to succeed after the faults are over.
const RECOVERY_COMMANDS: u32 = 3;

/// A client. See the [module](super).
#[derive(Debug)]
pub struct Client {
    random: Random,
    habits: Habits,
    /// Nodes to connect to.
    nodes: Vec<Machine>,
    task: Task,
    connection: Option<Connection>,
    /// When something is to be done without being asked.
    due: Moment,
    /// Commands sent before this do not count for recovery.
    recovering_since: Moment,
    actions: VecDeque<ClientAction>,
    /// The longest that it has read of each list: that is there for ever.
    lists: BTreeMap<Key, Vec<Token>>,
    /// Lists and counters that it knows to be there, for ever.
    there: BTreeSet<Key>,
    scan: Option<Scan>,
}

impl Client {
    /// A client that begins at a moment of its own.
    pub fn new(mut random: Random, habits: Habits, nodes: Vec<Machine>) -> Client {
        let due = random.below(SECOND);
        Client {
            random,
            habits,
            nodes,
            task: Task::Work,
            connection: None,
            due,
            recovering_since: 0,
            actions: VecDeque::new(),
            lists: BTreeMap::new(),
            there: BTreeSet::new(),
            scan: None,
        }
    }

    /// A client that reads every key at one node, from now on.
    pub fn reader(random: Random, habits: Habits, now: Moment, machine: Machine) -> Client {
        let task = Task::ReadAll { machine, next: 0 };
        Client { task, due: now, ..Client::new(random, habits, vec![machine]) }
    }

    /// The nodes to connect to are others now. A connection to one that is not among them is given up before the next
    /// command.
    pub fn set_nodes(&mut self, nodes: &[Machine]) {
        nodes.clone_into(&mut self.nodes);
    }

    /// Faults are over: from now on it has to succeed, and then rests.
    pub fn recover(&mut self, now: Moment) {
        self.task = Task::Recover { left: RECOVERY_COMMANDS };
        self.recovering_since = now;
    }

    /// Whether it has done what it was to do.
    pub fn is_done(&self) -> bool {
        self.task == Task::Rest
    }

    /// When [`Client::handle_timeout`] is to be called.
    pub fn due(&self) -> Moment {
        self.due
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<ClientAction> {
        self.actions.pop_front()
    }

    /// Where it is connected, for reports.
    pub fn machine(&self) -> Option<Machine> {
        self.connection.as_ref().map(|connection| connection.machine)
    }

    /// The time has come: for the next command, or to give up waiting.
    pub fn handle_timeout(&mut self, now: Moment, recorder: &mut Recorder) {
        if now < self.due {
            return;
        }
        let owed = self.connection.as_ref().is_some_and(|connection| !connection.expected.is_empty());
        if self.task == Task::Rest || owed {
            // Rested, or waited long enough.
            self.leave(now);
        } else {
            self.work(now, recorder);
        }
    }

    /// Bytes came.
    pub fn handle_bytes(&mut self, now: Moment, bytes: &[u8], recorder: &mut Recorder) {
        let Some(connection) = &mut self.connection else { return };
        connection.input.extend_from_slice(bytes);
        loop {
            let Some(connection) = &mut self.connection else { return };
            match connection.decoder.decode(&connection.input) {
                Ok(Decoded::Message(reply, length)) => {
                    let _ = connection.input.split_to(length);
                    self.handle_reply(now, reply, recorder);
                }
                Ok(Decoded::Skip(length)) => drop(connection.input.split_to(length)),
                Ok(Decoded::Incomplete { .. }) => break,
                Err(error) => {
                    recorder.problem(connection.number, format_args!("bytes that are no reply: {error:?}"));
                    self.leave(now);
                    return;
                }
            }
        }
        if self.connection.as_ref().is_some_and(|connection| connection.expected.is_empty()) {
            self.due = now + self.random.exponential(self.habits.think_mean);
        }
    }

    /// The connection ended. What was owed on it will never come.
    pub fn handle_closed(&mut self, now: Moment) {
        if self.connection.take().is_some() {
            self.due = now + self.random.below(300 * MILLI);
        }
    }

    fn leave(&mut self, now: Moment) {
        if self.connection.take().is_some() {
            self.actions.push_back(ClientAction::Close);
        }
        let pause = self.random.below(100 * MILLI);
        self.due = if self.task == Task::Rest { Moment::MAX } else { now + pause };
    }

    fn work(&mut self, now: Moment, recorder: &mut Recorder) {
        if self.connection.as_ref().is_some_and(|connection| !self.nodes.contains(&connection.machine)) {
            return self.leave(now);
        }
        if self.task == Task::Work && recorder.history().transactions.len() >= self.habits.transactions_max {
            self.due = now + SECOND;
            return;
        }
        if self.connection.is_none() {
            self.connect(recorder);
        }
        if let Task::ReadAll { next, .. } = self.task {
            let key = self.habits.all_keys().nth(next).expect("it rests behind the last");
            self.read(now, recorder, key);
        } else if self.connection.as_ref().is_some_and(|connection| connection.watched.is_some()) {
            self.block(now, recorder);
        } else if self.random.permille(self.habits.watch_permille) {
            self.watch(now, recorder);
        } else {
            let burst = self.random.permille(self.habits.burst_permille);
            for _ in 0..if burst { self.random.between(2, 8) } else { 1 } {
                if self.random.permille(self.habits.block_permille) {
                    self.block(now, recorder);
                } else {
                    self.command(now, recorder);
                }
            }
        }
        self.due = now + self.random.between(self.habits.patience / 2, self.habits.patience);
        if self.task == Task::Work && self.random.permille(self.habits.leave_permille) {
            self.due = now + self.random.below(50 * MILLI);
        }
    }

    fn connect(&mut self, recorder: &mut Recorder) {
        let machine = match self.task {
            Task::ReadAll { machine, .. } => machine,
            _ => *self.random.pick(&self.nodes),
        };
        self.actions.push_back(ClientAction::Connect(machine));
        self.connection = Some(Connection {
            number: recorder.connection(),
            machine,
            decoder: ReplyDecoder::new(ReplyLimits::default()),
            input: BytesMut::new(),
            expected: VecDeque::new(),
            under_watch: false,
            watching: false,
            watched: None,
            uncertain: false,
        });
        if self.random.one_in(3) {
            self.send(request::encode(&["HELLO", "3"]), Expected::Hello);
        }
    }

    fn send(&mut self, bytes: Vec<u8>, expected: Expected) {
        let Some(connection) = &mut self.connection else { return };
        connection.expected.push_back(expected);
        match self.actions.back_mut() {
            // What is sent at once leaves as one piece, as from a buffered client.
            Some(ClientAction::Send(last)) => {
                let mut joined = Vec::from(std::mem::take(last));
                joined.extend_from_slice(&bytes);
                *last = joined.into();
            }
            _ => self.actions.push_back(ClientAction::Send(bytes.into())),
        }
    }

    /// Sends a request to a database. The connection is at the first, before and after.
    fn send_to(&mut self, db: u8, bytes: Vec<u8>, expected: Expected) {
        if db == 0 {
            return self.send(bytes, expected);
        }
        self.send(request::select(db), Expected::Ok);
        self.send(bytes, expected);
        self.send(request::select(0), Expected::Ok);
    }

    fn invoke(&mut self, now: Moment, recorder: &mut Recorder, ops: Vec<MicroOp>) -> TransactionId {
        let connection = self.connection.as_ref().expect("a command is sent over a connection");
        recorder.invoke(now, connection.number, connection.machine as u64 + 1, ops)
    }

    /// Some key, of some kind.
    fn key(&mut self) -> Key {
        let kind = self.random.below(1000);
        if kind < self.habits.counter_permille {
            COUNTERS + self.random.below(self.habits.others) as Key
        } else if kind < self.habits.counter_permille + self.habits.register_permille {
            REGISTERS + self.random.below(self.habits.others) as Key
        } else {
            self.random.below(self.habits.keys) as Key
        }
    }

    fn op(&mut self, now: Moment, recorder: &mut Recorder) -> MicroOp {
        let key = self.key();
        if !self.random.permille(self.habits.read_permille) {
            return self.change(now, key, recorder);
        }
        if key >= COUNTERS || !self.random.permille(self.habits.partial_permille) {
            return reading(key);
        }
        if self.random.one_in(3) {
            return MicroOp::Length { key, again: None, length: None };
        }
        let count = usize::try_from(self.random.between(1, 40)).expect("it is small");
        MicroOp::Tail { key, count, tokens: None }
    }

    /// What changes a key.
    fn change(&mut self, now: Moment, key: Key, recorder: &mut Recorder) -> MicroOp {
        match key {
            REGISTERS.. if self.random.one_in(5) => MicroOp::Take { key, saw: None },
            REGISTERS.. if self.habits.expiry_permille > 0 && self.random.one_in(4) => {
                let until = if self.random.one_in(3) { Until::Never } else { self.deadline(now) };
                MicroOp::Expire { key, until, saw: None }
            }
            REGISTERS.. => {
                let expires = self.random.permille(self.habits.expiry_permille);
                let kept = self.random.one_in(4);
                let until = match (kept, expires) {
                    (true, _) => Until::Kept,
                    (_, true) => self.deadline(now),
                    _ => Until::Never,
                };
                let if_absent = self.random.one_in(3);
                MicroOp::Put { key, token: recorder.token(), until, if_absent, saw: None }
            }
            COUNTERS.. => MicroOp::Add { key, value: None },
            _ => match self.rewriting(key) {
                Some(again) => MicroOp::Length { key, again: Some(again), length: None },
                None => MicroOp::Append { key, token: recorder.token(), length: None },
            },
        }
    }

    fn deadline(&mut self, now: Moment) -> Until {
        let life_ms = self.random.between(1, self.habits.life_ms_max);
        if self.random.one_in(4) { Until::At(now / MILLI + life_ms) } else { Until::After(life_ms) }
    }

    /// A token that is in a list for ever, and where, to be written there again; now and then.
    fn rewriting(&mut self, key: Key) -> Option<(usize, Token)> {
        let list = self.lists.get(&key).filter(|list| !list.is_empty())?;
        if !self.random.permille(self.habits.partial_permille / 2) {
            return None;
        }
        let at = usize::try_from(self.random.below(list.len() as u64)).expect("it is an index");
        Some((at, list[at]))
    }

    fn command(&mut self, now: Moment, recorder: &mut Recorder) {
        if self.random.one_in(10) {
            return self.read_several(now, recorder);
        }
        if self.random.permille(self.habits.range_permille) {
            let (ops, bytes, form) = self.range();
            return self.ask(now, recorder, ops, bytes, form);
        }
        if self.random.permille(self.habits.scan_permille) && !self.awaits_scan() {
            return self.scan();
        }
        let op = self.op(now, recorder);
        let bytes = request::of(&op, self.habits.values);
        self.ask(now, recorder, vec![op], bytes, Form::One);
    }

    fn read(&mut self, now: Moment, recorder: &mut Recorder, key: Key) {
        self.ask(now, recorder, vec![reading(key)], request::get(key), Form::One);
    }

    /// The keys of a database.
    fn keys_of_one(&self, db: u8) -> impl Iterator<Item = Key> {
        self.habits.all_keys().filter(move |key| self.habits.db(*key) == db)
    }

    /// MGET: several keys at one moment.
    fn read_several(&mut self, now: Moment, recorder: &mut Recorder) {
        let ops: Vec<MicroOp> = self.keys_of_one(0).map(reading).collect();
        let (bytes, form) = (request::get_several(&ops), Form::Several(ops.len()));
        self.ask(now, recorder, ops, bytes, form);
    }

    /// KV.RANGE: all keys of a kind, or of all kinds, that are there; at one moment.
    fn range(&mut self) -> (Vec<MicroOp>, Vec<u8>, Form) {
        let (start, end) = *self.random.pick(&[("c", "d"), ("k", "l"), ("r", "s"), ("c", "s")]);
        let limit = self.random.one_in(3).then(|| usize::try_from(self.random.between(1, 4)).expect("it is small"));
        let walk = Walk { reverse: self.random.one_in(2), limit };
        let within = |key: &Key| (start..end).contains(&key_name(*key).as_str());
        let db = if start == "r" { self.habits.register_db } else { 0 };
        let ops: Vec<MicroOp> = self.keys_of_one(db).filter(within).map(reading).collect();
        let form = Form::Range(ops.len(), walk);
        (ops, request::range(start, end, walk), form)
    }

    /// Goes on with its scan, or begins one.
    fn scan(&mut self) {
        let count = self.random.between(1, 5);
        let request = self.scan.get_or_insert_with(|| Scan::begin(&self.there)).request(count);
        self.send(request, Expected::Scan);
    }

    fn awaits_scan(&self) -> bool {
        let expected = self.connection.iter().flat_map(|connection| &connection.expected);
        expected.into_iter().any(|expected| matches!(expected, Expected::Scan))
    }

    fn scanned(&mut self, number: u64, reply: &Reply, recorder: &mut Recorder) {
        let Some(scan) = &mut self.scan else { return };
        match scan.take_in(reply) {
            Ok(false) => {}
            Ok(true) => self.scan = None,
            Err(what) => {
                recorder.problem(number, what);
                self.scan = None;
            }
        }
    }

    /// Sends a command of its own.
    fn ask(&mut self, now: Moment, recorder: &mut Recorder, ops: Vec<MicroOp>, bytes: Vec<u8>, form: Form) {
        let db = ops.first().map_or(0, |op| self.habits.db(op.key()));
        let id = self.invoke(now, recorder, ops);
        self.send_to(db, bytes, Expected::Command(id, form));
    }

    fn watch(&mut self, now: Moment, recorder: &mut Recorder) {
        let key = self.key();
        if let Some(connection) = &mut self.connection {
            (connection.under_watch, connection.watching) = (true, false);
        }
        let db = self.habits.db(key);
        self.send_to(db, request::encode(&["WATCH", &key_name(key)]), Expected::Watch);
        let id = self.invoke(now, recorder, vec![reading(key)]);
        self.send_to(db, request::get(key), Expected::Watched(id));
    }

    fn block(&mut self, now: Moment, recorder: &mut Recorder) {
        let Some(connection) = &mut self.connection else { return };
        let (saw, may_abort) = (connection.watched.take(), std::mem::take(&mut connection.under_watch));
        let mut changes = Vec::new();
        let parts = self.random.between(1, 4);
        if let Some(watched) = &saw {
            // Compare and set: what was read under WATCH is what it replaces.
            changes.push(self.change(now, watched.key(), recorder));
        }
        self.send(request::encode(&["MULTI"]), Expected::Ok);
        let (mut ops, mut answers) = (Vec::new(), Answers::default());
        for change in changes.into_iter().map(Some).chain((0..parts).map(|_| None)) {
            let mut part = self.part(now, recorder, change);
            ops.append(&mut part.ops);
            answers.add(part.requests.len(), part.answer, part.form);
            part.requests.into_iter().for_each(|request| self.send(request, Expected::Queued));
        }
        let id = self.invoke(now, recorder, ops);
        self.send(request::encode(&["EXEC"]), Expected::Exec(Block { id, may_abort, saw, answers }));
    }

    /// A part of a block, this one or any.
    fn part(&mut self, now: Moment, recorder: &mut Recorder, op: Option<MicroOp>) -> Part {
        let mut part = self.part_of_one(now, recorder, op);
        let db = part.ops.first().map_or(0, |op| self.habits.db(op.key()));
        if db != 0 {
            part.requests.insert(0, request::select(db));
            part.answer += 1;
            part.requests.push(request::select(0));
        }
        part
    }

    /// One that stays within a database.
    fn part_of_one(&mut self, now: Moment, recorder: &mut Recorder, op: Option<MicroOp>) -> Part {
        if op.is_none() && self.random.permille(self.habits.range_permille) {
            let (ops, bytes, form) = self.range();
            return Part { ops, requests: vec![bytes], answer: 0, form };
        }
        if op.is_none() && self.random.permille(self.habits.clear_permille) {
            return self.clear();
        }
        let op = op.unwrap_or_else(|| self.op(now, recorder));
        let (requests, answer) = if self.random.permille(self.habits.detour_permille) {
            request::around(&op, self.habits.values)
        } else {
            (vec![request::of(&op, self.habits.values)], 0)
        };
        Part { ops: vec![op], requests, answer, form: Form::One }
    }

    /// Takes what is in all registers at once, by FLUSHDB or FLUSHALL.
    fn clear(&mut self) -> Part {
        let registers = self.habits.all_keys().filter(|key| *key >= REGISTERS);
        let ops: Vec<MicroOp> = registers.map(|key| MicroOp::Take { key, saw: None }).collect();
        let has_others = self.habits.register_permille < 1000;
        let clear = if has_others || self.random.one_in(2) { "FLUSHDB" } else { "FLUSHALL" };
        let requests = vec![request::get_several(&ops), request::encode(&[clear])];
        let form = Form::Several(ops.len());
        Part { ops, requests, answer: 0, form }
    }

    fn handle_reply(&mut self, now: Moment, reply: Reply, recorder: &mut Recorder) {
        let Some(connection) = &mut self.connection else { return };
        let number = connection.number;
        let Some(expected) = connection.expected.pop_front() else {
            return recorder.problem(number, format_args!("a reply that nothing asked for: {reply:?}"));
        };
        if connection.uncertain {
            recorder.problem(number, format_args!("a reply behind -UNCERTAIN: {reply:?}"));
        }
        if let Reply::Error(text) = &reply {
            return self.handle_error(now, &expected, text, recorder);
        }
        match (expected, &reply) {
            (Expected::Ok, Reply::Status(text)) if text == "OK" => {}
            (Expected::Watch, Reply::Status(text)) if text == "OK" => connection.watching = true,
            (Expected::Hello, Reply::Map(_)) => {}
            (Expected::Queued, Reply::Status(text)) if text == "QUEUED" => {}
            (Expected::Scan, reply) => self.scanned(number, reply, recorder),
            (Expected::Command(id, form), reply) => {
                self.committed(now, id, reply, |ops, reply, values| form.read(ops, reply, values), recorder);
            }
            (Expected::Watched(id), reply) => {
                let watching = std::mem::take(&mut connection.watching);
                let form = Form::One;
                if self.committed(now, id, reply, |ops, reply, values| form.read(ops, reply, values), recorder)
                    && watching
                    && let Some(connection) = &mut self.connection
                {
                    connection.watched = recorder.transaction(id).ops.first().cloned();
                }
            }
            // Something under WATCH had changed: nothing was done.
            (Expected::Exec(Block { id, may_abort: true, .. }), Reply::Null | Reply::NullArray) => {
                recorder.refuse(now, id);
            }
            (Expected::Exec(Block { id, saw, answers, .. }), reply) => {
                let read = |ops: &[MicroOp], reply: &Reply, values| {
                    // A block that commits under WATCH has seen what was there when the key was read.
                    Ok(saw.into_iter().chain(answers.read(ops, reply, values)?).collect())
                };
                self.committed(now, id, reply, read, recorder);
            }
            (expected, reply) => {
                recorder.problem(number, format_args!("{expected:?} was answered with {reply:?}"));
            }
        }
    }

    fn handle_error(&mut self, now: Moment, expected: &Expected, text: &Bytes, recorder: &mut Recorder) {
        let Some(connection) = &mut self.connection else { return };
        let id = match expected {
            Expected::Command(id, _) | Expected::Watched(id) | Expected::Exec(Block { id, .. }) => Some(*id),
            Expected::Watch | Expected::Scan => None,
            // The block will be refused as a whole.
            Expected::Queued if text.starts_with(b"OOM ") => return,
            Expected::Ok | Expected::Queued | Expected::Hello => {
                let text = String::from_utf8_lossy(text);
                return recorder.problem(connection.number, format_args!("{expected:?} was answered with -{text}"));
            }
        };
        // No quorum; a disk without room; a block with a part that was refused; a node that was removed.
        let refused: [&[u8]; 4] = [b"NOQUORUM not executed", b"OOM ", b"EXECABORT ", b"ERR not executed"];
        if refused.iter().any(|refusal| text.starts_with(refusal)) {
            id.into_iter().for_each(|id| recorder.refuse(now, id));
        } else if text.starts_with(b"UNCERTAIN ") {
            connection.uncertain = true;
        } else {
            let text = String::from_utf8_lossy(text);
            recorder.problem(connection.number, format_args!("{expected:?} was answered with -{text}"));
        }
    }

    /// A command succeeded: its results go into the history, as `read` finds them in the reply. False if they make no sense.
    fn committed(
        &mut self,
        now: Moment,
        id: TransactionId,
        reply: &Reply,
        read: impl FnOnce(&[MicroOp], &Reply, Values) -> Result<Vec<MicroOp>, String>,
        recorder: &mut Recorder,
    ) -> bool {
        let ops = match read(&recorder.transaction(id).ops, reply, self.habits.values) {
            Ok(ops) => ops,
            Err(what) => {
                let asked = recorder.transaction(id).clone();
                let reply = Printed(reply);
                recorder.problem(asked.connection, format_args!("{what}: {asked} was answered with {reply}"));
                return false;
            }
        };
        ops.iter().for_each(|op| self.remember(op));
        recorder.commit(now, id, ops);
        self.progress(recorder.transaction(id).invoked);
        true
    }

    /// What was read of a list is there for ever, and so is the list, or a counter.
    fn remember(&mut self, op: &MicroOp) {
        let is_there = match op {
            MicroOp::Read { key, list: Some(list) } => {
                let known = self.lists.entry(*key).or_default();
                if list.len() > known.len() {
                    list.clone_into(known);
                }
                !list.is_empty()
            }
            MicroOp::Append { .. } | MicroOp::Add { .. } => true,
            MicroOp::Count { value, .. } => value.is_some_and(|value| value > 0),
            _ => false,
        };
        if is_there {
            self.there.insert(op.key());
        }
    }

    fn progress(&mut self, invoked: Moment) {
        match &mut self.task {
            Task::Recover { left } if invoked >= self.recovering_since => {
                *left -= 1;
                if *left == 0 {
                    self.task = Task::Rest;
                }
            }
            Task::ReadAll { next, .. } => {
                *next += 1;
                if *next == self.habits.all_keys().count() {
                    self.task = Task::Rest;
                }
            }
            Task::Work | Task::Recover { .. } | Task::Rest => {}
        }
    }
}

/// A reply in a report: not all of it, if it is long.
struct Printed<'a>(&'a Reply);

impl std::fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const PRINTED_MAX: usize = 300;
        let text = format!("{:?}", self.0);
        match text.char_indices().nth(PRINTED_MAX) {
            Some((end, _)) => write!(f, "{} .. {} more", &text[..end], text.len() - end),
            None => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{Outcome, check};

    /// Lets a client talk to `answers`, which gets what it sends and says what comes back, and gives the history.
    fn talk(habits: Habits, rounds: usize, mut answers: impl FnMut(&str) -> String) -> (Recorder, Client) {
        let mut recorder = Recorder::default();
        let mut client = Client::new(Random::new(1), habits, vec![0, 1, 2]);
        for _ in 0..rounds {
            let now = client.due();
            client.handle_timeout(now, &mut recorder);
            while let Some(action) = client.poll_action() {
                if let ClientAction::Send(bytes) = action {
                    let reply = answers(std::str::from_utf8(&bytes).unwrap());
                    client.handle_bytes(now + 1, reply.as_bytes(), &mut recorder);
                }
            }
        }
        (recorder, client)
    }

    fn habits() -> Habits {
        let mut habits = Habits::draw(&mut Random::new(1));
        (habits.burst_permille, habits.block_permille, habits.watch_permille) = (0, 0, 0);
        (habits.read_permille, habits.leave_permille, habits.keys) = (0, 0, 1);
        (habits.counter_permille, habits.register_permille, habits.others) = (0, 0, 0);
        (habits.partial_permille, habits.range_permille, habits.scan_permille) = (0, 0, 0);
        (habits.values, habits.register_db, habits.clear_permille) = (Values::SHORT, 0, 0);
        habits
    }

    #[test]
    fn acknowledged_refused_and_uncertain_commands_are_told_apart() {
        let mut length = 0;
        let (recorder, _) = talk(Habits { keys: 1, ..habits() }, 30, |sent| {
            if sent.contains("HELLO") {
                return "%0\r\n-NOQUORUM not executed: no leader\r\n".to_owned();
            }
            if sent.contains("MGET") {
                return "-NOQUORUM not executed: no leader\r\n".to_owned();
            }
            length += 1;
            match length % 3 {
                0 => "-UNCERTAIN no answer\r\n".to_owned(),
                1 => "-NOQUORUM not executed: no leader\r\n".to_owned(),
                _ => format!(":{}\r\n", length * Values::SHORT.token_bytes),
            }
        });
        let (committed, refused, unknown) = recorder.counts();
        assert!(committed > 0 && refused > 0 && unknown > 0, "{committed} {refused} {unknown}");
        // Nothing may follow an uncertain answer on its connection, and this store answered on.
        assert!(recorder.problems()[0].contains("behind -UNCERTAIN"), "{:?}", recorder.problems());
    }

    #[test]
    fn a_block_under_watch_has_seen_what_the_key_held() {
        let habits = Habits { watch_permille: 1000, ..habits() };
        let (recorder, _) = talk(habits, 2, |sent| {
            if sent.contains("WATCH") {
                return "+OK\r\n$7\r\n000009,\r\n".to_owned();
            }
            let parts = sent.matches("APPEND").count();
            let lengths: String =
                (0..parts).map(|part| format!(":{}\r\n", (2 + part) * Values::SHORT.token_bytes)).collect();
            format!("+OK\r\n{}*{parts}\r\n{lengths}", "+QUEUED\r\n".repeat(parts))
        });
        assert_eq!(recorder.problems(), [] as [String; 0]);
        let block = recorder.history().transactions.last().unwrap();
        assert_eq!(block.outcome, Outcome::Committed);
        assert_eq!(block.ops[0], MicroOp::Read { key: 0, list: Some(vec![9]) });
        assert!(!check(recorder.history()).is_empty(), "nobody ever appended 9");
    }

    #[test]
    fn what_a_store_should_never_answer_is_noted() {
        for answer in ["-ERR what\r\n", "+OK\r\n", ":3\r\n", "?\r\n", "*0\r\n"] {
            let (recorder, _) = talk(habits(), 3, |_| answer.to_owned());
            assert!(!recorder.problems().is_empty(), "{answer}");
        }
    }

    #[test]
    fn a_reader_reads_every_key_and_rests() {
        let mut recorder = Recorder::default();
        let mut client = Client::reader(Random::new(1), Habits { keys: 3, ..habits() }, 5, 2);
        let mut now = 5;
        while !client.is_done() {
            client.handle_timeout(now, &mut recorder);
            while let Some(action) = client.poll_action() {
                match action {
                    ClientAction::Connect(machine) => assert_eq!(machine, 2),
                    ClientAction::Send(bytes) => {
                        let hello = bytes.windows(5).any(|word| word == b"HELLO");
                        let reply: &[u8] = if hello { b"%0\r\n_\r\n" } else { b"$-1\r\n" };
                        client.handle_bytes(now, reply, &mut recorder);
                    }
                    ClientAction::Close => {}
                }
            }
            now = client.due().max(now + 1);
        }
        assert_eq!(recorder.counts(), (3, 0, 0));
    }
}
