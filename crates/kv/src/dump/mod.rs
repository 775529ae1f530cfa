//! DUMP and RESTORE: values in the form in which Redis moves them between servers.
//!
//! ```text
//! type (u8) | value as in an RDB file | RDB version (u16 LE) | CRC64 of all before (u64 LE)
//! ```
//!
//! DUMP writes version 10, that of Redis 7.0, which this and every later Redis restores. RESTORE takes what any Redis up to
//! 7.0 has dumped, of strings.

mod crc64;
mod rdb;

use bytes::Bytes;
use dstore_resp::Reply;

use crate::context::errors;
use crate::evaluation::{Command, Evaluation, Stop};
use crate::number::parse_i64;

/// The RDB version of Redis 7.0.
const VERSION: u16 = 10;

/// Version and checksum.
const FOOTER_BYTES: usize = 10;

const BAD_PAYLOAD: &str = "ERR DUMP payload version or checksum are wrong";
const BAD_FORMAT: &str = "ERR Bad data format";
const OTHER_TYPE: &str = "ERR DUMP payload holds a collection, and strings are the only type here yet";

/// `DUMP key`
pub(crate) fn dump(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let Some(record) = evaluation.read(&command.args[1])? else {
        return Ok(Reply::Null);
    };
    let mut payload = rdb::encode_string(&record.into_value(evaluation.view)?);
    payload.extend_from_slice(&VERSION.to_le_bytes());
    let checksum = crc64::checksum(&payload);
    payload.extend_from_slice(&checksum.to_le_bytes());
    Ok(Reply::Bulk(Bytes::from(payload)))
}

/// `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME s] [FREQ f]`
pub(crate) fn restore(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let options = Options::parse(&command.args[4..])?;
    let slot = evaluation.open(&command.args[1])?;
    if slot.live().is_some() && !options.replace {
        return Err(Stop::error("BUSYKEY Target key name already exists."));
    }
    let ttl = parse_i64(&command.args[2]).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))?;
    if ttl < 0 {
        return Err(Stop::error("ERR Invalid TTL value, must be >= 0"));
    }
    let value = decode(&command.args[3], evaluation.context.limits.value_bytes_max)?;
    if ttl == 0 {
        evaluation.put(slot, &value, None)?;
        return Ok(Reply::OK);
    }
    let now_ms = evaluation.time_ms();
    // A time to live that reaches beyond all time wraps around in Redis, and so is over.
    let deadline_ms = if options.absolute { ttl } else { ttl.checked_add_unsigned(now_ms).unwrap_or(0) };
    match u64::try_from(deadline_ms) {
        Ok(deadline_ms) if deadline_ms > now_ms => {
            evaluation.put(slot, &value, Some(deadline_ms))?;
        }
        _ if slot.live().is_some() => evaluation.remove(slot),
        _ => {}
    }
    Ok(Reply::OK)
}

/// The string in a payload.
fn decode(payload: &[u8], value_bytes_max: usize) -> Result<Vec<u8>, Stop> {
    let bad = || Stop::error(BAD_PAYLOAD);
    let at = payload.len().checked_sub(FOOTER_BYTES).ok_or_else(bad)?;
    let (body, footer) = payload.split_at(at);
    let (version, checksum) = footer.split_first_chunk::<2>().ok_or_else(bad)?;
    if u16::from_le_bytes(*version) > VERSION || crc64::checksum(&payload[..at + 2]).to_le_bytes() != checksum {
        return Err(bad());
    }
    rdb::decode_string(body, value_bytes_max).map_err(|error| {
        Stop::error(match error {
            rdb::RdbError::Malformed => BAD_FORMAT,
            rdb::RdbError::OtherType => OTHER_TYPE,
            rdb::RdbError::TooLong => errors::STRING_TOO_LONG,
        })
    })
}

/// The options of RESTORE. How idle or busy a key was is read, as it must be right, and then dropped: neither is kept here.
#[derive(Default)]
struct Options {
    replace: bool,
    absolute: bool,
}

impl Options {
    fn parse(args: &[Bytes]) -> Result<Options, Stop> {
        let mut options = Options::default();
        let (mut idle, mut frequency) = (false, false);
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"REPLACE" => options.replace = true,
                b"ABSTTL" => options.absolute = true,
                b"IDLETIME" if !frequency => {
                    if number(rest.next())? < 0 {
                        return Err(Stop::error("ERR Invalid IDLETIME value, must be >= 0"));
                    }
                    idle = true;
                }
                b"FREQ" if !idle => {
                    if !(0..=255).contains(&number(rest.next())?) {
                        return Err(Stop::error("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                    }
                    frequency = true;
                }
                _ => return Err(Stop::error(errors::SYNTAX)),
            }
        }
        Ok(options)
    }
}

fn number(text: Option<&Bytes>) -> Result<i64, Stop> {
    let text = text.ok_or_else(|| Stop::error(errors::SYNTAX))?;
    parse_i64(text).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))
}
