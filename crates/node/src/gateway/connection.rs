//! Commands about the connection itself: PING, HELLO, AUTH, SELECT, CLIENT, RESET. None of them reads data.

use bytes::Bytes;
use dstore_resp::{CommandId, ProtocolVersion, Reply};

use super::session::{Session, Sessions};
use crate::Now;

/// Databases a client may SELECT.
pub(crate) const DATABASES: u8 = 16;

/// The Redis version whose behaviour we reproduce, as HELLO and INFO tell it.
pub(crate) const REDIS_VERSION: &str = "7.0.15";

/// PING [message]
pub(crate) fn ping(args: &[Bytes]) -> Reply {
    match args {
        [_] => Reply::Simple("PONG"),
        [_, message] => Reply::Bulk(message.clone()),
        _ => dstore_resp::CommandSpec::of(CommandId::Ping).arity_error(),
    }
}

/// SELECT index
pub(crate) fn select(session: &mut Session, args: &[Bytes]) -> Reply {
    match database(&args[1]) {
        Ok(db) => {
            session.db = db;
            Reply::OK
        }
        Err(refusal) => refusal,
    }
}

/// The database that SELECT names.
///
/// # Errors
///
/// Redis's reply.
pub(crate) fn database(index: &[u8]) -> Result<u8, Reply> {
    let Some(index) = integer(index) else {
        return Err(Reply::error("ERR value is not an integer or out of range"));
    };
    let db = u8::try_from(index).ok().filter(|db| *db < DATABASES);
    db.ok_or_else(|| Reply::error("ERR DB index is out of range"))
}

/// What a client may do before it has told the password.
pub(crate) fn is_open_to_all(id: CommandId) -> bool {
    matches!(id, CommandId::Auth | CommandId::Hello | CommandId::Quit | CommandId::Reset)
}

/// AUTH [username] password: there is one user, `default`.
pub(crate) fn auth(session: &mut Session, args: &[Bytes], password: Option<&[u8]>) -> Reply {
    let (user, given) = match args {
        [_, _] if password.is_none() => {
            return Reply::error(
                "ERR AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
            );
        }
        [_, given] => (&b"default"[..], given),
        [_, user, given] => (&user[..], given),
        _ => return Reply::error("ERR syntax error"),
    };
    check_user(session, user, given, password).unwrap_or(Reply::OK)
}

/// Lets the client in, or says why not.
fn check_user(session: &mut Session, user: &[u8], given: &[u8], password: Option<&[u8]>) -> Option<Reply> {
    let known = user == b"default" && password.is_none_or(|password| same(password, given));
    session.authenticated |= known;
    (!known).then(|| Reply::error("WRONGPASS invalid username-password pair or user is disabled."))
}

/// Compares in a time that does not tell how much of a guess is right.
fn same(password: &[u8], given: &[u8]) -> bool {
    let differs = (0..given.len()).fold(0, |sum, at| sum | (given[at] ^ password.get(at).copied().unwrap_or(0)));
    password.len() == given.len() && differs == 0
}

/// HELLO [version [AUTH user password] [SETNAME name]]
pub(crate) fn hello(session: &mut Session, args: &[Bytes], password: Option<&[u8]>) -> Reply {
    let mut wanted = session.resp;
    if let Some(version) = args.get(1) {
        wanted = match integer(version) {
            None => return Reply::error("ERR Protocol version is not an integer or out of range"),
            Some(2) => ProtocolVersion::Resp2,
            Some(3) => ProtocolVersion::Resp3,
            Some(_) => return Reply::error("NOPROTO unsupported protocol version"),
        };
    }
    let mut name = None;
    let mut rest = args.get(2..).unwrap_or_default();
    while let Some(option) = rest.first() {
        if option.eq_ignore_ascii_case(b"AUTH") && rest.len() >= 3 {
            if let Some(refusal) = check_user(session, &rest[1], &rest[2], password) {
                return refusal;
            }
            rest = &rest[3..];
        } else if option.eq_ignore_ascii_case(b"SETNAME") && rest.len() >= 2 {
            if let Some(refusal) = check_name(&rest[1], "Client names") {
                return refusal;
            }
            name = Some(rest[1].clone());
            rest = &rest[2..];
        } else {
            let option = String::from_utf8_lossy(option).replace(['\r', '\n'], " ");
            return Reply::error(format!("ERR Syntax error in HELLO option '{option}'"));
        }
    }
    if !session.authenticated {
        return Reply::error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
             same time",
        );
    }
    session.name = name.unwrap_or_else(|| session.name.clone());
    session.resp = wanted;
    let field = |name: &'static str, value: Reply| (Reply::bulk_static(name), value);
    Reply::Map(vec![
        field("server", Reply::bulk_static("redis")),
        field("version", Reply::bulk_static(REDIS_VERSION)),
        field("proto", Reply::Integer(if wanted == ProtocolVersion::Resp3 { 3 } else { 2 })),
        field("id", Reply::Integer(session.id.client.cast_signed())),
        field("mode", Reply::bulk_static("standalone")),
        field("role", Reply::bulk_static("master")),
        field("modules", Reply::Array(Vec::new())),
    ])
}

/// CLIENT SETNAME name; an empty name removes it.
pub(crate) fn client_setname(session: &mut Session, args: &[Bytes]) -> Reply {
    if let Some(refusal) = check_name(&args[2], "Client names") {
        return refusal;
    }
    session.name = args[2].clone();
    Reply::OK
}

/// CLIENT SETINFO lib-name|lib-ver value
pub(crate) fn client_setinfo(session: &mut Session, args: &[Bytes]) -> Reply {
    let (field, what) = if args[2].eq_ignore_ascii_case(b"lib-name") {
        (&mut session.lib_name, "lib-name")
    } else if args[2].eq_ignore_ascii_case(b"lib-ver") {
        (&mut session.lib_version, "lib-ver")
    } else {
        let option = String::from_utf8_lossy(&args[2]).replace(['\r', '\n'], " ");
        return Reply::error(format!("ERR Unrecognized option '{option}'"));
    };
    if let Some(refusal) = check_name(&args[3], what) {
        return refusal;
    }
    *field = args[3].clone();
    Reply::OK
}

/// Names appear in CLIENT LIST, whose fields are parted by spaces and lines by newlines.
fn check_name(name: &[u8], what: &str) -> Option<Reply> {
    let printable = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    (!printable).then(|| Reply::error(format!("ERR {what} cannot contain spaces, newlines or special characters.")))
}

/// CLIENT GETNAME
pub(crate) fn client_getname(session: &Session) -> Reply {
    if session.name.is_empty() { Reply::Null } else { Reply::Bulk(session.name.clone()) }
}

/// CLIENT INFO
pub(crate) fn client_info(session: &Session, now: Now) -> Reply {
    Reply::Verbatim("txt", Bytes::from(describe(session, now)))
}

/// CLIENT LIST [TYPE type] [ID id ...]
pub(crate) fn client_list(sessions: &Sessions, args: &[Bytes], now: Now) -> Reply {
    let mut ids = None;
    let mut nobody = false;
    match &args[2..] {
        [] => {}
        [option, kind] if option.eq_ignore_ascii_case(b"TYPE") => match kind.to_ascii_lowercase().as_slice() {
            b"normal" => {}
            b"master" | b"replica" | b"slave" | b"pubsub" => nobody = true,
            _ => {
                let kind = String::from_utf8_lossy(kind).replace(['\r', '\n'], " ");
                return Reply::error(format!("ERR Unknown client type '{kind}'"));
            }
        },
        [option, wanted @ ..] if option.eq_ignore_ascii_case(b"ID") && !wanted.is_empty() => {
            let wanted: Option<Vec<i64>> = wanted.iter().map(|id| integer(id)).collect();
            match wanted {
                Some(wanted) => ids = Some(wanted),
                None => return Reply::error("ERR Invalid client ID"),
            }
        }
        _ => return Reply::error("ERR syntax error"),
    }
    let mut text = String::new();
    for session in sessions.by_age() {
        let wanted = ids.as_ref().is_none_or(|ids| ids.contains(&session.id.client.cast_signed()));
        if wanted && !nobody {
            text.push_str(&describe(session, now));
        }
    }
    Reply::Verbatim("txt", Bytes::from(text))
}

/// One line of CLIENT LIST.
fn describe(session: &Session, now: Now) -> String {
    let seconds_since = |then: u64| now.wall_us.saturating_sub(then) / 1_000_000;
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let flags = match (session.multi.is_some(), session.closing) {
        (false, false) => "N",
        (true, false) => "x",
        (false, true) => "c",
        (true, true) => "xc",
    };
    let multi = session.multi.as_ref().map_or(-1, |multi| i64::try_from(multi.commands.len()).unwrap_or(i64::MAX));
    format!(
        "id={} addr={} laddr={} name={} age={} idle={} flags={flags} db={} sub=0 psub=0 ssub=0 multi={multi} \
         oll={} multi-mem={} cmd={} user=default redir=-1 resp={} lib-name={} lib-ver={}\n",
        session.id.client,
        session.address.remote,
        session.address.local,
        text(&session.name),
        seconds_since(session.connected_us),
        seconds_since(session.active_us),
        session.db,
        session.slots.len(),
        session.multi.as_ref().map_or(0, |multi| multi.bytes),
        session.last_command.map_or("NULL", |spec| spec.full_name),
        if session.resp == ProtocolVersion::Resp3 { 3 } else { 2 },
        text(&session.lib_name),
        text(&session.lib_version),
    )
}

/// A decimal integer as Redis reads one: no sign `+`, no leading zeros, no spaces.
pub(crate) fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}
