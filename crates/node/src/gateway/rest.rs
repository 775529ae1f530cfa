//! Connections that rest: DEBUG SLEEP, WAIT and CLIENT PAUSE. The requests of a connection that rests are held, those of the
//! others go on; timers end it.

use std::time::Duration;

use bytes::Bytes;
use dstore_raft::Time;
use dstore_resp::{CommandFlags, CommandId, CommandSpec, Reply};
use dstore_storage::Engine;

use super::connection::integer;
use super::session::{Session, SessionId};
use crate::{Node, NodeError, Now, USER_RANGE};

/// How often WAIT looks whether replicas have caught up.
const WAIT_INTERVAL: Duration = Duration::from_millis(5);
/// How often idle clients are looked for, and the pace is measured.
const PACE_INTERVAL: Duration = Duration::from_secs(1);

/// Why a connection rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// DEBUG SLEEP, until then.
    Sleep(Time),
    /// WAIT, for so many replicas, until then.
    Wait {
        replicas: u64,
        until: Time,
        /// The last entry of the log when everything before the WAIT was answered.
        target: Option<u64>,
    },
    /// CLIENT UNBLOCK ended a WAIT.
    Ended { with_error: bool },
}

/// CLIENT PAUSE: whose commands wait, and until when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    pub(crate) writes_only: bool,
    pub(crate) until: Time,
}

impl<E: Engine> Node<E> {
    /// CLIENT PAUSE milliseconds [WRITE|ALL]. Of two pauses the later end and the stricter kind hold.
    pub(crate) fn client_pause(&mut self, now: Now, args: &[Bytes]) -> Result<Reply, Reply> {
        let writes_only = match args {
            [_] => false,
            [_, mode] if mode.eq_ignore_ascii_case(b"ALL") => false,
            [_, mode] if mode.eq_ignore_ascii_case(b"WRITE") => true,
            [_, _] => return Err(Reply::error("ERR CLIENT PAUSE mode must be WRITE or ALL")),
            _ => {
                return Err(Reply::error(
                    "ERR unknown subcommand or wrong number of arguments for 'PAUSE'. Try CLIENT HELP.",
                ));
            }
        };
        let until = now.mono + timeout(&args[0])?;
        let old = self.gateway.pause.filter(|pause| pause.until > now.mono);
        let until = old.map_or(until, |old| old.until.max(until));
        let writes_only = writes_only && old.is_none_or(|old| old.writes_only);
        self.gateway.pause = Some(Pause { writes_only, until });
        Ok(Reply::OK)
    }

    /// Whether a command must wait for the end of a pause. The one that ends it need not, unlike in Redis, where nobody can
    /// end a pause of everything.
    pub(crate) fn is_postponed(&self, now: Now, session: &Session, spec: &CommandSpec) -> bool {
        let Some(pause) = self.gateway.pause.filter(|pause| pause.until > now.mono) else { return false };
        let writes = |spec: &CommandSpec| spec.flags.has(CommandFlags::WRITE);
        let block = session.multi.as_ref().filter(|_| spec.id == CommandId::Exec);
        let writes = writes(spec) || block.is_some_and(|multi| multi.commands.iter().any(|(spec, _)| writes(spec)));
        spec.id != CommandId::ClientUnpause && (!pause.writes_only || writes)
    }

    /// DEBUG: SLEEP alone is here.
    pub(crate) fn debug(&mut self, now: Now, id: SessionId, args: &[Bytes]) -> Option<Reply> {
        if !args[1].eq_ignore_ascii_case(b"SLEEP") {
            let name = String::from_utf8_lossy(&args[1]).replace(['\r', '\n'], " ").to_ascii_uppercase();
            return Some(Reply::error(format!(
                "ERR DEBUG {name} is not supported: use OBJECT, MEMORY USAGE or INFO to look into a node, and signals to \
                 stop one"
            )));
        }
        let [_, _, seconds] = args else {
            return Some(super::slowlog::wrong_arguments(&args[1], "DEBUG"));
        };
        let seconds: f64 = std::str::from_utf8(seconds).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let until = now.mono + Duration::try_from_secs_f64(seconds.clamp(0.0, 1e6)).unwrap_or_default();
        self.begin_rest(id, Rest::Sleep(until), until);
        None
    }

    /// WAIT replicas timeout
    pub(crate) fn wait(&mut self, now: Now, id: SessionId, args: &[Bytes]) -> Option<Reply> {
        let (replicas, timeout) = match wait_arguments(args) {
            Ok(arguments) => arguments,
            Err(refusal) => return Some(refusal),
        };
        let until = if timeout.is_zero() { Time::FAR_FUTURE } else { now.mono + timeout };
        self.begin_rest(id, Rest::Wait { replicas, until, target: None }, now.mono);
        None
    }

    /// WAIT inside a transaction, where nobody waits.
    pub(crate) fn wait_in_block(&self, args: &[Bytes]) -> Reply {
        match wait_arguments(args) {
            Ok(_) => Reply::Integer(self.replicas_of_a_majority().cast_signed()),
            Err(refusal) => refusal,
        }
    }

    /// How many replicas certainly have what was answered: an acknowledged write is on a majority, the leader among it.
    pub(crate) fn replicas_of_a_majority(&self) -> u64 {
        self.groups.get(&USER_RANGE).map_or(0, |group| group.raft.configuration().voters().len() as u64 / 2)
    }

    /// How many replicas have the log as far as `target`. Only the leader knows of more than a majority.
    fn replicas_at(&self, target: u64) -> u64 {
        let Some(group) = self.groups.get(&USER_RANGE).filter(|group| group.serving().is_some()) else {
            return self.replicas_of_a_majority();
        };
        let reached = group.status().peers.iter().filter(|peer| peer.matched.0 >= target).count();
        self.replicas_of_a_majority().max(reached as u64)
    }

    pub(crate) fn begin_rest(&mut self, id: SessionId, rest: Rest, wake: Time) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.rest = Some(rest);
            if let Some(before) = session.wakes_at.replace(wake) {
                self.gateway.wakes.remove(&(before, id));
            }
            self.gateway.wakes.insert((wake, id));
        }
    }

    /// Does what is due: wakes those who rest, ends a pause, closes idle clients, measures the pace.
    pub(crate) fn wake(&mut self, now: Now) -> Result<(), NodeError> {
        while let Some((at, id)) = self.gateway.wakes.first().copied().filter(|(at, _)| *at <= now.mono) {
            self.gateway.wakes.remove(&(at, id));
            self.wake_one(now, id)?;
        }
        if self.gateway.pause.is_some_and(|pause| pause.until <= now.mono) {
            self.gateway.pause = None;
        }
        if self.gateway.pause.is_none() && self.gateway.postponed > 0 {
            self.end_pause(now)?;
        }
        if now.mono >= self.gateway.next_pace {
            self.gateway.next_pace = now.mono + PACE_INTERVAL;
            self.gateway.pace.measure(now.mono, self.stats.commands);
            self.close_idle(now);
        }
        Ok(())
    }

    /// When [`Node::wake`] has something to do.
    pub(crate) fn next_wake(&self, now: Now) -> Option<Time> {
        let resumes = || self.gateway.pause.map_or(now.mono, |pause| pause.until);
        let resumes = (self.gateway.postponed > 0).then(resumes);
        let first = self.gateway.wakes.first().map(|(at, _)| *at);
        first.into_iter().chain(resumes).min()
    }

    pub(crate) fn wake_one(&mut self, now: Now, id: SessionId) -> Result<(), NodeError> {
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        let reply = match session.rest.clone() {
            None => return Ok(()),
            Some(Rest::Sleep(until)) if until > now.mono => return Ok(()),
            Some(Rest::Sleep(_)) => Reply::OK,
            Some(Rest::Ended { with_error: true }) => Reply::error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
            Some(Rest::Ended { with_error: false }) => Reply::Integer(self.replicas_of_a_majority().cast_signed()),
            Some(Rest::Wait { replicas, until, target }) => {
                let last = || self.groups.get(&USER_RANGE).map(|group| group.status().last.index.0);
                let target = target.or_else(|| session.slots.is_empty().then(last).flatten());
                let reached = target.map_or(0, |target| self.replicas_at(target));
                // A node that does not lead will not learn of more.
                let leads = self.groups.get(&USER_RANGE).is_some_and(|group| group.serving().is_some());
                let ends = target.is_some() && (reached >= replicas || !leads);
                if !ends && until > now.mono {
                    self.begin_rest(id, Rest::Wait { replicas, until, target }, (now.mono + WAIT_INTERVAL).min(until));
                    return Ok(());
                }
                Reply::Integer(reached.max(self.replicas_of_a_majority()).cast_signed())
            }
        };
        if let Some(session) = self.sessions.get_mut(id) {
            session.rest = None;
        }
        self.answer(id, reply);
        self.after_outcomes(now, id)
    }

    /// The commands that waited for the end of a pause go on.
    pub(crate) fn end_pause(&mut self, now: Now) -> Result<(), NodeError> {
        self.gateway.postponed = 0;
        let waiting: Vec<SessionId> =
            self.sessions.iter().filter(|session| session.postponed).map(|session| session.id).collect();
        for id in waiting {
            if let Some(session) = self.sessions.get_mut(id) {
                session.postponed = false;
            }
            self.after_outcomes(now, id)?;
        }
        Ok(())
    }

    /// Closes clients that have been idle for longer than `timeout`.
    fn close_idle(&mut self, now: Now) {
        let Ok(timeout_s @ 1..) = u64::try_from(self.gateway.settings.idle_timeout_s) else { return };
        let is_idle = |session: &&Session| {
            let waits = session.monitors || session.rest.is_some() || session.postponed || !session.slots.is_empty();
            !waits && !session.closing && now.wall_us.saturating_sub(session.active_us) / 1_000_000 > timeout_s
        };
        let idle: Vec<SessionId> = self.sessions.iter().filter(is_idle).map(|session| session.id).collect();
        idle.into_iter().for_each(|id| self.close_at_once(id));
    }
}

/// How many replicas, and how long.
fn wait_arguments(args: &[Bytes]) -> Result<(u64, Duration), Reply> {
    let replicas = integer(&args[1]).ok_or_else(|| Reply::error("ERR value is not an integer or out of range"))?;
    Ok((u64::try_from(replicas).unwrap_or(0), timeout(&args[2])?))
}

/// Milliseconds, as WAIT and CLIENT PAUSE take them.
fn timeout(text: &[u8]) -> Result<Duration, Reply> {
    match integer(text) {
        None => Err(Reply::error("ERR timeout is not an integer or out of range")),
        Some(milliseconds) => {
            u64::try_from(milliseconds).map(Duration::from_millis).map_err(|_| Reply::error("ERR timeout is negative"))
        }
    }
}
