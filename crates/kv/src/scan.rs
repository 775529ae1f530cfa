//! Commands that walk keys in order: SCAN, KEYS, KV.RANGE.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use dstore_resp::{Reply, glob_matches};
use dstore_storage::Direction;
use dstore_storage::layout::{Head, Kind, key};

use crate::context::{Limits, errors};
use crate::evaluation::{Command, Evaluation, ReplyRoom, Stop};
use crate::number::parse_i64;
use crate::value::{Record, behind, head_key};
use crate::view::{View, ViewError};
use crate::{glob, position};

/// One key that a walk comes by.
pub(crate) struct Entry<'a> {
    pub(crate) user_key: Vec<u8>,
    pub(crate) head: Head,
    data_key: &'a [u8],
    stored: &'a [u8],
}

impl Entry<'_> {
    fn value_len(&self) -> usize {
        let whole = self.stored.len() - self.head.encoded_len();
        self.head.chunked.map_or(whole, |chunked| chunked.len as usize)
    }

    fn value(&self, view: &dyn View) -> Result<Bytes, ViewError> {
        if self.head.chunked.is_none() {
            return Ok(Bytes::copy_from_slice(&self.stored[self.head.encoded_len()..]));
        }
        Record::new(self.head, Bytes::copy_from_slice(self.stored), self.data_key).into_value(view)
    }
}

/// Visits the head records in `span`, those of expired keys too, until `visit` breaks or fails. Sub-records are leapt
/// over, one look-up for all those of a key. There is an end to it.
pub(crate) fn walk(
    evaluation: &Evaluation<'_>,
    span: Range<&[u8]>,
    direction: Direction,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<ControlFlow<()>, Stop>,
) -> Result<(), Stop> {
    let mut keys_left = evaluation.context.limits.walk_keys_max;
    let (mut start, mut end) = (span.start.to_vec(), span.end.to_vec());
    while start < end {
        let mut ended: Result<Leap, Stop> = Ok(Leap::End);
        evaluation.view.scan(&start..&end, direction, &mut |data_key, stored| {
            let step = take_key(&mut keys_left).and_then(|()| visit_record(data_key, stored, direction, visit));
            match step {
                Ok(Leap::No) => ControlFlow::Continue(()),
                other => {
                    ended = other;
                    ControlFlow::Break(())
                }
            }
        })?;
        match (ended?, direction) {
            (Leap::No | Leap::End, _) => return Ok(()),
            (Leap::Over(head_key), Direction::Forward) => start = behind(&head_key),
            // The head stands in front of its sub-records, and is next.
            (Leap::Over(mut head_key), Direction::Backward) => {
                head_key.push(0);
                end = head_key;
            }
        }
    }
    Ok(())
}

/// Where a walk goes on.
enum Leap {
    /// At the next record.
    No,
    /// Nowhere.
    End,
    /// Beyond the sub-records of this head.
    Over(Vec<u8>),
}

fn take_key(keys_left: &mut u64) -> Result<(), Stop> {
    *keys_left = keys_left.checked_sub(1).ok_or_else(|| Stop::error(errors::WALK_TOO_LONG))?;
    Ok(())
}

fn visit_record(
    data_key: &[u8],
    stored: &[u8],
    direction: Direction,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<ControlFlow<()>, Stop>,
) -> Result<Leap, Stop> {
    let decoded = key::decode(data_key).map_err(|error| ViewError::corrupt(data_key, error))?;
    if !decoded.sub.is_empty() {
        return Ok(Leap::Over(head_key(data_key, decoded.sub).to_vec()));
    }
    let head = Head::decode(stored).map_err(|error| ViewError::corrupt(data_key, error))?;
    if visit(Entry { user_key: decoded.key, head, data_key, stored })?.is_break() {
        return Ok(Leap::End);
    }
    let has_more = head.generation.is_some() && direction == Direction::Forward;
    Ok(if has_more { Leap::Over(data_key.to_vec()) } else { Leap::No })
}

/// The user key of the first record in a span, whatever record that is.
pub(crate) fn first_user_key(
    view: &dyn View,
    span: Range<&[u8]>,
    direction: Direction,
) -> Result<Option<Vec<u8>>, ViewError> {
    let mut found = None;
    view.scan(span, direction, &mut |data_key, _| {
        found =
            Some(key::decode(data_key).map(|decoded| decoded.key).map_err(|error| ViewError::corrupt(data_key, error)));
        ControlFlow::Break(())
    })?;
    found.transpose()
}

/// Where all keys are that can match a pattern: a pattern that begins literally needs only its own corner.
fn pattern_span(db: u8, pattern: &[u8]) -> Range<Vec<u8>> {
    let start = key::encode_prefix(db, glob::literal_prefix(pattern));
    let end = key::prefix_successor(&start).expect("tag 0x03 has a successor");
    start..end
}

fn check_pattern(limits: &Limits, pattern: &[u8]) -> Result<(), Stop> {
    if pattern.len() > limits.pattern_bytes_max {
        return Err(Stop::error(errors::PATTERN_TOO_LONG));
    }
    Ok(())
}

/// Redis takes a lone star for all keys, the empty one too, which as a pattern it would not match.
fn pattern_matches(pattern: &[u8], user_key: &[u8]) -> bool {
    pattern == b"*" || glob_matches(pattern, user_key)
}

/// `KEYS pattern`, in key order.
pub(crate) fn keys(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    Listing::of_keys(evaluation.context.db, command.args, evaluation.context.limits)?.at_once(evaluation)
}

/// What is done of a listing, or of another long read, before others have their turn.
#[derive(Clone, Copy)]
pub(crate) struct Portion {
    /// Keys to look at.
    pub(crate) keys: u64,
    /// Bytes of reply beyond which it ends early.
    pub(crate) bytes: usize,
}

impl Portion {
    pub(crate) const ALL: Portion = Portion { keys: u64::MAX, bytes: usize::MAX };
}

/// Keys that are walked over in one go, as in a MULTI: nobody else is served meanwhile.
const AT_ONCE_KEYS_MAX: u64 = 100_000;

/// KEYS or KV.RANGE under way: a walk that can be interrupted between any two keys.
pub(crate) struct Listing {
    /// What is still to be walked over.
    span: Range<Vec<u8>>,
    direction: Direction,
    pattern: Option<Bytes>,
    with_values: bool,
    /// Entries still wanted.
    left: u64,
    /// Keys that may still be looked at.
    looks_left: u64,
    room: ReplyRoom,
    found: Vec<Reply>,
}

impl Listing {
    pub(crate) fn of_keys(db: u8, args: &[Bytes], limits: &Limits) -> Result<Listing, Stop> {
        let pattern = &args[1];
        check_pattern(limits, pattern)?;
        Ok(Listing {
            span: pattern_span(db, pattern),
            direction: Direction::Forward,
            pattern: Some(pattern.clone()),
            with_values: false,
            left: u64::MAX,
            looks_left: limits.walk_keys_max,
            room: ReplyRoom::new(limits),
            found: Vec::new(),
        })
    }

    pub(crate) fn of_range(db: u8, args: &[Bytes], limits: &Limits) -> Result<Listing, Stop> {
        let options = RangeOptions::parse(&args[3..])?;
        let start = key::encode_prefix(db, &args[1]);
        let end = match &args[2] {
            none if none.is_empty() => key::db_span(db).end,
            end => key::encode_prefix(db, end),
        };
        Ok(Listing {
            span: start..end,
            direction: if options.reverse { Direction::Backward } else { Direction::Forward },
            pattern: None,
            with_values: !options.keys_only,
            left: options.limit.unwrap_or(u64::MAX),
            looks_left: limits.walk_keys_max,
            room: ReplyRoom::new(limits),
            found: Vec::new(),
        })
    }

    /// Entries still wanted.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// All of it in one go, if it is not so long that others must be served in between.
    fn at_once(mut self, evaluation: &Evaluation<'_>) -> Result<Reply, Stop> {
        self.looks_left = self.looks_left.min(AT_ONCE_KEYS_MAX);
        self.go_on(evaluation, Portion::ALL)?;
        Ok(Reply::Array(self.found))
    }

    /// Walks on. True at the end.
    pub(crate) fn go_on(&mut self, evaluation: &Evaluation<'_>, portion: Portion) -> Result<bool, Stop> {
        let Listing { span, direction, pattern, with_values, left, looks_left, room, found } = self;
        let (mut looked, bytes_before) = (0, room.bytes_left());
        let mut interrupted_at = None;
        if *left == 0 || span.start >= span.end {
            return Ok(true);
        }
        walk(evaluation, &span.start..&span.end, *direction, &mut |entry| {
            if looked == portion.keys || bytes_before - room.bytes_left() > portion.bytes {
                interrupted_at = Some(entry.data_key.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            looked += 1;
            take_key(looks_left)?;
            let matches = pattern.as_ref().is_none_or(|pattern| pattern_matches(pattern, &entry.user_key));
            if !matches || !evaluation.is_live(&entry.head)? {
                return Ok(ControlFlow::Continue(()));
            }
            room.take(entry.user_key.len())?;
            let mut value = None;
            if *with_values {
                room.take(entry.value_len())?;
                value = Some(Reply::Bulk(entry.value(evaluation.view)?));
            }
            found.push(Reply::Bulk(Bytes::from(entry.user_key)));
            found.extend(value);
            *left -= 1;
            Ok(if *left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        match (interrupted_at, *direction) {
            (None, _) => return Ok(true),
            (Some(at), Direction::Forward) => span.start = at,
            (Some(mut at), Direction::Backward) => {
                at.push(0);
                span.end = at;
            }
        }
        Ok(false)
    }

    /// What was found since this was last asked.
    pub(crate) fn take_found(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.found)
    }
}

/// The options of SCAN.
struct ScanOptions<'a> {
    pattern: &'a [u8],
    /// How many keys to look at.
    count: u64,
    /// Only keys of this type; the inner none is a type that no key has.
    kind: Option<Option<Kind>>,
}

impl<'a> ScanOptions<'a> {
    fn parse(args: &'a [Bytes]) -> Result<ScanOptions<'a>, Stop> {
        let mut options = ScanOptions { pattern: b"*", count: 10, kind: None };
        for pair in args.chunks(2) {
            let [option, value] = pair else {
                return Err(Stop::error(errors::SYNTAX));
            };
            match option.to_ascii_uppercase().as_slice() {
                b"MATCH" => options.pattern = value,
                b"COUNT" => {
                    let count = parse_i64(value).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))?;
                    options.count = u64::try_from(count)
                        .ok()
                        .filter(|count| *count > 0)
                        .ok_or_else(|| Stop::error(errors::SYNTAX))?;
                }
                b"TYPE" => {
                    let is_string = value.eq_ignore_ascii_case(Kind::String.name().as_bytes());
                    options.kind = Some(is_string.then_some(Kind::String));
                }
                _ => return Err(Stop::error(errors::SYNTAX)),
            }
        }
        Ok(options)
    }
}

/// Keys that a SCAN looks at beyond its COUNT in order to end where a cursor can say where that is.
const EXTRA_KEYS_MAX: u64 = 1_000;

/// `SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]`, in key order.
pub(crate) fn scan(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let cursor = parse_cursor(&command.args[1]).ok_or_else(|| Stop::error("ERR invalid cursor"))?;
    let options = ScanOptions::parse(&command.args[2..])?;
    check_pattern(evaluation.context.limits, options.pattern)?;
    let db = evaluation.context.db;
    let span = pattern_span(db, options.pattern);
    let start = match position::decode(evaluation.view, db, cursor)? {
        Some(prefix) => Some(key::encode_prefix(db, &prefix)),
        None => evaluation.context.cursors.position(db, cursor).map(|position| position.to_vec()),
    };
    let start = start.map_or(span.start.clone(), |start| start.max(span.start));
    let mut batch = Batch {
        options: &options,
        room: ReplyRoom::new(evaluation.context.limits),
        found: Vec::new(),
        last: Vec::new(),
    };
    let count = options.count.min(evaluation.context.limits.scan_count_max);
    let next = match batch.fill(evaluation, start..span.end.clone(), count, b"")? {
        None => {
            evaluation.context.cursors.finish(cursor);
            0
        }
        Some(next) => next_cursor(evaluation, &mut batch, cursor, next, span.end)?,
    };
    let found = Reply::Array(batch.found);
    Ok(Reply::Array(vec![Reply::Bulk(Bytes::from(next.to_string())), found]))
}

/// The cursor of a scan that goes on at the key `next`. If a cursor can only say that it is among keys like those at the end
/// of the batch, the others of them are added to the batch; if they are too many, the node must remember.
fn next_cursor(
    evaluation: &mut Evaluation<'_>,
    batch: &mut Batch<'_>,
    cursor: u64,
    next: Vec<u8>,
    end: Vec<u8>,
) -> Result<u64, Stop> {
    let db = evaluation.context.db;
    let anchor = position::encode(evaluation.view, db, &next)?;
    if !batch.last.starts_with(&anchor.prefix) {
        return Ok(anchor.cursor);
    }
    let start = key::encode(db, &next).to_vec();
    match batch.fill(evaluation, start..end, EXTRA_KEYS_MAX, &anchor.prefix)? {
        None => {
            evaluation.context.cursors.finish(cursor);
            Ok(0)
        }
        Some(next) if next.starts_with(&anchor.prefix) => {
            Ok(evaluation.context.cursors.advance(db, cursor, key::encode(db, &next)))
        }
        Some(next) => Ok(position::encode(evaluation.view, db, &next)?.cursor),
    }
}

/// What one SCAN gives.
struct Batch<'a> {
    options: &'a ScanOptions<'a>,
    room: ReplyRoom,
    found: Vec<Reply>,
    /// The last key that was looked at.
    last: Vec<u8>,
}

impl Batch<'_> {
    /// Looks at up to `count` keys with this prefix. Gives the key where the scan goes on, if there is one.
    fn fill(
        &mut self,
        evaluation: &Evaluation<'_>,
        span: Range<Vec<u8>>,
        count: u64,
        prefix: &[u8],
    ) -> Result<Option<Vec<u8>>, Stop> {
        let mut looked_at = 0;
        let mut next = None;
        walk(evaluation, &span.start..&span.end, Direction::Forward, &mut |entry| {
            if looked_at == count || !entry.user_key.starts_with(prefix) {
                next = Some(entry.user_key);
                return Ok(ControlFlow::Break(()));
            }
            looked_at += 1;
            let ScanOptions { pattern, kind, .. } = self.options;
            let wanted = kind.is_none_or(|kind| kind == Some(entry.head.kind));
            if wanted && pattern_matches(pattern, &entry.user_key) && evaluation.is_live(&entry.head)? {
                self.room.take(entry.user_key.len())?;
                self.found.push(Reply::Bulk(Bytes::copy_from_slice(&entry.user_key)));
            }
            self.last = entry.user_key;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(next)
    }
}

/// Reads a cursor as C's `strtoul` does, which Redis uses: a sign is allowed, a negative number wraps around, nothing
/// at all is 0, and a NUL ends the text. No space.
fn parse_cursor(text: &[u8]) -> Option<u64> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or(text);
    if text.is_empty() {
        return Some(0);
    }
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut cursor: u64 = 0;
    for digit in digits {
        let value = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        cursor = cursor.checked_mul(10)?.checked_add(value)?;
    }
    Some(if negative { cursor.wrapping_neg() } else { cursor })
}

/// The options of KV.RANGE.
#[derive(Default)]
struct RangeOptions {
    limit: Option<u64>,
    reverse: bool,
    keys_only: bool,
}

impl RangeOptions {
    fn parse(args: &[Bytes]) -> Result<RangeOptions, Stop> {
        let mut options = RangeOptions::default();
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"REVERSE" => options.reverse = true,
                b"KEYSONLY" => options.keys_only = true,
                b"LIMIT" => {
                    let limit = rest.next().ok_or_else(|| Stop::error(errors::SYNTAX))?;
                    let limit = parse_i64(limit).and_then(|limit| u64::try_from(limit).ok());
                    options.limit = Some(limit.ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))?);
                }
                _ => return Err(Stop::error(errors::SYNTAX)),
            }
        }
        Ok(options)
    }
}

/// `KV.RANGE start end [LIMIT n] [REVERSE] [KEYSONLY]`: keys and values from `start` up to but not including `end`,
/// which may be empty for "no end"; key, value, key, value, ...
pub(crate) fn range(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    Listing::of_range(evaluation.context.db, command.args, evaluation.context.limits)?.at_once(evaluation)
}

#[cfg(test)]
mod tests {
    use super::parse_cursor;

    #[test]
    fn cursors_are_read_as_strtoul_reads_them() {
        assert_eq!(parse_cursor(b""), Some(0));
        assert_eq!(parse_cursor(b"007"), Some(7));
        assert_eq!(parse_cursor(b"+7"), Some(7));
        assert_eq!(parse_cursor(b"7\0x"), Some(7));
        assert_eq!(parse_cursor(b"-1"), Some(u64::MAX));
        assert_eq!(parse_cursor(b"18446744073709551615"), Some(u64::MAX));
        for bad in ["18446744073709551616", "-", "+", "x", "1x", " 1", "1 ", "--1"] {
            assert_eq!(parse_cursor(bad.as_bytes()), None, "{bad}");
        }
    }
}
