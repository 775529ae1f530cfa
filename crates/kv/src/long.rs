//! [`LongRead`]: reads that may take long, done in portions, so that whoever evaluates can serve others in between: KEYS,
//! KV.RANGE, LCS, and MGET, EXISTS and TOUCH of many keys.
//!
//! A long array is encoded as it grows: what is left at its end does not depend on how many items it has.
//!
//! All portions must be given the same data, the same applied stamp and the same clock; the outcome is then that of
//! [`evaluate`](crate::evaluate) at the beginning. It is not worth it where a command must be evaluated in the log's order:
//! nothing can come in between there.

use bytes::Bytes;
use dstore_resp::{ArrayEncoder, CommandId, CommandSpec, ProtocolVersion, Reply};

use crate::context::{Context, Limits, Outcome};
use crate::evaluation::{Evaluation, ReplyRoom, Stop, run};
use crate::lcs::Comparison;
use crate::scan::{Listing, Portion};
use crate::strings::value_of;
use crate::view::{View, ViewError};

/// A portion takes about a millisecond: a walk passes a key in a microsecond, a look-up in an engine on disk takes ten.
const LISTED: Portion = Portion { keys: 1_000, bytes: 256 << 10 };
const LOOKED_UP: Portion = Portion { keys: 100, bytes: 256 << 10 };
/// Cells of the table of LCS.
const COMPARED: usize = 200_000;

/// Keys beyond which a listing counts as a walk over everything.
const WALK_KEYS_MIN: u64 = 10_000;

/// Keys up to which a command is evaluated at once.
const SHORT_KEYS_MAX: usize = 500;

/// A read under way. Its module says how.
pub struct LongRead {
    work: Work,
}

enum Work {
    List {
        listing: Listing,
        found: ArrayEncoder,
    },
    Values {
        args: Vec<Bytes>,
        at: usize,
        room: ReplyRoom,
        found: ArrayEncoder,
    },
    Count {
        args: Vec<Bytes>,
        at: usize,
        there: i64,
    },
    Compare {
        args: Vec<Bytes>,
        comparison: Option<Comparison>,
    },
    /// The reply was taken.
    Ended,
}

impl LongRead {
    /// Whether a request may take long.
    pub fn is_one(spec: &CommandSpec, args: &[Bytes]) -> bool {
        match spec.id {
            CommandId::Keys | CommandId::KvRange | CommandId::Lcs => true,
            CommandId::MGet | CommandId::Exists | CommandId::Touch => args.len() > SHORT_KEYS_MAX,
            _ => false,
        }
    }

    /// Whether it may walk over all the data there is, which it does not pay to keep in a cache.
    pub fn walks(&self) -> bool {
        matches!(&self.work, Work::List { listing, .. } if listing.left() > WALK_KEYS_MIN)
    }

    /// Begins, if the request is one of these and nothing is wrong with it. The reply may be encoded already, in this
    /// version.
    pub fn begin(
        db: u8,
        spec: &CommandSpec,
        args: &[Bytes],
        version: ProtocolVersion,
        limits: &Limits,
    ) -> Option<LongRead> {
        if !LongRead::is_one(spec, args) || !spec.arity_allows(args.len()) {
            return None;
        }
        let found = ArrayEncoder::new(version);
        let work = match spec.id {
            CommandId::Keys => Work::List { listing: Listing::of_keys(db, args, limits).ok()?, found },
            CommandId::KvRange => Work::List { listing: Listing::of_range(db, args, limits).ok()?, found },
            CommandId::MGet => Work::Values { args: args.to_vec(), at: 1, room: ReplyRoom::new(limits), found },
            CommandId::Lcs => Work::Compare { args: args.to_vec(), comparison: None },
            _ => Work::Count { args: args.to_vec(), at: 1, there: 0 },
        };
        Some(LongRead { work })
    }

    /// Does a portion of the work. The outcome comes with the last.
    ///
    /// # Errors
    /// If the view fails.
    pub fn go_on<'a>(&mut self, view: &'a dyn View, context: Context<'a>) -> Result<Option<Outcome>, ViewError> {
        let mut ended = false;
        let outcome = run(view, context, |evaluation| {
            ended = self.portion(evaluation)?;
            Ok(if ended { self.reply() } else { Reply::Null })
        })?;
        let stopped = outcome.needs_time || matches!(outcome.reply, Reply::Error(_));
        Ok((ended || stopped).then_some(outcome))
    }

    fn portion(&mut self, evaluation: &Evaluation<'_>) -> Result<bool, Stop> {
        match &mut self.work {
            Work::List { listing, found } => {
                let ended = listing.go_on(evaluation, LISTED)?;
                listing.take_found().iter().for_each(|item| found.push(item));
                Ok(ended)
            }
            Work::Values { args, at, room, found } => {
                let before = room.bytes_left();
                for _ in 0..LOOKED_UP.keys {
                    let Some(key) = args.get(*at) else { return Ok(true) };
                    found.push(&value_of(evaluation, key, room)?);
                    *at += 1;
                    if before - room.bytes_left() > LOOKED_UP.bytes {
                        break;
                    }
                }
                Ok(*at == args.len())
            }
            Work::Count { args, at, there } => {
                for _ in 0..LOOKED_UP.keys {
                    let Some(key) = args.get(*at) else { return Ok(true) };
                    *there += i64::from(evaluation.read(key)?.is_some());
                    *at += 1;
                }
                Ok(*at == args.len())
            }
            Work::Compare { args, comparison } => {
                let comparison = match comparison {
                    Some(comparison) => comparison,
                    None => comparison.insert(Comparison::begin(evaluation, args)?),
                };
                Ok(comparison.go_on(COMPARED))
            }
            Work::Ended => Ok(true),
        }
    }

    fn reply(&mut self) -> Reply {
        match std::mem::replace(&mut self.work, Work::Ended) {
            Work::List { found, .. } | Work::Values { found, .. } => found.finish(),
            Work::Count { there, .. } => Reply::Integer(there),
            Work::Compare { comparison, .. } => comparison.map_or(Reply::Null, |comparison| comparison.reply()),
            Work::Ended => Reply::Null,
        }
    }
}
