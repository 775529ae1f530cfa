//! MONITOR: shows what the clients of this node send, as it comes.

use bytes::Bytes;
use dstore_resp::{CommandFlags, CommandId, CommandSpec, Reply};
use dstore_storage::Engine;

use super::session::SessionId;
use crate::{Node, Now, Output};

impl<E: Engine> Node<E> {
    /// MONITOR
    pub(crate) fn monitor(&mut self, id: SessionId) -> Reply {
        // Those who are gone, and this one if it was one before.
        let sessions = &self.sessions;
        self.gateway.monitors.retain(|id| sessions.get(*id).is_some_and(|session| session.monitors));
        if let Some(session) = self.sessions.get_mut(id)
            && !session.monitors
        {
            session.monitors = true;
            self.gateway.monitors.push(id);
        }
        Reply::OK
    }

    /// Shows a command to those who watch, if it is one that may be shown.
    pub(crate) fn show(&mut self, now: Now, id: SessionId, spec: &CommandSpec, args: &[Bytes], db: u8) {
        let hidden = CommandFlags::ADMIN;
        if self.gateway.monitors.is_empty() || spec.flags.has(hidden) || spec.flags.has(CommandFlags::SKIP_MONITOR) {
            return;
        }
        let Some(from) = self.sessions.get(id).map(|session| session.address.remote.clone()) else { return };
        let (seconds, micros) = (now.wall_us / 1_000_000, now.wall_us % 1_000_000);
        let mut line = format!("{seconds}.{micros:06} [{db} {from}]").into_bytes();
        for arg in redacted(spec.id, args).as_deref().unwrap_or(args) {
            line.push(b' ');
            quote(arg, &mut line);
        }
        self.tell_monitors(&Bytes::from(line));
    }

    fn tell_monitors(&mut self, line: &Bytes) {
        for monitor in std::mem::take(&mut self.gateway.monitors) {
            let Some(session) = self.sessions.get_mut(monitor).filter(|session| session.monitors) else { continue };
            if session.stalled {
                // One that does not read is not waited for, and nothing is kept for him.
                self.close_at_once(monitor);
                continue;
            }
            let version = session.resp;
            self.outputs.push_back(Output::Reply { session: monitor, reply: Reply::Status(line.clone()), version });
            self.gateway.monitors.push(monitor);
        }
    }
}

/// The arguments with passwords taken out, if there are any.
pub(crate) fn redacted(id: CommandId, args: &[Bytes]) -> Option<Vec<Bytes>> {
    let hidden = Bytes::from_static(b"(redacted)");
    let mut args = args.to_vec();
    match id {
        CommandId::Auth => args[1..].fill(hidden),
        CommandId::Hello => {
            let at = args.iter().skip(2).position(|arg| arg.eq_ignore_ascii_case(b"AUTH"))? + 2;
            let end = args.len().min(at + 3);
            args[at + 1..end].fill(hidden);
        }
        CommandId::ConfigSet => {
            let at = args.iter().skip(2).step_by(2).position(|arg| arg.eq_ignore_ascii_case(b"requirepass"))? * 2 + 2;
            *args.get_mut(at + 1)? = hidden;
        }
        _ => return None,
    }
    Some(args)
}

/// A text in quotes, with what is not printable escaped.
fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0x07 => out.extend(b"\\a"),
            0x08 => out.extend(b"\\b"),
            b' '..=b'~' => out.push(*byte),
            _ => out.extend(format!("\\x{byte:02x}").into_bytes()),
        }
    }
    out.push(b'"');
}
