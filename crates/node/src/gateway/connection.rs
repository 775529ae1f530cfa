//! Commands about the connection itself: PING, HELLO, AUTH, SELECT. None of them reads data.

use bytes::Bytes;
use dstore_resp::{CommandId, ProtocolVersion, Reply};

use super::session::Session;

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
            if let Err(refusal) = check_name(&rest[1], "Client names") {
                return refusal;
            }
            name = Some(Bytes::copy_from_slice(&rest[1]));
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

/// Names appear in CLIENT LIST, whose fields are parted by spaces and lines by newlines.
///
/// # Errors
///
/// Redis's reply.
pub(crate) fn check_name(name: &[u8], what: &str) -> Result<(), Reply> {
    let printable = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    let refusal = || Reply::error(format!("ERR {what} cannot contain spaces, newlines or special characters."));
    printable.then_some(()).ok_or_else(refusal)
}

/// A decimal integer as Redis reads one: no sign `+`, no leading zeros, no spaces.
pub(crate) fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}
