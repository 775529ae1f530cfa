//! Golden scripts: stories of a few nodes, told step by step, with what came of each step written below it.
//!
//! A script is text. Lines that begin with `>` are commands; what follows one, up to a blank line, a comment (`#`) or the
//! next command, is what it printed. The test runs the commands again and compares. With `RAFT_SCRIPTS_REWRITE=1` it
//! writes what it got into the file instead; a changed story is then a diff to read, and to explain.
//!
//! The commands are listed in `scripts/README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::Bytes;

use super::host::{Host, Snapshots};
use crate::*;

type Outcome = Result<(), String>;

#[derive(Default)]
struct Script {
    hosts: BTreeMap<u64, Host>,
    millis: u64,
    network: Vec<Message>,
    cut: BTreeSet<(u64, u64)>,
    held_disks: BTreeSet<u64>,
    held_states: BTreeSet<u64>,
    paused: BTreeSet<u64>,
    hold_snapshots: bool,
    wanted: Vec<(u64, NodeId)>,
    snapshots: Snapshots,
    /// Print messages and writes, not only what comes of them.
    verbose: bool,
    out: String,
}

macro_rules! say {
    ($s:expr, $($arg:tt)*) => { writeln!($s.out, $($arg)*).expect("a string takes everything") };
}

/// The snapshot of the state at an entry that one was made of before.
fn kept_snapshot(snapshots: &Snapshots, index: u64) -> Result<SnapshotMeta, String> {
    let found = snapshots.iter().find(|(last, _)| last.index == LogIndex(index));
    let (last, state) = found.ok_or("there is no such snapshot")?;
    Ok(SnapshotMeta { last: *last, configuration: state.configuration.clone() })
}

fn parse<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("not understood: {word}"))
}

fn link(word: &str) -> Result<(u64, u64), String> {
    let (from, to) = word.split_once("->").ok_or(format!("not a link: {word}"))?;
    Ok((parse(from)?, parse(to)?))
}

fn ids(words: &[&str]) -> Result<Vec<u64>, String> {
    words.iter().map(|w| parse(w)).collect()
}

fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
}

/// Settings as an operator would say them, small enough for a story.
fn config(words: &[&str]) -> Result<Config, String> {
    let mut c = Config { lease_reads: option(words, "lease") == Some("on"), ..Config::default() };
    if let Some(n) = option(words, "inflight") {
        c.inflight_appends_max = parse(n)?;
    }
    if let Some(n) = option(words, "inflight_bytes") {
        c.inflight_bytes_max = parse(n)?;
    }
    if let Some(n) = option(words, "append_bytes") {
        c.append_bytes_max = parse(n)?;
    }
    if let Some(n) = option(words, "entry_bytes") {
        c.entry_bytes_max = parse(n)?;
    }
    if let Some(n) = option(words, "uncommitted_bytes") {
        c.uncommitted_bytes_max = parse(n)?;
    }
    if let Some(n) = option(words, "cache_bytes") {
        c.log_cache_bytes_max = parse(n)?;
    }
    if let Some(n) = option(words, "reads") {
        c.reads_pending_max = parse(n)?;
    }
    Ok(c)
}

impl Script {
    fn run(&mut self, line: &str) -> Outcome {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (command, rest) = words.split_first().ok_or("an empty command")?;
        match *command {
            "nodes" => self.nodes(rest),
            "disk" => self.disk(rest),
            "start" => self.start(rest),
            "deliver" => self.deliver(rest, true),
            "settle" => self.deliver(rest, false),
            "drop" | "duplicate" | "reverse" | "flight" => self.meddle(command, rest),
            "cut" | "heal" | "pause" | "resume" | "hold" | "release" => self.disturb(command, rest),
            "wait" => self.wait(rest),
            "run" => self.run_for(rest),
            "crash" => self.crash(rest),
            "status" => self.status(rest),
            "logs" => self.logs(),
            "peers" => self.peers(rest),
            _ => self.act(command, rest),
        }
    }

    fn now(&self) -> Time {
        Time::from_millis(self.millis)
    }

    fn host(&mut self, word: &str) -> Result<&mut Host, String> {
        let id: u64 = parse(word)?;
        self.hosts.get_mut(&id).ok_or(format!("no node {id}"))
    }

    fn raft(&mut self, word: &str) -> Result<&mut Raft<MemLog>, String> {
        self.host(word)?.raft.as_mut().ok_or(format!("node {word} is down"))
    }

    /// `nodes 1 2 3 join 4 learner 5 [paper] [options]`
    fn nodes(&mut self, words: &[&str]) -> Outcome {
        let config = config(words)?;
        *self = Script { millis: self.millis, ..Script::default() };
        let mut lists: [Vec<u64>; 3] = Default::default();
        let mut at = 0;
        for word in words.iter().filter(|w| !w.contains('=') && **w != "paper") {
            match *word {
                "learner" => at = 1,
                "join" => at = 2,
                id => lists[at].push(parse(id)?),
            }
        }
        let [voters, learners, joining] = lists;
        let first = Configuration::new(voters.iter().copied().map(NodeId), learners.iter().copied().map(NodeId));
        for id in voters.into_iter().chain(learners) {
            let mut host = Host::new(NodeId(id), config.clone(), first.clone());
            if words.contains(&"paper") {
                // Logs from index 1, as in the paper; nobody joins such a group.
                host.state.last = EntryId::default();
                host.flushed = host.state.clone();
            }
            self.hosts.insert(id, host);
        }
        for id in joining {
            self.hosts.insert(id, Host::new(NodeId(id), config.clone(), Configuration::default()));
        }
        Ok(())
    }

    /// `disk 1 term=6 log=1,1,1,4,4` writes a log by its terms.
    fn disk(&mut self, words: &[&str]) -> Outcome {
        let host = self.host(words[0])?;
        let mut index = host.state.last.index;
        let mut entries = Vec::new();
        for term in option(words, "log").unwrap_or_default().split(',').filter(|t| !t.is_empty()) {
            index = index.next();
            let data = Bytes::from(format!("{index}@{term}"));
            entries.push(Entry { term: Term(parse(term)?), index, kind: EntryKind::Normal, data });
        }
        host.write_log(entries);
        if let Some(term) = option(words, "term") {
            host.hard.term = Term(parse(term)?);
        }
        Ok(())
    }

    /// `start` or `start 2 3`
    fn start(&mut self, words: &[&str]) -> Outcome {
        let which = if words.is_empty() { self.hosts.keys().copied().collect() } else { ids(words)? };
        let now = self.now();
        for id in which {
            let host = self.hosts.get_mut(&id).ok_or("no such node")?;
            // A new seed for every life, and different timeouts for every node.
            host.start(now, id * 1000 + self.millis);
            self.pump(id)?;
        }
        Ok(())
    }

    /// Commands that go to one node.
    fn act(&mut self, command: &str, words: &[&str]) -> Outcome {
        let now = self.now();
        let node = *words.first().ok_or("which node?")?;
        let second = words.get(1).copied().unwrap_or_default();
        let answer = match command {
            "campaign" | "tick" | "flush" | "lost" | "abstain" => self.nudge(command, node, second)?,
            "propose" => {
                let entries: Vec<Bytes> = words[1..].iter().map(|w| payload(w)).collect();
                let dropped = |d: ProposalDropped| format!("dropped: {d}");
                self.raft(node)?.propose(entries).map_or_else(dropped, |_| String::new())
            }
            "change" => {
                let changes = words[1..].iter().map(|w| change(w)).collect::<Result<Vec<_>, _>>()?;
                let dropped = |d: ProposalDropped| format!("dropped: {d}");
                self.raft(node)?.propose_change(&changes).map_or_else(dropped, |_| String::new())
            }
            "transfer" => {
                let to = NodeId(parse(second)?);
                let refused = |r: TransferRefused| format!("refused: {r}");
                self.raft(node)?.transfer_leadership(now, to).map_or_else(refused, |()| String::new())
            }
            "read" => {
                let id = ReadId(parse(second)?);
                self.raft(node)?.read(id).map_or_else(|d| format!("dropped: {d}"), |()| String::new())
            }
            "lease" => {
                let holds = self.raft(node)?.holds_lease(now);
                format!("{node} {} a lease", if holds { "holds" } else { "has not got" })
            }
            "compact" => {
                let to = LogIndex(parse(second)?);
                let host = self.host(node)?;
                host.flush();
                host.compact(to);
                let base = host.raft().log_base();
                format!("{node} begins after {base}")
            }
            "send-snapshot" => {
                let host = self.hosts.get_mut(&parse::<u64>(node)?).ok_or("no such node")?;
                let meta = match words.get(2) {
                    Some(index) => kept_snapshot(&self.snapshots, parse(index)?)?,
                    None => host.snapshot(&mut self.snapshots),
                };
                let taken = host.raft().snapshot_produced(NodeId(parse(second)?), meta);
                if taken { String::new() } else { format!("{node} does not send it") }
            }
            "fail-snapshot" => {
                self.raft(node)?.snapshot_failed(NodeId(parse(second)?));
                String::new()
            }
            "message" => self.forge(words)?,
            other => return Err(format!("unknown command: {other}")),
        };
        if !answer.is_empty() {
            say!(self, "{answer}");
        }
        self.pump(parse(node)?)
    }

    /// The commands that have no answer of their own: what they bring about is told by what happens then.
    fn nudge(&mut self, command: &str, node: &str, second: &str) -> Result<String, String> {
        let now = self.now();
        match command {
            "campaign" => self.raft(node)?.campaign(now),
            "tick" => self.raft(node)?.tick(now),
            "lost" => self.raft(node)?.peer_lost(now, NodeId(parse(second)?)),
            "abstain" => self.raft(node)?.abstain(second != "off"),
            _ => self.host(node)?.flush(),
        }
        Ok(String::new())
    }

    /// `message 2 from=1 term=3 accepted=99`: something no correct member would send.
    fn forge(&mut self, words: &[&str]) -> Result<String, String> {
        let from = NodeId(parse(option(words, "from").ok_or("from?")?)?);
        let term = Term(parse(option(words, "term").ok_or("term?")?)?);
        let id = |word: &str| -> Result<EntryId, String> {
            let (index, term) = word.split_once('@').ok_or("not index@term")?;
            Ok(EntryId::new(Term(parse(term)?), LogIndex(parse(index)?)))
        };
        let body = if let Some(n) = option(words, "accepted") {
            Body::AppendAccepted { matched: LogIndex(parse(n)?) }
        } else if let Some(prev) = option(words, "prev") {
            let mut entries = Vec::new();
            for e in option(words, "entries").unwrap_or_default().split(',').filter(|e| !e.is_empty()) {
                let EntryId { term, index } = id(e)?;
                let kind = if words.contains(&"config") { EntryKind::Config } else { EntryKind::Normal };
                entries.push(Entry { term, index, kind, data: Bytes::from_static(b"forged") });
            }
            Body::Append { prev: id(prev)?, entries, commit: LogIndex(u64::MAX) }
        } else {
            Body::Heartbeat { round: 1, commit: LogIndex(u64::MAX) }
        };
        let (to, now) = (NodeId(parse(words[0])?), self.now());
        let stepped = self.raft(words[0])?.step(now, Message { from, to, term, body });
        Ok(stepped.map_or_else(|e| format!("refused: {e}"), |()| "taken".into()))
    }

    /// Meddles with what is on its way: `drop 1->2`, `duplicate 1->2`, `reverse 1->2`, `flight` shows it.
    fn meddle(&mut self, command: &str, words: &[&str]) -> Outcome {
        if command == "flight" {
            let flight: Vec<String> = self.network.iter().map(Message::to_string).collect();
            flight.iter().for_each(|m| say!(self, "{m}"));
            return Ok(());
        }
        let (from, to) = link(words.first().ok_or("which link?")?)?;
        let on_link = |m: &Message| m.from.0 == from && m.to.0 == to;
        let (mut theirs, others): (Vec<_>, Vec<_>) = self.network.drain(..).partition(on_link);
        self.network = others;
        if command == "drop" {
            theirs.iter().for_each(|m| say!(self, "lost: {m}"));
            return Ok(());
        }
        if command == "duplicate" {
            theirs = theirs.iter().chain(&theirs).cloned().collect();
        } else {
            theirs.reverse();
        }
        self.network.extend(theirs);
        Ok(())
    }

    fn disturb(&mut self, command: &str, words: &[&str]) -> Outcome {
        match (command, words) {
            ("cut", [one]) if one.contains("->") => {
                self.cut.insert(link(one)?);
            }
            ("cut", some) => {
                let some = ids(some)?;
                for a in self.hosts.keys().copied().collect::<Vec<_>>() {
                    for b in &some {
                        if !some.contains(&a) {
                            self.cut.insert((a, *b));
                            self.cut.insert((*b, a));
                        }
                    }
                }
            }
            ("heal", _) => self.cut.clear(),
            ("pause", [node]) => {
                self.paused.insert(parse(node)?);
            }
            ("resume", [node]) => {
                self.paused.remove(&parse(node)?);
            }
            ("hold", ["snapshots"]) => self.hold_snapshots = true,
            ("release", ["snapshots"]) => self.hold_snapshots = false,
            ("hold", ["disk", node]) => {
                self.held_disks.insert(parse(node)?);
            }
            ("hold", ["state", node]) => {
                self.held_states.insert(parse(node)?);
            }
            ("release", ["state", node]) => {
                self.held_states.remove(&parse(node)?);
            }
            ("release", ["disk", node, "one"]) => {
                self.verbose = true;
                self.write(parse(node)?)?;
            }
            ("release", ["disk", node]) => {
                self.held_disks.remove(&parse(node)?);
            }
            _ => return Err(format!("not understood: {command} {words:?}")),
        }
        Ok(())
    }

    /// `crash 2`, `crash 2 writes=1 parts=3`: how many writes in flight survive, and how much of the next.
    fn crash(&mut self, words: &[&str]) -> Outcome {
        let whole = option(words, "writes").map_or(Ok(0), parse)?;
        let parts = option(words, "parts").map_or(Ok(0), parse)?;
        let id: u64 = parse(words[0])?;
        let host = self.hosts.get_mut(&id).ok_or("no such node")?;
        host.crash(whole, parts, &self.snapshots);
        self.wanted.retain(|(at, _)| *at != id);
        Ok(())
    }

    /// `deliver` until nothing moves, `deliver 1->2` only what is on that link now.
    fn deliver(&mut self, words: &[&str], verbose: bool) -> Outcome {
        self.verbose = verbose;
        if let Some(word) = words.first() {
            let on = link(word)?;
            let mut now = Vec::new();
            self.network.retain(|m| {
                let theirs = (m.from.0, m.to.0) == on;
                if theirs {
                    now.push(m.clone());
                }
                !theirs
            });
            return now.into_iter().try_for_each(|m| self.arrive(m));
        }
        for _ in 0..10_000 {
            if !self.move_once()? {
                return Ok(());
            }
        }
        Err("the nodes never come to rest".into())
    }

    /// Lets one thing happen: a write completes, entries are applied, a snapshot is made, a message arrives.
    fn move_once(&mut self) -> Result<bool, String> {
        for id in self.hosts.keys().copied().collect::<Vec<_>>() {
            let host = &self.hosts[&id];
            if host.is_up() && !host.writes.is_empty() && !self.held_disks.contains(&id) {
                self.write(id)?;
                return Ok(true);
            }
        }
        for id in self.hosts.keys().copied().collect::<Vec<_>>() {
            if !self.held_states.contains(&id) && self.apply(id)? {
                return Ok(true);
            }
        }
        if !self.hold_snapshots && !self.wanted.is_empty() {
            let (id, to) = self.wanted.remove(0);
            let host = self.hosts.get_mut(&id).ok_or("no such node")?;
            let meta = host.snapshot(&mut self.snapshots);
            host.raft().snapshot_produced(to, meta);
            self.pump(id)?;
            return Ok(true);
        }
        let Some(at) = self.network.iter().position(|m| !self.paused.contains(&m.to.0)) else { return Ok(false) };
        let m = self.network.remove(at);
        self.arrive(m)?;
        Ok(true)
    }

    fn arrive(&mut self, m: Message) -> Outcome {
        let (from, to, now) = (m.from.0, m.to.0, self.now());
        if self.cut.contains(&(from, to)) || !self.hosts.get(&to).is_some_and(Host::is_up) {
            if self.verbose {
                say!(self, "lost: {m}");
            }
            return Ok(());
        }
        if self.verbose {
            say!(self, "{m}");
        }
        let host = self.hosts.get_mut(&to).ok_or("no such node")?;
        if let Err(e) = host.raft().step(now, m) {
            say!(self, "{to} refuses it: {e}");
        }
        self.pump(to)
    }

    fn write(&mut self, id: u64) -> Outcome {
        let now = self.now();
        let host = self.hosts.get_mut(&id).ok_or("no such node")?;
        let Some(w) = host.writes.front() else { return Err(format!("node {id} writes nothing")) };
        let mut what = String::new();
        if let Some(s) = &w.snapshot {
            what += &format!(" snapshot={}", s.last);
        } else if let Some(base) = w.restart_log {
            what += &format!(" log-begins-after={base}");
        }
        if let Some(h) = w.hard_state {
            what += &format!(" term={}", h.term);
            what += &h.vote.map_or(String::new(), |v| format!(" vote={v}"));
        }
        if !w.entries.is_empty() {
            let list: Vec<_> = w.entries.iter().map(|e| e.id().to_string()).collect();
            what += &format!(" entries=[{}]", list.join(" "));
        }
        let messages = host.complete_write(now, &self.snapshots);
        if self.verbose {
            say!(self, "{id} wrote{what}");
        }
        self.network.extend(messages);
        self.pump(id)
    }

    fn apply(&mut self, id: u64) -> Result<bool, String> {
        let host = self.hosts.get_mut(&id).ok_or("no such node")?;
        if !host.is_up() || host.to_apply.is_empty() {
            return Ok(false);
        }
        let entries = host.apply(usize::MAX);
        let list: Vec<_> = entries.iter().map(describe).collect();
        say!(self, "{id} applies {}", list.join(" "));
        self.pump(id)?;
        Ok(true)
    }

    /// Collects what a node wants done, and tells what has changed.
    fn pump(&mut self, id: u64) -> Outcome {
        let now = self.now();
        loop {
            let host = self.hosts.get_mut(&id).ok_or("no such node")?;
            let Some(raft) = host.raft.as_mut() else { return Ok(()) };
            let Some(mut ready) = raft.ready(now) else { return Ok(()) };
            host.take_work(&mut ready);
            if let Some(l) = ready.leadership {
                let of = match (l.role, l.leader) {
                    (Role::Follower, Some(leader)) => format!(" of {leader}"),
                    _ => String::new(),
                };
                say!(self, "{id} is {:?}{of} in term {}", l.role, l.term);
            }
            self.network.append(&mut ready.messages);
            for r in ready.reads {
                say!(self, "{id} answers read {} at {}", r.id.0, r.index);
            }
            for r in ready.reads_dropped {
                say!(self, "{id} drops read {}", r.0);
            }
            for to in ready.snapshots_wanted {
                say!(self, "{id} wants a snapshot for {to}");
                self.wanted.push((id, to));
            }
        }
    }

    /// `wait 100ms`: time passes, and nobody notices yet. `tick` is how they do.
    fn wait(&mut self, words: &[&str]) -> Outcome {
        let millis = words.first().and_then(|w| w.strip_suffix("ms")).ok_or("how many ms?")?;
        self.millis += parse::<u64>(millis)?;
        Ok(())
    }

    /// `run 3000ms`: time passes as it does, with messages delivered at once and nodes noticing their deadlines.
    fn run_for(&mut self, words: &[&str]) -> Outcome {
        let millis = words.first().and_then(|w| w.strip_suffix("ms")).ok_or("how many ms?")?;
        let end = self.millis + parse::<u64>(millis)?;
        while self.millis < end {
            self.deliver(&[], false)?;
            let able = |(id, h): (&u64, &Host)| match &h.raft {
                Some(r) if !self.paused.contains(id) => Some(r.deadline()),
                _ => None,
            };
            let next = self.hosts.iter().filter_map(able).min().unwrap_or(Time::FAR_FUTURE);
            let next = (next.as_nanos() / 1_000_000).max(self.millis + 1);
            self.millis = next.min(end);
            for id in self.hosts.keys().copied().collect::<Vec<_>>() {
                let now = self.now();
                if !self.paused.contains(&id)
                    && let Some(raft) = self.hosts.get_mut(&id).and_then(|h| h.raft.as_mut())
                {
                    raft.tick(now);
                    self.pump(id)?;
                }
            }
        }
        self.deliver(&[], false)
    }

    fn status(&mut self, words: &[&str]) -> Outcome {
        let which = if words.is_empty() { self.hosts.keys().copied().collect() } else { ids(words)? };
        for id in which {
            let host = self.hosts.get(&id).ok_or("no such node")?;
            let Some(raft) = &host.raft else {
                say!(self, "{id} is down");
                continue;
            };
            let s = raft.status();
            let vote = s.vote.map_or("nobody".to_string(), |v| v.to_string());
            let (last, commit, applied) = (s.last, s.commit, s.applied);
            let (role, term) = (s.role, s.term);
            say!(
                self,
                "{id} {role:?} term={term} vote={vote} last={last} commit={commit} applied={applied} {}",
                s.configuration
            );
        }
        Ok(())
    }

    fn peers(&mut self, words: &[&str]) -> Outcome {
        let status = self.raft(words.first().ok_or("which node?")?)?.status();
        for p in status.peers {
            let (id, matched, next, inflight) = (p.id, p.matched, p.next, p.inflight_appends);
            let voter = if p.is_voter { "" } else { " learner" };
            say!(self, "{id}{voter} {:?} matched={matched} next={next} inflight={inflight}", p.state);
        }
        Ok(())
    }

    /// The terms of every log, in a row; what is committed is in brackets.
    fn logs(&mut self) -> Outcome {
        for (id, host) in &self.hosts {
            let Some(raft) = &host.raft else { continue };
            let (base, last, commit) = (raft.log_base().index, raft.last().index, raft.commit());
            let mut row = String::new();
            let mut at = base.next();
            while at <= last {
                let term = raft.term_at(at).ok_or("a log with a hole")?;
                row += &if at <= commit { format!(" [{term}]") } else { format!("  {term} ") };
                at = at.next();
            }
            let after = if base.0 > 0 { format!(" after {base}:") } else { ":".into() };
            writeln!(self.out, "{id}{after}{}", row.trim_end()).expect("a string takes everything");
        }
        Ok(())
    }
}

impl Host {
    fn write_log(&mut self, entries: Vec<Entry>) {
        self.log = MemLog::new(self.state.last);
        self.log.append(entries);
    }
}

/// A word, or so many bytes: `4096*`.
fn payload(word: &str) -> Bytes {
    match word.strip_suffix('*').and_then(|n| n.parse().ok()) {
        Some(n) => Bytes::from(vec![b'x'; n]),
        None => Bytes::copy_from_slice(word.as_bytes()),
    }
}

/// `+4` a voter, `~4` a learner, `-4` nothing.
fn change(word: &str) -> Result<Change, String> {
    let (sign, id) = word.split_at_checked(1).ok_or("an empty change")?;
    let id = NodeId(parse(id)?);
    match sign {
        "+" => Ok(Change::AddVoter(id)),
        "~" => Ok(Change::AddLearner(id)),
        "-" => Ok(Change::Remove(id)),
        _ => Err(format!("not a change: {word}")),
    }
}

fn describe(e: &Entry) -> String {
    let what = match e.kind {
        EntryKind::Blank => "blank".into(),
        EntryKind::Config => Configuration::decode(&e.data).map_or("?".into(), |c| format!("{{{c}}}")),
        EntryKind::Normal if e.data.len() > 40 => format!("{} bytes", e.data.len()),
        EntryKind::Normal => String::from_utf8_lossy(&e.data).into_owned(),
    };
    format!("{}={what}", e.id())
}

/// The script as it runs now.
fn replay(text: &str) -> String {
    let mut script = Script::default();
    let mut told = String::new();
    let mut after_command = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix('>') {
            script.out.clear();
            let outcome = script.run(command.trim());
            told += &format!("{line}\n{}", script.out);
            if let Err(e) = outcome {
                told += &format!("error: {e}\n");
            }
            after_command = true;
        } else if line.is_empty() || line.starts_with('#') || !after_command {
            after_command = false;
            told += &format!("{line}\n");
        }
    }
    told
}

/// Runs one script.
fn golden(name: &str, text: &str) {
    let told = replay(text);
    if told == text {
        return;
    }
    if std::env::var_os("RAFT_SCRIPTS_REWRITE").is_some() {
        let path = format!("{}/src/testing/scripts/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, told).unwrap();
        return;
    }
    let (mut was, mut is) = (text.lines(), told.lines());
    let mut before = Vec::new();
    loop {
        let (a, b) = (was.next(), is.next());
        if a != b {
            let context = before[before.len().saturating_sub(12)..].join("\n");
            panic!("script {name} tells another story now:\n{context}\n- {}\n+ {}", a.unwrap_or(""), b.unwrap_or(""));
        }
        before.push(a.unwrap_or_default());
    }
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => { $(
        #[test]
        fn $name() {
            golden(stringify!($name), include_str!(concat!("scripts/", stringify!($name), ".txt")));
        }
    )* };
}

scripts!(
    election,
    split_vote,
    pre_vote,
    check_quorum,
    restart_grace,
    lost_connection,
    figure_7,
    figure_8,
    lossy_network,
    empty_follower,
    flow_control,
    late_writes,
    ahead_of_the_log,
    membership,
    joint_majorities,
    leader_removal,
    transfer,
    slow_disk,
    snapshot,
    reads,
    lease,
    limits,
    malformed,
);

#[test]
fn the_scripts_on_disk_are_the_scripts_that_run() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/testing/scripts");
    let listed = include_str!("scripts.rs");
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if let Some(name) = name.strip_suffix(".txt") {
            assert!(listed.contains(&format!("    {name},\n")), "{name} is not run");
        }
    }
}

#[test]
fn a_run_is_the_same_every_time() {
    let text = include_str!("scripts/election.txt");
    assert_eq!(replay(text), replay(text));
}
