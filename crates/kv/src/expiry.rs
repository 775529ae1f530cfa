//! Expiry: EXPIRE and its like set it, TTL and its like tell it.

use bytes::Bytes;
use dstore_resp::Reply;

use crate::context::errors;
use crate::evaluation::{Command, Evaluation, Stop};
use crate::number::parse_i64;
use crate::options::{TimeForm, invalid_expire_time};

/// `EXPIRE key seconds [NX | XX | GT | LT]`
pub(crate) fn expire(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    expire_in(evaluation, command, TimeForm::EX)
}

/// `PEXPIRE key ms [NX | XX | GT | LT]`
pub(crate) fn pexpire(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    expire_in(evaluation, command, TimeForm::PX)
}

/// `EXPIREAT key seconds [NX | XX | GT | LT]`
pub(crate) fn expireat(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    expire_in(evaluation, command, TimeForm::EXAT)
}

/// `PEXPIREAT key ms [NX | XX | GT | LT]`
pub(crate) fn pexpireat(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    expire_in(evaluation, command, TimeForm::PXAT)
}

fn expire_in(evaluation: &mut Evaluation<'_>, command: Command<'_>, form: TimeForm) -> Result<Reply, Stop> {
    let condition = Condition::parse(&command.args[3..])?;
    let time = parse_i64(&command.args[2]).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))?;
    let deadline_ms =
        deadline_ms(form, time, evaluation.time_ms()).ok_or_else(|| Stop::Reply(invalid_expire_time(command.spec)))?;
    let slot = evaluation.open(&command.args[1])?;
    if slot.live().is_none() {
        return Ok(Reply::Integer(0));
    }
    if !condition.holds(slot.expires_at_ms(), deadline_ms) {
        return Ok(Reply::Integer(0));
    }
    match u64::try_from(deadline_ms) {
        Ok(deadline_ms) if deadline_ms > evaluation.time_ms() => evaluation.set_expiry(slot, Some(deadline_ms))?,
        // The deadline has come already: the key goes at once.
        _ => evaluation.remove(slot),
    }
    Ok(Reply::Integer(1))
}

/// When a key set to expire in or at `time` does; negative is before the epoch, none is out of range.
fn deadline_ms(form: TimeForm, time: i64, now_ms: u64) -> Option<i64> {
    let ms = if form.seconds { time.checked_mul(1000)? } else { time };
    if form.absolute { Some(ms) } else { ms.checked_add_unsigned(now_ms) }
}

/// NX, XX, GT, LT: which expiry a key must have for a new one to be set. XX goes together with GT or LT.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    if_none: bool,
    if_any: bool,
    if_later: bool,
    if_sooner: bool,
}

impl Condition {
    fn parse(args: &[Bytes]) -> Result<Condition, Stop> {
        let mut condition = Condition::default();
        for option in args {
            match option.to_ascii_uppercase().as_slice() {
                b"NX" => condition.if_none = true,
                b"XX" => condition.if_any = true,
                b"GT" => condition.if_later = true,
                b"LT" => condition.if_sooner = true,
                _ => return Err(Stop::Reply(unsupported_option(option))),
            }
        }
        let Condition { if_none, if_any, if_later, if_sooner } = condition;
        if if_none && (if_any || if_later || if_sooner) {
            return Err(Stop::error("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if if_later && if_sooner {
            return Err(Stop::error("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(condition)
    }

    /// No expiry is later than any.
    fn holds(self, current_ms: Option<u64>, new_ms: i64) -> bool {
        let current = current_ms.map_or(i128::MAX, i128::from);
        let new = i128::from(new_ms);
        !(self.if_none && current_ms.is_some()
            || self.if_any && current_ms.is_none()
            || self.if_later && new <= current
            || self.if_sooner && new >= current)
    }
}

/// Quotes the option as Redis prints it: up to a NUL, without line ends behind, on one line.
fn unsupported_option(option: &[u8]) -> Reply {
    let mut option = option.split(|byte| *byte == 0).next().unwrap_or(option);
    while let [rest @ .., b'\r' | b'\n'] = option {
        option = rest;
    }
    let mut text = b"ERR Unsupported option ".to_vec();
    text.extend(option.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    Reply::Error(Bytes::from(text))
}

/// `PERSIST key`
pub(crate) fn persist(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let slot = evaluation.open(&command.args[1])?;
    if slot.expires_at_ms().is_none() {
        return Ok(Reply::Integer(0));
    }
    evaluation.set_expiry(slot, None)?;
    Ok(Reply::Integer(1))
}

/// `TTL key`
pub(crate) fn ttl(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    tell(evaluation, command, TimeForm::EX)
}

/// `PTTL key`
pub(crate) fn pttl(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    tell(evaluation, command, TimeForm::PX)
}

/// `EXPIRETIME key`
pub(crate) fn expiretime(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    tell(evaluation, command, TimeForm::EXAT)
}

/// `PEXPIRETIME key`
pub(crate) fn pexpiretime(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    tell(evaluation, command, TimeForm::PXAT)
}

/// The expiry in this form; -2 without the key, -1 without an expiry. Seconds are rounded to the nearest.
fn tell(evaluation: &mut Evaluation<'_>, command: Command<'_>, form: TimeForm) -> Result<Reply, Stop> {
    let Some(record) = evaluation.read(&command.args[1])? else {
        return Ok(Reply::Integer(-2));
    };
    let Some(deadline_ms) = record.head.expires_at_ms else {
        return Ok(Reply::Integer(-1));
    };
    let ms = if form.absolute { deadline_ms } else { deadline_ms.saturating_sub(evaluation.time_ms()) };
    let time = if form.seconds { ms.saturating_add(500) / 1000 } else { ms };
    Ok(Reply::Integer(i64::try_from(time).expect("deadlines are set as signed integers")))
}
