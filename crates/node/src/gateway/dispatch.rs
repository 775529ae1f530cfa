//! From a request to its place among the replies: who answers it, and how MULTI and WATCH work.

use bytes::Bytes;
use dstore_raft::Time;
use dstore_resp::{CommandFlags, CommandId, CommandSpec, ProtocolVersion, Reply, answer_command, resolve};
use dstore_storage::Engine;

use super::session::{Expects, Multi, Part, SessionId, Slot, Unsent};
use super::{absent, calls, connection, monitor, server};
use crate::batch::{Command, Done, Item, Watched, Work, bytes_of};
use crate::{Node, NodeError, Now, Output, USER_RANGE};

/// Commands queued by one MULTI, or keys of theirs: nobody else is served while they run. Its bytes are bounded as well, by the
/// largest request a client may send.
const MULTI_COMMANDS_MAX: usize = 100_000;
/// What a walk over keys counts for among them.
const WALK_WEIGHT: usize = 1_000;

/// Keys that one command may change, for the same reason.
const CHANGED_KEYS_MAX: usize = 50_000;

/// How an HTTP request begins, line by line. A browser that a hostile page makes speak to us gets no further: the
/// connection closes before the commands in the body, as it does in Redis.
const HTTP_WORDS: [&[u8]; 2] = [b"POST", b"Host:"];

fn changes_too_many(spec: &CommandSpec, args: &[Bytes]) -> bool {
    args.len() > CHANGED_KEYS_MAX && spec.flags.has(CommandFlags::WRITE) && spec.keys(args).count() > CHANGED_KEYS_MAX
}

/// How many commands of a MULTI one counts for.
fn weight(spec: &CommandSpec, args: &[Bytes]) -> usize {
    match spec.id {
        CommandId::Keys | CommandId::KvRange => WALK_WEIGHT,
        _ => spec.keys(args).count().max(1),
    }
}

impl<E: Engine> Node<E> {
    /// Takes one request of a session. Its reply comes out of [`Node::poll_output`], always in the order of the session's
    /// requests: at once if this node can give it by itself, else after [`Node::end_turn`] and what follows from it.
    ///
    /// # Errors
    ///
    /// The engine failed: the node must stop.
    pub fn handle_request(&mut self, now: Now, id: SessionId, args: Vec<Bytes>) -> Result<(), NodeError> {
        let Some(session) = self.sessions.get_mut(id).filter(|session| !session.closing) else { return Ok(()) };
        session.active_us = now.wall_us;
        if session.holds() {
            session.hold(args);
            self.maybe_pause(id);
            return Ok(());
        }
        self.plan(now, id, args)
    }

    fn plan(&mut self, now: Now, id: SessionId, args: Vec<Bytes>) -> Result<(), NodeError> {
        if HTTP_WORDS.iter().any(|word| args[0].eq_ignore_ascii_case(word)) {
            self.hang_up(id);
            return Ok(());
        }
        let spec = match self.admit(id, &args) {
            Ok(spec) => spec,
            Err(refusal) => {
                self.answer(id, refusal);
                return Ok(());
            }
        };
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        if self.is_postponed(now, session, spec) {
            self.postpone(id, args);
            return Ok(());
        }
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        session.last_command = Some(spec);
        session.begin_request();
        let (queues, db) = (session.multi.is_some() && !controls(spec.id), session.db);
        self.stats.commands += 1;
        if queues {
            let reply = self.queue(id, spec, args);
            self.answer(id, reply);
            return Ok(());
        }
        // EXEC is shown behind its block, and RESET to those who are left.
        if spec.id != CommandId::Exec && spec.id != CommandId::Reset {
            self.show(now, id, spec, &args, db);
        }
        if dstore_kv::evaluates(spec.id) {
            let work = Work::One(Command { spec, args, db });
            self.submit(now.mono, id, work, None, Expects::Reply);
            return Ok(());
        }
        self.control(now, id, Command { spec, args, db })
    }

    /// Finds out which command a request is for, and whether it may be given now.
    fn admit(&mut self, id: SessionId, args: &[Bytes]) -> Result<&'static CommandSpec, Reply> {
        let Some(session) = self.sessions.get(id) else { return Err(Reply::Null) };
        let in_multi = session.multi.is_some();
        let resolved = resolve(args);
        // Elsewhere it is refused by the leader, with the whole block.
        let full = resolved.as_ref().ok().filter(|_| in_multi).and_then(|spec| self.refuses(USER_RANGE, spec));
        let Some(session) = self.sessions.get_mut(id) else { return Err(Reply::Null) };
        let unauthenticated = || Reply::error("NOAUTH Authentication required.");
        let resolved = resolved.map_err(|refusal| match absent::refusal(args) {
            Some(_) if !session.authenticated => unauthenticated(),
            Some(instead) => instead,
            None => refusal,
        });
        let refusal = match resolved {
            Ok(spec) if !session.authenticated && !connection::is_open_to_all(spec.id) => unauthenticated(),
            Ok(spec) if session.multi.is_some() && spec.flags.has(CommandFlags::NO_MULTI) => {
                Reply::error("ERR Command not allowed inside a transaction")
            }
            Ok(spec) if session.multi.is_some() && spec.id == CommandId::ClientReply => {
                // In Redis it takes replies out of EXEC's array, which no client can read then.
                Reply::error("ERR CLIENT REPLY is not allowed inside a transaction")
            }
            Ok(spec) if changes_too_many(spec, args) => Reply::error(format!(
                "ERR too many keys: one command may change {CHANGED_KEYS_MAX}; use several commands"
            )),
            Ok(spec) => match full {
                Some(oom) => Reply::error(oom),
                None => return Ok(spec),
            },
            Err(refusal) => refusal,
        };
        session.begin_request();
        if args[0].eq_ignore_ascii_case(b"EXEC") {
            // An EXEC that is malformed still ends the transaction; its error says so.
            session.end_transaction();
        } else if let Some(multi) = &mut session.multi {
            multi.aborted = true;
        }
        if let Some(spec) = CommandSpec::lookup(&args[0]) {
            self.gateway.calls.reject(spec.id);
        }
        Err(refusal)
    }

    /// A pause stops this session: the request waits before those that are behind it.
    fn postpone(&mut self, id: SessionId, args: Vec<Bytes>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.postponed = true;
        session.bytes += bytes_of(&args);
        session.held.push_front(args);
        self.gateway.postponed += 1;
        self.maybe_pause(id);
    }

    /// Carries out a command that is answered by this node, or that changes how the session is served.
    fn control(&mut self, now: Now, id: SessionId, command: Command) -> Result<(), NodeError> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        let spec = command.spec;
        let reply = match spec.id {
            CommandId::Exec => {
                self.exec(now, id)?;
                self.show(now, id, spec, &command.args, command.db);
                self.close_if_asked(id);
                return Ok(());
            }
            CommandId::Watch => {
                self.watch(now.mono, id, command.args);
                return Ok(());
            }
            CommandId::Quit => {
                self.answer(id, Reply::OK);
                self.hang_up(id);
                return Ok(());
            }
            CommandId::Wait => {
                let refusal = self.wait(now, id, &command.args);
                if refusal.is_none() {
                    return self.wake_one(now, id);
                }
                refusal
            }
            CommandId::Multi => Some(self.multi(id)),
            CommandId::Discard => Some(self.discard(id)),
            CommandId::Reset => {
                session.reset();
                session.authenticated = self.facts.password.is_none();
                self.show(now, id, spec, &command.args, command.db);
                Some(Reply::Simple("RESET"))
            }
            CommandId::ClientReply => self.client_reply(id, &command.args[2]),
            CommandId::Debug => self.debug(now, id, &command.args),
            CommandId::Shutdown => self.shutdown(&command.args),
            _ => Some(self.answer_here(now, id, &command)?),
        };
        let Some(reply) = reply else { return Ok(()) };
        self.note(now, id, spec, &command.args, (now.mono, calls::error_text(&reply).is_some()));
        self.answer(id, reply);
        self.close_if_asked(id);
        Ok(())
    }

    /// CLIENT KILL of one's own connection.
    fn close_if_asked(&mut self, id: SessionId) {
        if self.sessions.get(id).is_some_and(|session| session.closes_behind_reply && !session.closing) {
            self.hang_up(id);
        }
    }

    /// Notes that a command was answered that had come at a time, and whether with an error.
    fn note(&mut self, now: Now, id: SessionId, spec: &CommandSpec, args: &[Bytes], call: (Time, bool)) {
        let (arrived, failed) = call;
        let took = now.mono.since(arrived);
        let gateway = &mut self.gateway;
        let settings = &gateway.settings;
        gateway.calls.note(spec.id, settings.latency_tracking.then_some(took), failed);
        let seconds = now.wall_us / 1_000_000;
        gateway.latency.note(seconds, spec, took, settings.latency_threshold_ms);
        let slow = u128::try_from(settings.slow_log_slower_us).is_ok_and(|slower_us| took.as_micros() >= slower_us);
        if slow && let Some(session) = self.sessions.get(id) {
            let redacted = monitor::redacted(spec.id, args);
            let limits = (settings.slow_log_slower_us, settings.slow_log_len_max);
            gateway.slow_log.note(seconds, took, redacted.as_deref().unwrap_or(args), session, limits);
        }
    }

    /// Notes what came of a piece of work.
    pub(crate) fn note_done(&mut self, now: Now, id: SessionId, item: &Item, outcome: &Done) {
        match (&item.work, outcome) {
            (Work::One(command), Done::Reply(reply)) => {
                let failed = calls::error_text(reply).is_some();
                if !failed
                    && command.spec.flags.has(CommandFlags::READONLY)
                    && command.spec.keys(&command.args).count() == 1
                {
                    let misses = u64::from(calls::is_nothing(reply));
                    self.gateway.calls.misses += misses;
                    self.gateway.calls.hits += 1 - misses;
                }
                self.note(now, id, command.spec, &command.args, (item.arrived, failed));
            }
            (Work::Block { commands, .. }, outcome) => {
                if let Done::Block(Some(replies)) = outcome {
                    for (command, reply) in commands.iter().zip(replies) {
                        let error = calls::error_text(reply);
                        self.gateway.calls.note(command.spec.id, None, error.is_some());
                        if let Some(text) = error {
                            self.stats.errors += 1;
                            self.gateway.calls.note_error(&text);
                        }
                    }
                }
                let exec = [Bytes::from_static(b"EXEC")];
                let failed = matches!(outcome, Done::Reply(_));
                self.note(now, id, CommandSpec::of(CommandId::Exec), &exec, (item.arrived, failed));
            }
            (Work::Watch { keys, .. }, outcome) => {
                let spec = CommandSpec::of(CommandId::Watch);
                self.note(now, id, spec, keys, (item.arrived, matches!(outcome, Done::Reply(_))));
            }
            (Work::One(_), _) => {}
        }
    }

    /// Answers what could not even be read as a request, in its turn, and then closes.
    pub fn refuse(&mut self, id: SessionId, reply: Reply) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.begin_request();
        }
        self.answer(id, reply);
        self.hang_up(id);
    }

    /// Closes every session behind its last reply, taking no further request: this node is about to stop.
    pub fn hang_up_all(&mut self) {
        let all: Vec<SessionId> = self.sessions.iter().map(|session| session.id).collect();
        all.into_iter().for_each(|id| self.hang_up(id));
    }

    /// Closes the session behind its last reply, taking no further request.
    pub fn hang_up(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.closing = true;
        if session.is_done() {
            self.outputs.push_back(Output::Close { session: id });
        }
    }

    /// Gives a reply its place among the session's replies, and sends it if none is owed before.
    pub(crate) fn answer(&mut self, id: SessionId, reply: Reply) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (version, muted) = (session.resp, session.muted);
        if session.slots.is_empty() || muted {
            self.send_reply(id, reply, version, muted);
            return;
        }
        session.bytes += reply.bytes_len();
        session.slots.push_back(Slot::Ready { reply, version });
        self.maybe_pause(id);
    }

    fn send_reply(&mut self, session: SessionId, reply: Reply, version: ProtocolVersion, muted: bool) {
        if let Some(text) = calls::error_text(&reply) {
            self.stats.errors += 1;
            self.gateway.calls.note_error(&text);
        }
        if muted {
            return;
        }
        if let Some(sender) = self.sessions.get_mut(session) {
            if sender.burst_turn != self.turn {
                (sender.burst_turn, sender.burst_bytes) = (self.turn, 0);
            }
            sender.burst_bytes += reply.bytes_len();
        }
        self.outputs.push_back(Output::Reply { session, reply, version });
    }

    /// Gives work to the range, and its reply a place.
    fn submit(&mut self, now: Time, id: SessionId, work: Work, transaction: Option<u64>, expects: Expects) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (version, muted) = (session.resp, session.muted);
        let bytes = work.bytes();
        session.bytes += bytes;
        self.waiting_bytes += bytes;
        session.slots.push_back(Slot::Pending { expects, version, muted });
        session.unsent.push_back(Unsent { item: Item { work, version, arrived: now }, transaction });
        self.enqueue(id);
        self.maybe_pause(id);
    }

    fn maybe_pause(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.waits_too_much() && !session.paused {
            session.paused = true;
            self.outputs.push_back(Output::Pause { session: id });
        }
    }

    fn multi(&mut self, id: SessionId) -> Reply {
        let Some(session) = self.sessions.get_mut(id) else { return Reply::Null };
        if session.multi.is_some() {
            return Reply::error("ERR MULTI calls can not be nested");
        }
        session.multi = Some(Multi::default());
        Reply::OK
    }

    fn queue(&mut self, id: SessionId, spec: &'static CommandSpec, args: Vec<Bytes>) -> Reply {
        let bytes_max = self.limits.multi_bytes_max;
        let Some(multi) = self.sessions.get_mut(id).and_then(|session| session.multi.as_mut()) else {
            return Reply::Null;
        };
        let bytes = bytes_of(&args);
        let weight = weight(spec, &args);
        if multi.weight + weight > MULTI_COMMANDS_MAX || multi.bytes + bytes > bytes_max {
            multi.aborted = true;
            return Reply::error(format!(
                "ERR the transaction is too large: it may hold {MULTI_COMMANDS_MAX} commands, or keys of commands, and \
                 {bytes_max} bytes"
            ));
        }
        if !multi.aborted {
            multi.bytes += bytes;
            multi.weight += weight;
            multi.commands.push((spec, args));
        }
        Reply::Simple("QUEUED")
    }

    fn discard(&mut self, id: SessionId) -> Reply {
        let Some(session) = self.sessions.get_mut(id) else { return Reply::Null };
        if session.multi.is_none() {
            return Reply::error("ERR DISCARD without MULTI");
        }
        session.end_transaction();
        Reply::OK
    }

    /// WATCH key [key ...]: the range tells the versions as they are behind everything that is logged. If one of those
    /// entries is lost, EXEC finds another version, and does nothing.
    fn watch(&mut self, now: Time, id: SessionId, mut args: Vec<Bytes>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.multi.is_some() {
            return self.answer(id, Reply::error("ERR WATCH inside MULTI is not allowed"));
        }
        let keys = args.split_off(1);
        let (db, transaction) = (session.db, session.transaction);
        session.watches_pending += 1;
        let expects = Expects::Versions { transaction, db, keys: keys.clone() };
        self.submit(now, id, Work::Watch { db, keys }, None, expects);
    }

    /// EXEC: what concerns data goes to the range as one; the rest is answered here, once that has succeeded.
    fn exec(&mut self, now: Now, id: SessionId) -> Result<(), NodeError> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        let Some(multi) = session.multi.take() else {
            self.answer(id, Reply::error("ERR EXEC without MULTI"));
            return Ok(());
        };
        if multi.aborted {
            session.unwatch();
            self.answer(id, Reply::error("EXECABORT Transaction discarded because of previous errors."));
            return Ok(());
        }
        self.stats.commands += multi.commands.len() as u64;
        let (watches, transaction) = (session.watches(), session.transaction);
        session.transaction += 1;
        let first_db = session.db;
        let (mut commands, mut parts) = (Vec::new(), Vec::with_capacity(multi.commands.len()));
        let mut db = first_db;
        for (spec, args) in multi.commands {
            self.show(now, id, spec, &args, db);
            if dstore_kv::evaluates(spec.id) {
                commands.push(Command { spec, args, db });
                parts.push(Part::Range);
                continue;
            }
            if spec.id == CommandId::Select
                && let Ok(selected) = connection::database(&args[1])
            {
                db = selected;
            }
            parts.push(Part::Here(Command { spec, args, db }));
        }
        if commands.is_empty() && !watches {
            let reply = self.combine(now, id, parts, Vec::new())?;
            self.answer(id, reply);
            return Ok(());
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.barrier = parts.len() > commands.len();
        }
        let work = Work::Block { watched: Vec::new(), commands };
        self.submit(now.mono, id, work, Some(transaction), Expects::Exec(parts));
        Ok(())
    }

    /// The replies of a transaction, those of the range in their places.
    fn combine(&mut self, now: Now, id: SessionId, parts: Vec<Part>, replies: Vec<Reply>) -> Result<Reply, NodeError> {
        if parts.iter().all(|part| matches!(part, Part::Range)) {
            return Ok(Reply::Array(replies));
        }
        let mut of_range = replies.into_iter();
        let mut all = Vec::with_capacity(parts.len());
        for part in parts {
            all.push(match part {
                Part::Range => of_range.next().unwrap_or(Reply::Null),
                Part::Here(command) => self.answer_here(now, id, &command)?,
            });
        }
        Ok(Reply::Array(all))
    }

    /// The outcomes of a session's batch are there, or of the first part of it: its replies leave, and those behind them
    /// that waited.
    pub(crate) fn complete(&mut self, now: Now, id: SessionId, first: u64, done: Vec<Done>) -> Result<(), NodeError> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        let Some(outstanding) = session.outstanding.take_if(|outstanding| outstanding.batch.first == first) else {
            return Ok(());
        };
        assert!((1..=outstanding.batch.items.len()).contains(&done.len()), "{} outcomes", done.len());
        self.waiting_bytes -= session.finish_batch(&outstanding, done.len());
        for (item, outcome) in outstanding.batch.items.iter().zip(done) {
            self.note_done(now, id, item, &outcome);
            self.fulfil(now, id, outcome)?;
        }
        self.after_outcomes(now, id)
    }

    /// Sends what is ready now, takes the requests that waited, and looks for the next batch.
    pub(crate) fn after_outcomes(&mut self, now: Now, id: SessionId) -> Result<(), NodeError> {
        self.flush_ready(id);
        while let Some(session) = self.sessions.get_mut(id)
            && !session.holds()
            && let Some(args) = session.held.pop_front()
        {
            session.bytes -= bytes_of(&args);
            self.plan(now, id, args)?;
        }
        self.enqueue(id);
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        if session.paused && session.waits_little() {
            session.paused = false;
            self.outputs.push_back(Output::Resume { session: id });
        }
        session.closing |= session.closes_behind_reply;
        if session.closing && session.is_done() {
            self.outputs.push_back(Output::Close { session: id });
        }
        Ok(())
    }

    fn flush_ready(&mut self, id: SessionId) {
        while let Some(session) = self.sessions.get_mut(id)
            && let Some(Slot::Ready { reply, version }) =
                session.slots.pop_front_if(|slot| matches!(slot, Slot::Ready { .. }))
        {
            session.bytes -= reply.bytes_len();
            self.send_reply(id, reply, version, false);
        }
    }

    /// Makes the reply of the first pending slot.
    pub(crate) fn fulfil(&mut self, now: Now, id: SessionId, outcome: Done) -> Result<(), NodeError> {
        self.flush_ready(id);
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        let Some(Slot::Pending { expects, version, muted }) = session.slots.pop_front() else {
            panic!("an outcome came that no reply waits for");
        };
        let reply = match (expects, outcome) {
            (Expects::Versions { transaction, db, keys }, outcome) => {
                session.watches_pending -= 1;
                match outcome {
                    Done::Versions(versions) => {
                        if session.awaits_watched(transaction) {
                            let watched = keys.into_iter().zip(versions);
                            let watched = watched.map(|(key, version)| (transaction, Watched { db, key, version }));
                            session.watched.extend(watched);
                        }
                        Reply::OK
                    }
                    Done::Reply(error) => error,
                    Done::Block(_) => Reply::error("ERR the node that leads answered something else"),
                }
            }
            (Expects::Exec(parts), outcome) => {
                // An earlier block, which changes nothing here, must not lift the barrier of a later one.
                session.barrier &= parts.iter().all(|part| matches!(part, Part::Range));
                match outcome {
                    Done::Block(Some(replies)) => self.combine(now, id, parts, replies)?,
                    Done::Block(None) => Reply::NullArray,
                    Done::Reply(error) => error,
                    Done::Versions(_) => Reply::error("ERR the node that leads answered something else"),
                }
            }
            (Expects::Reply, Done::Reply(reply)) => reply,
            (Expects::Reply, _) => Reply::error("ERR the node that leads answered something else"),
        };
        self.send_reply(id, reply, version, muted);
        Ok(())
    }

    /// A command that needs no data, alone or inside EXEC.
    fn answer_here(&mut self, now: Now, id: SessionId, command: &Command) -> Result<Reply, NodeError> {
        let (spec, args) = (command.spec, &command.args[..]);
        let Some(session) = self.sessions.get_mut(id) else { return Ok(Reply::Null) };
        let container = spec.parent.unwrap_or(spec.id);
        Ok(match container {
            CommandId::Ping => connection::ping(args),
            CommandId::Echo => Reply::Bulk(args[1].clone()),
            CommandId::Select => connection::select(session, args),
            CommandId::Auth => connection::auth(session, args, self.facts.password.as_deref()),
            CommandId::Hello => connection::hello(session, args, self.facts.password.as_deref()),
            CommandId::Unwatch => {
                session.unwatch();
                Reply::OK
            }
            CommandId::Client => self.client(now, id, spec.id, args),
            CommandId::Config => self.config(spec.id, args),
            CommandId::SlowLog => self.gateway.slow_log.answer(spec.id, args),
            CommandId::Latency => {
                let gateway = &mut self.gateway;
                let threshold_ms = gateway.settings.latency_threshold_ms;
                gateway.latency.answer(spec.id, args, &gateway.calls, threshold_ms)
            }
            CommandId::Memory => self.memory(spec.id)?,
            CommandId::Acl => server::acl(spec.id),
            CommandId::Monitor => self.monitor(id),
            CommandId::Info => self.info(now, args)?,
            CommandId::Time => server::time(now),
            CommandId::Lolwut => server::lolwut(args, self.facts.version),
            CommandId::Wait => self.wait_in_block(args),
            CommandId::Debug => Reply::error("ERR DEBUG is not supported inside a transaction"),
            _ => answer_command(spec.id, args)
                .unwrap_or_else(|| Reply::error(format!("ERR {} is not supported", spec.full_name))),
        })
    }
}

/// Commands that a MULTI does not queue.
fn controls(id: CommandId) -> bool {
    matches!(
        id,
        CommandId::Multi | CommandId::Exec | CommandId::Discard | CommandId::Watch | CommandId::Quit | CommandId::Reset
    )
}
