//! RANDOMKEY.
//!
//! Keys are in order and nothing knows the n-th of many, so a large database is walked down by guesses. Up to
//! [`COUNTED_KEYS_MAX`] keys the choice is exactly uniform. Beyond, one byte after the other is drawn between those of the
//! first and of the last key that are left, until a byte leaves one key or none; one of the keys from there on is drawn. So
//! every key has its chance, those in thinly populated corners more of one.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use dstore_resp::Reply;
use dstore_storage::Direction;
use dstore_storage::layout::key;

use crate::evaluation::{Command, Evaluation, Stop};
use crate::scan::{first_user_key, walk};

/// A database of so many keys is looked through whole.
const COUNTED_KEYS_MAX: u64 = 512;

/// Keys from the drawn position on, among which one is drawn.
const WINDOW_KEYS: usize = 32;

/// Bytes that are drawn for a position. More would only choose among keys that are hardly different.
const DRAWN_BYTES_MAX: usize = 24;

/// How often to look elsewhere when a window holds nothing but expired keys.
const TRIES: usize = 16;

/// `RANDOMKEY`
pub(crate) fn randomkey(evaluation: &mut Evaluation<'_>, _: Command<'_>) -> Result<Reply, Stop> {
    let span = key::db_span(evaluation.context.db);
    let count = evaluation.count()?;
    if count <= COUNTED_KEYS_MAX {
        return pick(evaluation, span, COUNTED_KEYS_MAX as usize);
    }
    for _ in 0..TRIES {
        let start = draw_position(evaluation, span.clone())?;
        let found = pick(evaluation, start..span.end.clone(), WINDOW_KEYS)?;
        if found != Reply::Null {
            return Ok(found);
        }
    }
    // Nearly everything has expired: the first key that has not.
    let mut found = Reply::Null;
    walk(evaluation, &span.start..&span.end, Direction::Forward, &mut |entry| {
        if !evaluation.is_live(&entry.head)? {
            return Ok(ControlFlow::Continue(()));
        }
        found = Reply::Bulk(Bytes::from(entry.user_key));
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// One of the first `window` keys in a span, each as likely as the others; nothing if none of them is there.
fn pick(evaluation: &mut Evaluation<'_>, span: Range<Vec<u8>>, window: usize) -> Result<Reply, Stop> {
    let mut left = window;
    let mut keys = Vec::new();
    walk(evaluation, &span.start..&span.end, Direction::Forward, &mut |entry| {
        if evaluation.is_live(&entry.head)? {
            keys.push(entry.user_key);
        }
        left -= 1;
        Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if keys.is_empty() {
        return Ok(Reply::Null);
    }
    let chosen = below(evaluation, keys.len() as u64) as usize;
    Ok(Reply::Bulk(Bytes::from(keys.swap_remove(chosen))))
}

/// A position among the keys of a database.
fn draw_position(evaluation: &mut Evaluation<'_>, span: Range<Vec<u8>>) -> Result<Vec<u8>, Stop> {
    let db = evaluation.context.db;
    let ends = |start: &[u8], end: &[u8]| {
        let first = first_user_key(evaluation.view, start..end, Direction::Forward)?;
        let last = first_user_key(evaluation.view, start..end, Direction::Backward)?;
        Ok::<_, Stop>(first.zip(last))
    };
    let Some((mut first, mut last)) = ends(&span.start, &span.end)? else {
        return Ok(span.start);
    };
    for _ in 0..DRAWN_BYTES_MAX {
        let shared = first.iter().zip(&last).take_while(|(a, b)| a == b).count();
        let (low, high) = (first.get(shared).copied(), last.get(shared).copied());
        let Some(high) = high else {
            // One key is left.
            return Ok(key::encode_prefix(db, &first));
        };
        let low = low.unwrap_or(0);
        let byte = low + below(evaluation, u64::from(high - low) + 1) as u8;
        first.truncate(shared);
        first.push(byte);
        let start = key::encode_prefix(db, &first);
        let end = key::prefix_successor(&start).expect("tag 0x03 has a successor");
        let corner = (
            first_user_key(evaluation.view, &start..&end, Direction::Forward)?,
            first_user_key(evaluation.view, &start..&end, Direction::Backward)?,
        );
        match corner {
            (Some(corner_first), Some(corner_last)) => (first, last) = (corner_first, corner_last),
            _ => return Ok(start),
        }
    }
    Ok(key::encode_prefix(db, &first))
}

/// A number below `bound`.
fn below(evaluation: &mut Evaluation<'_>, bound: u64) -> u64 {
    // The product's upper half: as uniform as 64 bits are.
    ((u128::from(evaluation.context.cursors.draw()) * u128::from(bound)) >> 64) as u64
}
