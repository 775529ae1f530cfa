//! CLIENT: the connections of this node, as operators and client libraries see and command them.

use bytes::Bytes;
use dstore_resp::{CommandId, ProtocolVersion, Reply, help};
use dstore_storage::Engine;

use super::connection::{check_name, integer};
use super::rest::Rest;
use super::session::{Replies, Session, SessionId};
use crate::{Node, Now, Output};

const SYNTAX: &str = "ERR syntax error";

/// Which connections CLIENT LIST shows, or CLIENT KILL closes. What is not given does not restrict.
#[derive(Debug, Default)]
struct Filter {
    ids: Option<Vec<i64>>,
    address: Option<Bytes>,
    local: Option<Bytes>,
    /// Only connections of a kind that there is not.
    nobody: bool,
}

impl Filter {
    fn keeps(&self, session: &Session) -> bool {
        let is = |wanted: &Option<Bytes>, address: &str| wanted.as_ref().is_none_or(|text| text == address.as_bytes());
        !self.nobody
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&session.id.client.cast_signed()))
            && is(&self.address, &session.address.remote)
            && is(&self.local, &session.address.local)
    }

    /// TYPE: all clients are normal ones.
    fn set_type(&mut self, kind: &[u8]) -> Result<(), Reply> {
        match kind.to_ascii_lowercase().as_slice() {
            b"normal" => {}
            b"master" | b"replica" | b"slave" | b"pubsub" => self.nobody = true,
            _ => return Err(Reply::error(format!("ERR Unknown client type '{}'", one_line(kind)))),
        }
        Ok(())
    }
}

fn one_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(['\r', '\n'], " ")
}

impl<E: Engine> Node<E> {
    /// CLIENT, with any subcommand but those that change when a connection is served.
    pub(crate) fn client(&mut self, now: Now, id: SessionId, command: CommandId, args: &[Bytes]) -> Reply {
        let Some(session) = self.sessions.get_mut(id) else { return Reply::Null };
        let result = match command {
            CommandId::ClientId => Ok(Reply::Integer(id.client().cast_signed())),
            CommandId::ClientGetName if session.name.is_empty() => Ok(Reply::Null),
            CommandId::ClientGetName => Ok(Reply::Bulk(session.name.clone())),
            CommandId::ClientSetName => set_name(session, &args[2]),
            CommandId::ClientSetInfo => set_info(session, args),
            CommandId::ClientInfo => Ok(Reply::Verbatim("txt", Bytes::from(describe(session, now)))),
            CommandId::ClientList => self.client_list(now, &args[2..]),
            CommandId::ClientKill => self.client_kill(id, &args[2..]),
            CommandId::ClientPause => self.client_pause(now, &args[2..]),
            CommandId::ClientUnblock => self.client_unblock(now, &args[2..]),
            CommandId::ClientNoEvict => on_off(&args[2]).map(|on| {
                session.no_evict = on;
                Reply::OK
            }),
            CommandId::ClientGetRedir => Ok(Reply::Integer(-1)),
            CommandId::ClientTrackingInfo => Ok(tracking_info()),
            CommandId::ClientTracking => tracking(&args[2]),
            CommandId::ClientCaching => Err(Reply::error(
                "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode \
                 enabled",
            )),
            CommandId::ClientUnpause => {
                self.gateway.pause = None;
                Ok(Reply::OK)
            }
            _ => Ok(help(CommandId::Client)),
        };
        result.unwrap_or_else(|refusal| refusal)
    }

    fn client_list(&self, now: Now, args: &[Bytes]) -> Result<Reply, Reply> {
        let mut filter = Filter::default();
        match args {
            [] => {}
            [option, kind] if option.eq_ignore_ascii_case(b"TYPE") => filter.set_type(kind)?,
            [option, wanted @ ..] if option.eq_ignore_ascii_case(b"ID") && !wanted.is_empty() => {
                let wanted: Option<Vec<i64>> = wanted.iter().map(|id| integer(id)).collect();
                filter.ids = Some(wanted.ok_or_else(|| Reply::error("ERR Invalid client ID"))?);
            }
            _ => return Err(Reply::error(SYNTAX)),
        }
        let kept = self.sessions.by_age().into_iter().filter(|session| filter.keeps(session));
        let text: String = kept.map(|session| describe(session, now)).collect();
        Ok(Reply::Verbatim("txt", Bytes::from(text)))
    }

    /// CLIENT KILL ip:port, or CLIENT KILL with filters.
    fn client_kill(&mut self, id: SessionId, args: &[Bytes]) -> Result<Reply, Reply> {
        if let [address] = args {
            let filter = Filter { address: Some(address.clone()), ..Filter::default() };
            return match self.kill(id, &filter, false) {
                0 => Err(Reply::error("ERR No such client")),
                _ => Ok(Reply::OK),
            };
        }
        let (mut filter, mut skip_me) = (Filter::default(), true);
        if args.len() % 2 == 1 {
            return Err(Reply::error(SYNTAX));
        }
        for pair in args.chunks_exact(2) {
            let value = &pair[1];
            match pair[0].to_ascii_uppercase().as_slice() {
                b"ID" => match integer(value).filter(|id| *id > 0) {
                    Some(id) => filter.ids = Some(vec![id]),
                    None => return Err(Reply::error("ERR client-id should be greater than 0")),
                },
                b"TYPE" => filter.set_type(value)?,
                b"ADDR" => filter.address = Some(value.clone()),
                b"LADDR" => filter.local = Some(value.clone()),
                b"USER" if &value[..] == b"default" => {}
                b"USER" => return Err(Reply::error(format!("ERR No such user '{}'", one_line(value)))),
                b"SKIPME" => match value.to_ascii_lowercase().as_slice() {
                    b"yes" => skip_me = true,
                    b"no" => skip_me = false,
                    _ => return Err(Reply::error(SYNTAX)),
                },
                _ => return Err(Reply::error(SYNTAX)),
            }
        }
        Ok(Reply::Integer(self.kill(id, &filter, skip_me)))
    }

    /// Closes what the filter keeps: others at once, one's own connection behind the reply.
    fn kill(&mut self, me: SessionId, filter: &Filter, skip_me: bool) -> i64 {
        let kept = self.sessions.iter().filter(|session| filter.keeps(session) && !session.closing);
        let doomed: Vec<SessionId> = kept.map(|session| session.id).collect();
        let mut killed = 0;
        for id in doomed {
            if id != me {
                self.close_at_once(id);
            } else if skip_me {
                continue;
            } else if let Some(session) = self.sessions.get_mut(me) {
                session.closes_behind_reply = true;
            }
            killed += 1;
        }
        killed
    }

    /// Closes a session without regard to what it is owed. What it has under way may still happen.
    pub(crate) fn close_at_once(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.slots.clear();
        session.held.clear();
        session.monitors = false;
        session.rest = None;
        let unsent: usize = session.unsent.drain(..).map(|unsent| unsent.item.work.bytes()).sum();
        let outstanding = session.outstanding.take();
        if let Some(outstanding) = &outstanding {
            // Its numbers are spent: what still comes of it finds nobody.
            session.next_number = outstanding.batch.first + outstanding.batch.items.len() as u64;
        }
        self.waiting_bytes -= unsent + outstanding.map_or(0, |outstanding| outstanding.bytes);
        session.bytes = 0;
        session.closing = true;
        self.outputs.push_back(Output::Close { session: id });
    }

    /// CLIENT UNBLOCK id [TIMEOUT|ERROR]: ends another's WAIT.
    fn client_unblock(&mut self, now: Now, args: &[Bytes]) -> Result<Reply, Reply> {
        let with_error = match args.get(1).map(|reason| reason.to_ascii_uppercase()) {
            None => false,
            Some(reason) if reason == b"TIMEOUT" => false,
            Some(reason) if reason == b"ERROR" => true,
            Some(_) => return Err(Reply::error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        };
        let wanted = integer(&args[0]).ok_or_else(|| Reply::error("ERR value is not an integer or out of range"))?;
        let waits = |session: &&Session| matches!(session.rest, Some(Rest::Wait { .. }));
        let found = self.sessions.iter().filter(waits).find(|session| session.id.client.cast_signed() == wanted);
        let Some(found) = found.map(|session| session.id) else { return Ok(Reply::Integer(0)) };
        self.begin_rest(found, Rest::Ended { with_error }, now.mono);
        Ok(Reply::Integer(1))
    }

    /// CLIENT REPLY ON|OFF|SKIP, in the order of the requests. `None`: nothing is answered.
    pub(crate) fn client_reply(&mut self, id: SessionId, mode: &[u8]) -> Option<Reply> {
        let session = self.sessions.get_mut(id)?;
        match mode.to_ascii_uppercase().as_slice() {
            b"ON" => {
                (session.replies, session.muted) = (Replies::On, false);
                Some(Reply::OK)
            }
            b"OFF" => {
                session.replies = Replies::Off;
                None
            }
            b"SKIP" => {
                if session.replies == Replies::On {
                    session.replies = Replies::SkipNext;
                }
                None
            }
            _ => Some(Reply::error(SYNTAX)),
        }
    }
}

fn on_off(word: &[u8]) -> Result<bool, Reply> {
    match word.to_ascii_lowercase().as_slice() {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err(Reply::error(SYNTAX)),
    }
}

fn tracking(word: &[u8]) -> Result<Reply, Reply> {
    match on_off(word)? {
        false => Ok(Reply::OK),
        true => Err(Reply::error(
            "ERR CLIENT TRACKING is not supported: clients' caches are not told of changes; use WATCH or KV.VERSION \
             to see whether a key has changed",
        )),
    }
}

fn tracking_info() -> Reply {
    let text = Reply::bulk_static;
    Reply::Map(vec![
        (text("flags"), Reply::Set(vec![text("off")])),
        (text("redirect"), Reply::Integer(-1)),
        (text("prefixes"), Reply::Array(Vec::new())),
    ])
}

/// CLIENT SETNAME name; an empty name removes it.
fn set_name(session: &mut Session, name: &Bytes) -> Result<Reply, Reply> {
    check_name(name, "Client names")?;
    session.name = Bytes::copy_from_slice(name);
    Ok(Reply::OK)
}

/// CLIENT SETINFO lib-name|lib-ver value
fn set_info(session: &mut Session, args: &[Bytes]) -> Result<Reply, Reply> {
    let (field, what) = if args[2].eq_ignore_ascii_case(b"lib-name") {
        (&mut session.lib_name, "lib-name")
    } else if args[2].eq_ignore_ascii_case(b"lib-ver") {
        (&mut session.lib_version, "lib-ver")
    } else {
        return Err(Reply::error(format!("ERR Unrecognized option '{}'", one_line(&args[2]))));
    };
    check_name(&args[3], what)?;
    *field = Bytes::copy_from_slice(&args[3]);
    Ok(Reply::OK)
}

/// One line of CLIENT LIST.
fn describe(session: &Session, now: Now) -> String {
    let seconds_since = |then: u64| now.wall_us.saturating_sub(then) / 1_000_000;
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let multi = session.multi.as_ref().map_or(-1, |multi| i64::try_from(multi.commands.len()).unwrap_or(i64::MAX));
    format!(
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db={} sub=0 psub=0 ssub=0 multi={multi} \
         qbuf=0 qbuf-free=0 argv-mem=0 multi-mem={} rbs=0 rbp=0 obl=0 oll={} omem={} tot-mem={} events=r cmd={} \
         user=default redir=-1 resp={} lib-name={} lib-ver={}\n",
        session.id.client,
        session.address.remote,
        session.address.local,
        text(&session.name),
        seconds_since(session.connected_us),
        seconds_since(session.active_us),
        flags(session),
        session.db,
        session.multi.as_ref().map_or(0, |multi| multi.bytes),
        session.slots.len(),
        session.bytes,
        session.bytes + size_of::<Session>(),
        session.last_command.map_or("NULL", |spec| spec.full_name),
        if session.resp == ProtocolVersion::Resp3 { 3 } else { 2 },
        text(&session.lib_name),
        text(&session.lib_version),
    )
}

fn flags(session: &Session) -> String {
    let flags = [
        (session.monitors, 'O'),
        (session.no_evict, 'e'),
        (session.multi.is_some(), 'x'),
        (session.rest.is_some() || session.postponed, 'b'),
        (session.closing, 'c'),
    ];
    let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| *flag).collect();
    if flags.is_empty() { "N".to_owned() } else { flags }
}
