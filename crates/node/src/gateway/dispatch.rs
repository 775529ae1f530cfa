//! From a request to its reply: who answers it, when the reply may leave, and how MULTI and WATCH work.

use bytes::Bytes;
use dstore_resp::{CommandFlags, CommandId, CommandSpec, Reply, answer_command, help, resolve};
use dstore_storage::{Engine, LogIndex};

use super::connection;
use super::server;
use super::session::{Multi, SessionId, Waiting, Watched};
use crate::replica::{Call, Order};
use crate::{Node, NodeError, Now, Output};

/// Commands queued by one MULTI. Its bytes are bounded as well, by the largest request a client may send.
const MULTI_COMMANDS_MAX: usize = 100_000;

/// How an HTTP request begins, line by line. A browser that a hostile page makes speak to us gets no further: the
/// connection closes before the commands in the body, as it does in Redis.
const HTTP_WORDS: [&[u8]; 2] = [b"POST", b"Host:"];

/// Effects that gather in one entry before it is sealed although the turn goes on; and arguments beyond which a command
/// gets an entry of its own. So that only what is alone in its entry can grow beyond what the log takes, and a flood of
/// writes does not become one huge write to disk.
const SHARED_BYTES_MAX: usize = 1 << 20;

/// What came of running commands as one.
enum Tried {
    Done(Reply),
    /// They must run again in [`Order::Logged`].
    NeedsTime,
    /// They came to more than one entry, or one reply, may hold; what they did so far must be undone.
    TooLarge(&'static str),
}

const TOO_LARGE_ENTRY: Tried = Tried::TooLarge("the changes are too large for one log entry");

/// A command that was found in the table, with its arguments.
type Command = (&'static CommandSpec, Vec<Bytes>);

impl<E: Engine> Node<E> {
    /// Takes one request of a session. Its reply comes out of [`Node::poll_output`]: now, or once the entry it depends
    /// on is applied; always in the order of the session's requests.
    ///
    /// # Errors
    ///
    /// The engine failed: the node must stop.
    pub fn handle_request(&mut self, now: Now, id: SessionId, args: Vec<Bytes>) -> Result<(), NodeError> {
        let Some(session) = self.sessions.get_mut(id).filter(|session| !session.closing) else { return Ok(()) };
        session.active_us = now.wall_us;
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
                self.answer(id, refusal, None);
                return Ok(());
            }
        };
        session.last_command = Some(spec);
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
        let (reply, awaits) = match spec.id {
            _ if session.multi.is_some() && !controls => (self.queue(id, (spec, args)), None),
            CommandId::Multi => (self.multi(id), None),
            CommandId::Exec => self.exec(now, id)?,
            CommandId::Discard => (self.discard(id), None),
            CommandId::Watch => self.watch(now, id, &args[1..])?,
            CommandId::Quit => {
                self.answer(id, Reply::OK, None);
                self.hang_up(id);
                return Ok(());
            }
            CommandId::Reset => {
                session.reset();
                (Reply::Simple("RESET"), None)
            }
            _ => self.execute(now, id, &[(spec, args)], None)?,
        };
        self.answer(id, reply, awaits);
        Ok(())
    }

    /// Answers what could not even be read as a request, in its turn, and then closes.
    pub fn refuse(&mut self, id: SessionId, reply: Reply) {
        self.answer(id, reply, None);
        self.hang_up(id);
    }

    /// Closes the session behind its last reply, taking no further request.
    pub fn hang_up(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.closing = true;
        if session.waiting.is_empty() {
            self.outputs.push_back(Output::Close { session: id });
        }
    }

    /// Gives a reply its place among the session's replies, and sends it if nothing has to happen first.
    pub(crate) fn answer(&mut self, id: SessionId, reply: Reply, awaits: Option<LogIndex>) {
        if matches!(reply, Reply::Error(_)) {
            self.stats.errors += 1;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let version = session.resp;
        let behind = session.waiting.back().map(|waiting| waiting.index);
        let Some(index) = awaits.max(behind) else {
            self.outputs.push_back(Output::Reply { session: id, reply, version });
            return;
        };
        let bytes = reply.bytes_len();
        session.push_waiting(Waiting { index, reply, bytes, version });
        if behind != Some(index) {
            self.waiters.push_back((index, id));
        }
        if session.waits_too_much() && !session.paused {
            session.paused = true;
            self.outputs.push_back(Output::Pause { session: id });
        }
    }

    /// Sends what waited for entries up to `applied`.
    pub(crate) fn release(&mut self, applied: LogIndex) {
        while let Some((_, id)) = self.waiters.pop_front_if(|(index, _)| *index <= applied) {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            while let Some(Waiting { reply, version, .. }) = session.pop_waiting(applied) {
                self.outputs.push_back(Output::Reply { session: id, reply, version });
            }
            if session.paused && session.waits_little() {
                session.paused = false;
                self.outputs.push_back(Output::Resume { session: id });
            }
            if session.closing && session.waiting.is_empty() {
                self.outputs.push_back(Output::Close { session: id });
            }
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

    fn queue(&mut self, id: SessionId, command: Command) -> Reply {
        let bytes_max = self.limits.multi_bytes_max;
        let Some(multi) = self.sessions.get_mut(id).and_then(|session| session.multi.as_mut()) else {
            return Reply::Null;
        };
        let bytes = bytes_of(&command.1);
        if multi.commands.len() >= MULTI_COMMANDS_MAX || multi.bytes + bytes > bytes_max {
            multi.aborted = true;
            return Reply::error(format!(
                "ERR the transaction is too large: it may hold {MULTI_COMMANDS_MAX} commands and {bytes_max} bytes"
            ));
        }
        if !multi.aborted {
            multi.bytes += bytes;
            multi.commands.push(command);
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

    fn exec(&mut self, now: Now, id: SessionId) -> Result<(Reply, Option<LogIndex>), NodeError> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok((Reply::Null, None)) };
        let Some(multi) = session.multi.take() else { return Ok((Reply::error("ERR EXEC without MULTI"), None)) };
        let watched = std::mem::take(&mut session.watched);
        if multi.aborted {
            return Ok((Reply::error("EXECABORT Transaction discarded because of previous errors."), None));
        }
        self.execute(now, id, &multi.commands, Some(&watched))
    }

    /// Remembers the versions of `keys` as they are behind everything that is logged: if one of those entries is lost,
    /// EXEC finds another version, and does nothing.
    fn watch(&mut self, now: Now, id: SessionId, keys: &[Bytes]) -> Result<(Reply, Option<LogIndex>), NodeError> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok((Reply::Null, None)) };
        if session.multi.is_some() {
            return Ok((Reply::error("ERR WATCH inside MULTI is not allowed"), None));
        }
        let db = session.db;
        for key in keys {
            let version = self.replica.version(now, db, key, &self.engine)?;
            if !session.watched.iter().any(|watched| watched.db == db && watched.key == key) {
                session.watched.push(Watched { db, key: key.clone(), version });
            }
        }
        Ok((Reply::OK, self.replica.dependency(Order::Logged)))
    }

    /// Whether every watched key still has the version it had.
    fn unchanged(&mut self, now: Now, watched: &[Watched]) -> Result<bool, NodeError> {
        for Watched { db, key, version } in watched {
            let current = self.replica.version(now, *db, key, &self.engine)?;
            if current != *version {
                if current == 0 {
                    // It may have gone by expiring, and must not be found there later.
                    self.replica.keep_time(now);
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs commands as one: at one stamp, in one entry, over one state. With `watched` they are a transaction, which
    /// does nothing if a watched key has changed.
    fn execute(
        &mut self,
        now: Now,
        id: SessionId,
        commands: &[Command],
        watched: Option<&[Watched]>,
    ) -> Result<(Reply, Option<LogIndex>), NodeError> {
        let Some(session) = self.sessions.get(id) else { return Ok((Reply::Null, None)) };
        let (db, waits) = (session.db, !session.waiting.is_empty());
        let writes = commands.iter().any(|(spec, _)| spec.flags.has(CommandFlags::WRITE));
        let is_alone = watched.is_some() || bytes_of(&commands[0].1) > SHARED_BYTES_MAX;
        // Who waits for nothing may read what is applied. Everything else comes behind what is logged.
        let logged = writes || waits || watched.is_some_and(|watched| !watched.is_empty());
        let mut order = if logged { Order::Logged } else { Order::Applied };
        loop {
            if order == Order::Logged && (is_alone || self.replica.open_bytes() > SHARED_BYTES_MAX) {
                self.end_turn();
            }
            match self.try_execute(now, id, order, commands, watched)? {
                Tried::Done(reply) => return Ok((reply, self.replica.dependency(order))),
                Tried::TooLarge(what) => {
                    if order == Order::Logged {
                        assert!(is_alone, "{} bytes of effects in a shared entry", self.replica.open_bytes());
                        self.replica.abandon();
                    }
                    return Ok((Reply::error(format!("ERR {what}; nothing was done")), None));
                }
                // A key's deadline has passed by the clock alone. The log gets the time, and the commands run in it.
                Tried::NeedsTime => order = Order::Logged,
            }
            if let Some(session) = self.sessions.get_mut(id) {
                session.db = db;
            }
        }
    }

    fn try_execute(
        &mut self,
        now: Now,
        id: SessionId,
        order: Order,
        commands: &[Command],
        watched: Option<&[Watched]>,
    ) -> Result<Tried, NodeError> {
        let Some(watched) = watched else {
            let reply = self.run(now, id, order, &commands[0])?;
            return Ok(if self.entry_overflows() {
                TOO_LARGE_ENTRY
            } else {
                reply.map_or(Tried::NeedsTime, Tried::Done)
            });
        };
        if !self.unchanged(now, watched)? {
            return Ok(Tried::Done(Reply::NullArray));
        }
        let mut replies = Vec::with_capacity(commands.len());
        let mut reply_bytes = 0;
        for command in commands {
            let Some(reply) = self.run(now, id, order, command)? else { return Ok(Tried::NeedsTime) };
            reply_bytes += reply.bytes_len();
            replies.push(reply);
            if self.entry_overflows() {
                return Ok(TOO_LARGE_ENTRY);
            }
            if reply_bytes > self.limits.commands.reply_bytes_max {
                return Ok(Tried::TooLarge("the replies of the transaction are too large together"));
            }
        }
        self.stats.commands += commands.len() as u64;
        Ok(Tried::Done(Reply::Array(replies)))
    }

    fn entry_overflows(&self) -> bool {
        self.replica.open_bytes() > self.limits.entry_bytes_max
    }

    /// One command, alone or inside EXEC.
    fn run(&mut self, now: Now, id: SessionId, order: Order, command: &Command) -> Result<Option<Reply>, NodeError> {
        let (spec, args) = (command.0, &command.1[..]);
        let Some(session) = self.sessions.get_mut(id) else { return Ok(Some(Reply::Null)) };
        Ok(Some(match spec.id {
            CommandId::Ping => connection::ping(args),
            CommandId::Echo => Reply::Bulk(args[1].clone()),
            CommandId::Select => connection::select(session, args),
            CommandId::Auth => connection::auth(args),
            CommandId::Hello => connection::hello(session, args),
            CommandId::Unwatch => {
                session.watched.clear();
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
            _ => match answer_command(spec.id, args) {
                Some(reply) => reply,
                None => {
                    let db = session.db;
                    return self.evaluate(now, order, Call { db, spec, args });
                }
            },
        }))
    }
}

fn bytes_of(args: &[Bytes]) -> usize {
    args.iter().map(Bytes::len).sum()
}
