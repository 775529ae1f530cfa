//! From a request to its place among the replies: who answers it, and how MULTI and WATCH work.

use bytes::Bytes;
use dstore_raft::Time;
use dstore_resp::{CommandId, CommandSpec, ProtocolVersion, Reply, answer_command, help, resolve};
use dstore_storage::Engine;

use super::connection;
use super::server;
use super::session::{Expects, Multi, Part, SessionId, Slot, Unsent};
use crate::batch::{Command, Done, Item, Watched, Work, bytes_of};
use crate::{Node, NodeError, Now, Output};

/// Commands queued by one MULTI. Its bytes are bounded as well, by the largest request a client may send.
const MULTI_COMMANDS_MAX: usize = 100_000;

/// How an HTTP request begins, line by line. A browser that a hostile page makes speak to us gets no further: the
/// connection closes before the commands in the body, as it does in Redis.
const HTTP_WORDS: [&[u8]; 2] = [b"POST", b"Host:"];

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
        if session.barrier {
            session.hold(args);
            self.maybe_pause(id);
            return Ok(());
        }
        self.plan(now, id, args)
    }

    fn plan(&mut self, now: Now, id: SessionId, args: Vec<Bytes>) -> Result<(), NodeError> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        if HTTP_WORDS.iter().any(|word| args[0].eq_ignore_ascii_case(word)) {
            self.hang_up(id);
            return Ok(());
        }
        let spec = match resolve(&args) {
            Ok(spec) => spec,
            Err(refusal) => {
                if args[0].eq_ignore_ascii_case(b"EXEC") {
                    // An EXEC that is malformed still ends the transaction; its error says so.
                    session.end_transaction();
                } else if let Some(multi) = &mut session.multi {
                    multi.aborted = true;
                }
                self.answer(id, refusal);
                return Ok(());
            }
        };
        session.last_command = Some(spec);
        if !session.authenticated && !connection::is_open_to_all(spec.id) {
            self.answer(id, Reply::error("NOAUTH Authentication required."));
            return Ok(());
        }
        self.stats.commands += 1;
        let controls = matches!(
            spec.id,
            CommandId::Multi
                | CommandId::Exec
                | CommandId::Discard
                | CommandId::Watch
                | CommandId::Quit
                | CommandId::Reset
        );
        let reply = match spec.id {
            _ if session.multi.is_some() && !controls => self.queue(id, spec, args),
            CommandId::Multi => self.multi(id),
            CommandId::Exec => return self.exec(now, id),
            CommandId::Discard => self.discard(id),
            CommandId::Watch => {
                self.watch(now.mono, id, args);
                return Ok(());
            }
            CommandId::Quit => {
                self.answer(id, Reply::OK);
                self.hang_up(id);
                return Ok(());
            }
            CommandId::Reset => {
                session.reset();
                session.authenticated = self.facts.password.is_none();
                Reply::Simple("RESET")
            }
            _ if dstore_kv::evaluates(spec.id) => {
                let work = Work::One(Command { spec, args, db: session.db });
                self.submit(now.mono, id, work, None, Expects::Reply);
                return Ok(());
            }
            _ => {
                let command = Command { spec, args, db: session.db };
                self.answer_here(now, id, &command)?
            }
        };
        self.answer(id, reply);
        Ok(())
    }

    /// Answers what could not even be read as a request, in its turn, and then closes.
    pub fn refuse(&mut self, id: SessionId, reply: Reply) {
        self.answer(id, reply);
        self.hang_up(id);
    }

    /// Closes the session behind its last reply, taking no further request.
    pub fn hang_up(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.closing = true;
        if session.slots.is_empty() && session.held.is_empty() {
            self.outputs.push_back(Output::Close { session: id });
        }
    }

    /// Gives a reply its place among the session's replies, and sends it if none is owed before.
    pub(crate) fn answer(&mut self, id: SessionId, reply: Reply) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let version = session.resp;
        if session.slots.is_empty() {
            self.send_reply(id, reply, version);
            return;
        }
        session.bytes += reply.bytes_len();
        session.slots.push_back(Slot::Ready { reply, version });
        self.maybe_pause(id);
    }

    pub(crate) fn send_reply(&mut self, session: SessionId, reply: Reply, version: ProtocolVersion) {
        let is_error = match &reply {
            Reply::Error(_) => true,
            Reply::Encoded(bytes) => bytes.first() == Some(&b'-'),
            _ => false,
        };
        self.stats.errors += u64::from(is_error);
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
        let version = session.resp;
        let bytes = work.bytes();
        session.bytes += bytes;
        self.waiting_bytes += bytes;
        session.slots.push_back(Slot::Pending { expects, version });
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
        if multi.commands.len() >= MULTI_COMMANDS_MAX || multi.bytes + bytes > bytes_max {
            multi.aborted = true;
            return Reply::error(format!(
                "ERR the transaction is too large: it may hold {MULTI_COMMANDS_MAX} commands and {bytes_max} bytes"
            ));
        }
        if !multi.aborted {
            multi.bytes += bytes;
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
        let (mut commands, mut parts) = (Vec::new(), Vec::with_capacity(multi.commands.len()));
        let mut db = session.db;
        for (spec, args) in multi.commands {
            if dstore_kv::evaluates(spec.id) {
                commands.push(Command { spec, args, db });
                parts.push(Part::Range);
                continue;
            }
            if let (CommandId::Select, Ok(selected)) = (spec.id, connection::database(&args[1])) {
                db = selected;
            }
            parts.push(Part::Here(Command { spec, args, db }));
        }
        if commands.is_empty() && !watches {
            let reply = self.combine(now, id, parts, Vec::new())?;
            self.answer(id, reply);
            return Ok(());
        }
        session.barrier = parts.len() > commands.len();
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
        for outcome in done {
            self.fulfil(now, id, outcome)?;
        }
        self.after_outcomes(now, id)
    }

    /// Sends what is ready now, takes the requests that waited, and looks for the next batch.
    pub(crate) fn after_outcomes(&mut self, now: Now, id: SessionId) -> Result<(), NodeError> {
        self.flush_ready(id);
        while let Some(session) = self.sessions.get_mut(id)
            && !session.barrier
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
        if session.closing && session.slots.is_empty() && session.held.is_empty() {
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
            self.send_reply(id, reply, version);
        }
    }

    /// Makes the reply of the first pending slot.
    pub(crate) fn fulfil(&mut self, now: Now, id: SessionId, outcome: Done) -> Result<(), NodeError> {
        self.flush_ready(id);
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        let Some(Slot::Pending { expects, version }) = session.slots.pop_front() else {
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
                session.barrier = false;
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
        self.send_reply(id, reply, version);
        Ok(())
    }

    /// A command that needs no data, alone or inside EXEC.
    fn answer_here(&mut self, now: Now, id: SessionId, command: &Command) -> Result<Reply, NodeError> {
        let (spec, args) = (command.spec, &command.args[..]);
        let Some(session) = self.sessions.get_mut(id) else { return Ok(Reply::Null) };
        Ok(match spec.id {
            CommandId::Ping => connection::ping(args),
            CommandId::Echo => Reply::Bulk(args[1].clone()),
            CommandId::Select => connection::select(session, args),
            CommandId::Auth => connection::auth(session, args, self.facts.password.as_deref()),
            CommandId::Hello => connection::hello(session, args, self.facts.password.as_deref()),
            CommandId::Unwatch => {
                session.unwatch();
                Reply::OK
            }
            CommandId::ClientId => Reply::Integer(id.client().cast_signed()),
            CommandId::ClientGetName => connection::client_getname(session),
            CommandId::ClientSetName => connection::client_setname(session, args),
            CommandId::ClientSetInfo => connection::client_setinfo(session, args),
            CommandId::ClientInfo => connection::client_info(session, now),
            CommandId::ClientList => connection::client_list(&self.sessions, args, now),
            CommandId::ClientHelp => help(CommandId::Client),
            CommandId::ConfigGet => server::config_get(args, &self.facts),
            CommandId::ConfigHelp => help(CommandId::Config),
            CommandId::Info => self.info(now, args)?,
            CommandId::Time => server::time(now),
            _ => answer_command(spec.id, args)
                .unwrap_or_else(|| Reply::error(format!("ERR {} is not supported", spec.full_name))),
        })
    }
}
