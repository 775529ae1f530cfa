//! `dstore debug log`: the files of a log, its ranges, its entries, and what is wrong with it.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use dstore_node::offline::Content;
use dstore_storage::log::inspect::{EntryReport, Inspection, RangeReport, inspect};
use dstore_storage::{LogIndex, RangeId};

use super::page::Page;
use super::{Directory, describe};
use crate::data_dir::DataDir;

/// What of a log to print.
#[derive(Args)]
pub struct LogOptions {
    #[command(flatten)]
    directory: Directory,

    /// Only this range: 0 is the system's, 1 the user's
    #[arg(long, value_name = "N")]
    range: Option<u64>,

    /// Entries from this index on
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,

    /// Entries up to this index
    #[arg(long, value_name = "INDEX", default_value_t = u64::MAX, hide_default_value = true)]
    to: u64,

    /// No more entries than this of each range [default: all]
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    entries: usize,

    /// Every operation of each entry, whole
    #[arg(long)]
    ops: bool,
}

impl LogOptions {
    pub(super) fn print(&self, page: &mut Page) -> anyhow::Result<ExitCode> {
        let look = DataDir::look(&self.directory.dir)?;
        let path = look.log_dir();
        let log = inspect(&path).with_context(|| format!("there is no log in {}", look.path().display()))?;
        print_files(page, &log, &path.display().to_string())?;
        let wanted = |range: &RangeId| self.range.is_none_or(|wanted| wanted == range.0);
        let ranges: Vec<_> = log.ranges.iter().filter(|(range, _)| wanted(range)).collect();
        for (range, report) in &ranges {
            print_range(page, **range, report)?;
        }
        for finding in &log.findings {
            let kind = if finding.is_expected { "note" } else { "DAMAGE" };
            writeln!(page, "{kind}: {} at offset {}: {}", finding.path.display(), finding.offset, finding.what)?;
        }
        match &log.refusal {
            None => writeln!(page, "a node starts on this log")?,
            Some(refusal) => writeln!(page, "A NODE REFUSES TO START ON THIS LOG: {refusal}")?,
        }
        for (range, report) in &ranges {
            self.print_entries(page, &log, **range, report)?;
        }
        Ok(if log.refusal.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn print_entries(
        &self,
        page: &mut Page,
        log: &Inspection,
        range: RangeId,
        report: &RangeReport,
    ) -> anyhow::Result<()> {
        if self.from > self.to || self.entries == 0 {
            return Ok(());
        }
        let entries = report.entries.range(LogIndex(self.from)..=LogIndex(self.to));
        for (at, (index, entry)) in entries.take(self.entries).enumerate() {
            if at == 0 {
                writeln!(page, "\nentries of {}", describe::range(range))?;
                writeln!(page, "{:>10}  {:>6}  {:10} {:>10}  content", "index", "term", "kind", "bytes")?;
            }
            self.print_entry(page, log, (range, *index), entry)?;
        }
        Ok(())
    }

    fn print_entry(
        &self,
        page: &mut Page,
        log: &Inspection,
        (range, index): (RangeId, LogIndex),
        report: &EntryReport,
    ) -> anyhow::Result<()> {
        let content = match log.entry(range, index) {
            Ok(entry) => Content::of(entry.kind, &entry.payload),
            Err(error) => Content::Unreadable(error.to_string()),
        };
        let (name, text) = (content.name(), describe::content(&content));
        let (term, bytes) = (report.term.0, report.payload_bytes);
        let line = format!("{:>10}  {term:>6}  {name:10} {bytes:>10}  {text}", index.0);
        writeln!(page, "{}", line.trim_end())?;
        if let (true, Content::Effects(effects)) = (self.ops, &content) {
            for op in &effects.ops {
                writeln!(page, "{:>12}{}", "", describe::op(op, usize::MAX))?;
            }
        }
        Ok(())
    }
}

fn print_files(page: &mut Page, log: &Inspection, path: &str) -> anyhow::Result<()> {
    let bytes: u64 = log.segments.iter().map(|segment| segment.bytes).sum();
    let (segments, spares) = (log.segments.len(), log.spares.len());
    writeln!(page, "log {path}: {segments} segments of {bytes} bytes together, {spares} spare")?;
    for segment in &log.segments {
        let name = segment.path.file_name().unwrap_or_default().to_string_lossy();
        let (frames, records, end) = (segment.frames, segment.records, segment.end);
        writeln!(page, "segment {name}: {} bytes, {frames} frames with {records} records up to {end}", segment.bytes)?;
    }
    Ok(())
}

fn print_range(page: &mut Page, range: RangeId, report: &RangeReport) -> anyhow::Result<()> {
    let state = report.hard_state;
    let vote = if state.vote == 0 { "nobody".to_owned() } else { describe::node(state.vote) };
    let bytes: u64 = report.entries.values().map(|entry| u64::from(entry.payload_bytes)).sum();
    writeln!(
        page,
        "{}: term {}, voted for {vote}; begins behind {}, ends at {}: {} entries of {bytes} bytes",
        describe::range(range),
        state.term,
        report.begin,
        report.last_position(),
        report.entries.len(),
    )?;
    Ok(())
}
