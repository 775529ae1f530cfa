//! The options of SET and GETEX, and expiry times as clients give them.

use bytes::Bytes;
use dstore_resp::{CommandSpec, Reply};

use crate::context::errors;
use crate::evaluation::{Evaluation, Stop};
use crate::number::parse_i64;

/// How a client gives an expiry time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeForm {
    /// Seconds, not milliseconds.
    pub(crate) seconds: bool,
    /// From the Unix epoch, not from now.
    pub(crate) absolute: bool,
}

impl TimeForm {
    pub(crate) const EX: TimeForm = TimeForm { seconds: true, absolute: false };
    pub(crate) const PX: TimeForm = TimeForm { seconds: false, absolute: false };
    pub(crate) const EXAT: TimeForm = TimeForm { seconds: true, absolute: true };
    pub(crate) const PXAT: TimeForm = TimeForm { seconds: false, absolute: true };

    /// The form that an option of SET names.
    fn named(option: &[u8]) -> Option<TimeForm> {
        [(&b"EX"[..], Self::EX), (b"PX", Self::PX), (b"EXAT", Self::EXAT), (b"PXAT", Self::PXAT)]
            .into_iter()
            .find(|(name, _)| option.eq_ignore_ascii_case(name))
            .map(|(_, form)| form)
    }
}

/// What becomes of the expiry a key has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TtlOption<'a> {
    /// No option: SET drops the expiry, GETEX leaves it.
    #[default]
    Unsaid,
    /// KEEPTTL (SET).
    Keep,
    /// PERSIST (GETEX).
    Persist,
    /// A new one, not yet read.
    Expire(TimeForm, &'a Bytes),
}

/// The options of SET.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SetOptions<'a> {
    pub(crate) if_absent: bool,
    pub(crate) if_present: bool,
    pub(crate) get: bool,
    pub(crate) ttl: TtlOption<'a>,
}

impl<'a> SetOptions<'a> {
    /// Reads everything after `SET key value`.
    pub(crate) fn parse(args: &'a [Bytes]) -> Result<SetOptions<'a>, Stop> {
        let mut options = SetOptions::default();
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
            if is(b"NX") && !options.if_present {
                options.if_absent = true;
            } else if is(b"XX") && !options.if_absent {
                options.if_present = true;
            } else if is(b"GET") {
                options.get = true;
            } else if is(b"KEEPTTL") && matches!(options.ttl, TtlOption::Unsaid | TtlOption::Keep) {
                options.ttl = TtlOption::Keep;
            } else {
                options.ttl = expire_option(options.ttl, option, rest.next())?;
            }
        }
        Ok(options)
    }
}

/// Reads everything after `GETEX key`.
pub(crate) fn parse_getex(args: &[Bytes]) -> Result<TtlOption<'_>, Stop> {
    let mut ttl = TtlOption::Unsaid;
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        if option.eq_ignore_ascii_case(b"PERSIST") && matches!(ttl, TtlOption::Unsaid | TtlOption::Persist) {
            ttl = TtlOption::Persist;
        } else {
            ttl = expire_option(ttl, option, rest.next())?;
        }
    }
    Ok(ttl)
}

/// EX, PX, EXAT or PXAT with its time. Any of them may be repeated, the last counts; different ones exclude each other.
fn expire_option<'a>(before: TtlOption<'a>, option: &[u8], time: Option<&'a Bytes>) -> Result<TtlOption<'a>, Stop> {
    match (TimeForm::named(option), time, before) {
        (Some(form), Some(time), TtlOption::Unsaid) => Ok(TtlOption::Expire(form, time)),
        (Some(form), Some(time), TtlOption::Expire(same, _)) if same == form => Ok(TtlOption::Expire(form, time)),
        _ => Err(Stop::error(errors::SYNTAX)),
    }
}

/// The deadline that an option of SET or GETEX sets. It must be positive, and fit.
pub(crate) fn deadline_ms(
    evaluation: &Evaluation<'_>,
    spec: &CommandSpec,
    form: TimeForm,
    time: &[u8],
) -> Result<u64, Stop> {
    let time = parse_i64(time).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))?;
    let in_ms = |time: i64| if form.seconds { time.checked_mul(1000) } else { Some(time) };
    let from_epoch = |ms: i64| if form.absolute { Some(ms) } else { ms.checked_add_unsigned(evaluation.time_ms()) };
    Some(time)
        .filter(|time| *time > 0)
        .and_then(in_ms)
        .and_then(from_epoch)
        .and_then(|ms| u64::try_from(ms).ok())
        .ok_or_else(|| Stop::Reply(invalid_expire_time(spec)))
}

/// A time that is out of range.
pub(crate) fn invalid_expire_time(spec: &CommandSpec) -> Reply {
    Reply::error(format!("ERR invalid expire time in '{}' command", spec.full_name))
}
