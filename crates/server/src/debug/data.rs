//! `dstore debug data`: who a data directory belongs to, and what its data holds.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use dstore_node::offline::{NodeInfo, RANGES, RangeState};
use dstore_node::{USER_RANGE, spans_of};
use dstore_storage::layout::{chunk, key, local};
use dstore_storage::snapshot::{Checksum, SpanSum, Spans};
use dstore_storage::{Bytes, Direction, Reader};
use dstore_storage_rocksdb::{RocksOptions, RocksView};

use super::page::Page;
use super::{Directory, describe};
use crate::data_dir::{DataDir, Look};
use crate::identity::{FORMAT, Standing, node_text};

/// Memory for looking; a scan needs little.
const MEMORY_BYTES: usize = 64 << 20;

/// Bytes that are summed between two looks at nothing in particular.
const CHECKSUM_STEP_BYTES: usize = 8 << 20;

/// Databases that are looked at.
const DATABASES: u8 = 16;

/// What of the data to print.
#[derive(Args)]
pub struct DataOptions {
    #[command(flatten)]
    directory: Directory,

    /// The checksum of all that each range replicates, to compare with that of another replica
    #[arg(long)]
    checksum: bool,

    /// Keys with their values, abbreviated; those that begin with the prefix
    #[arg(long, value_name = "PREFIX", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    keys: Option<String>,

    /// Keys of this database alone
    #[arg(long, value_name = "N")]
    db: Option<u8>,

    /// No more keys than this of each database
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

/// The data of a node that is down.
///
/// # Errors
///
/// It cannot be opened.
pub fn open(look: &Look) -> anyhow::Result<RocksView> {
    let options = RocksOptions { memory_bytes: MEMORY_BYTES, ..RocksOptions::default() };
    Ok(RocksView::open(&look.engine_dir(), &options)?)
}

impl DataOptions {
    pub(super) fn print(&self, page: &mut Page) -> anyhow::Result<ExitCode> {
        let look = DataDir::look(&self.directory.dir)?;
        let is_whole = print_identity(page, &look)?;
        let view = open(&look)?;
        let (files, bytes) = view.files();
        writeln!(page, "data         {files} table files, {bytes} bytes")?;
        for range in RANGES {
            let state = RangeState::read(&view, range)?;
            if state.members.is_none() {
                writeln!(page, "{}: nothing was flushed yet", describe::range(range))?;
                continue;
            }
            let (position, stamp) = (state.applied.position, describe::stamp(state.applied.stamp));
            let members = state.members.map_or("no members".to_owned(), |members| describe::members(&members));
            writeln!(page, "{}: applied {position}, {stamp}; {members}", describe::range(range))?;
        }
        for info in NodeInfo::all(&view)? {
            writeln!(page, "node {}  {}", describe::node(info.node), describe::node_info(&info))?;
        }
        print_counts(page, &view)?;
        if self.checksum {
            print_checksums(page, &view)?;
        }
        if let Some(prefix) = &self.keys {
            for db in (0..DATABASES).filter(|db| self.db.is_none_or(|wanted| wanted == *db)) {
                self.print_keys(page, &view, db, prefix.as_bytes())?;
            }
        }
        Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn print_keys(&self, page: &mut Page, view: &RocksView, db: u8, prefix: &[u8]) -> anyhow::Result<()> {
        let start = key::encode_prefix(db, prefix);
        let end = key::prefix_successor(&start).unwrap_or_else(|| key::db_span(db).end);
        let mut cursor = view.scan(&start..&end, Direction::Forward)?;
        let mut printed = 0;
        while let Some((at, bytes)) = cursor.entry() {
            let is_chunk = key::decode(at).is_ok_and(|user| chunk::decode(user.sub).is_some());
            if !is_chunk {
                if printed == self.limit {
                    writeln!(page, "db{db}: there is more; --limit {} shows it", self.limit.saturating_mul(10))?;
                    return Ok(());
                }
                let value = describe::value(at, &Bytes::copy_from_slice(bytes), describe::SHORT_BYTES);
                writeln!(page, "{} = {value}", describe::key(at))?;
                printed += 1;
            }
            cursor.advance()?;
        }
        Ok(())
    }
}

/// Says whose directory it is. False if something there is damaged.
fn print_identity(page: &mut Page, look: &Look) -> anyhow::Result<bool> {
    writeln!(page, "directory    {}", look.path().display())?;
    let start = match look.incarnation() {
        Ok(start) => format!("start {}", start.0),
        Err(error) => format!("starts unknown: {error}"),
    };
    let identity = match look.identity() {
        Ok(Some(identity)) => identity,
        Ok(None) => {
            writeln!(page, "node         none: the directory has no identity yet")?;
            return Ok(false);
        }
        Err(error) => {
            writeln!(page, "node         UNKNOWN: {error}")?;
            return Ok(false);
        }
    };
    writeln!(page, "node         {}, {start}, format {FORMAT}", node_text(identity.node))?;
    let (plan, standing, part) = match &identity.standing {
        Standing::New => {
            writeln!(page, "standing     new: of no cluster yet")?;
            return Ok(look.incarnation().is_ok());
        }
        Standing::Removed(cluster) => {
            writeln!(page, "cluster      {cluster}, removed: a member no more")?;
            return Ok(look.incarnation().is_ok());
        }
        Standing::Planned(plan) => (plan, "planned", "founder"),
        Standing::Member(plan) => (plan, "member", "founder"),
        Standing::Joined(plan) => (plan, "joined", "contact"),
    };
    writeln!(page, "cluster      {}, {standing}", plan.cluster)?;
    for node in &plan.founders {
        let address = if node.address.is_empty() { "nowhere, alone" } else { &node.address };
        writeln!(page, "{part}      {} at {address}", node_text(node.node))?;
    }
    Ok(look.incarnation().is_ok())
}

fn print_counts(page: &mut Page, view: &RocksView) -> anyhow::Result<()> {
    let mut counts = Vec::new();
    for db in 0..DATABASES {
        let count = view.get(&local::count_key(USER_RANGE, db))?.and_then(|stored| local::decode_count(&stored));
        if let Some(count) = count.filter(|count| *count > 0) {
            counts.push(format!("db{db} {count}"));
        }
    }
    writeln!(page, "keys         {}", if counts.is_empty() { "none".to_owned() } else { counts.join(", ") })?;
    Ok(())
}

/// The sums of all that each range replicates, which are alike where the same entry is applied; and that of the keys alone,
/// which stays alike through entries that change no key.
fn print_checksums(page: &mut Page, view: &RocksView) -> anyhow::Result<()> {
    for range in RANGES {
        let sum = sum(view, spans_of(range))?;
        let applied = RangeState::read(view, range)?.applied.position;
        writeln!(page, "checksum     range {range} at {applied}: {sum}")?;
    }
    let keys = key::user_span();
    let keys = Spans::new(vec![Bytes::from(keys.start)..Bytes::from(keys.end)])?;
    writeln!(page, "checksum     keys: {}", sum(view, keys)?)?;
    Ok(())
}

fn sum(view: &RocksView, spans: Spans) -> anyhow::Result<SpanSum> {
    let mut checksum = Checksum::of(Box::new(view.clone()), spans);
    loop {
        if let Some(sum) = checksum.step(CHECKSUM_STEP_BYTES)? {
            return Ok(sum);
        }
    }
}
