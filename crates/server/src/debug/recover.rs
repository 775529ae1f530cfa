//! `dstore debug recover`: a node whose cluster lost its majority for good goes on alone. See
//! [`dstore_node::offline::Recovery`] for what is done; here it is said, and done.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::mpsc::channel;

use anyhow::{Context, bail};
use clap::Args;
use dstore_node::offline::{RangeRecovery, Recovery};
use dstore_storage::log::inspect::{Inspection, inspect};
use dstore_storage::{Log, SegmentLog, SegmentOptions};

use super::{Directory, data, describe};
use crate::clock::{now, random_u64};
use crate::console::say;
use crate::data_dir::{DataDir, Look};
use crate::identity::{Standing, node_text};

/// Whether to do it.
#[derive(Args)]
pub struct RecoverOptions {
    #[command(flatten)]
    directory: Directory,

    /// Do it. Acknowledged writes that only the lost nodes had are gone, and the lost nodes must never run again
    #[arg(long)]
    i_know_that_writes_may_be_lost: bool,
}

impl RecoverOptions {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let look = DataDir::look(&self.directory.dir)?;
        let identity = look.identity().map_err(anyhow::Error::msg)?;
        let identity = identity.with_context(|| format!("{} is of no node yet", look.path().display()))?;
        let founders: Vec<u64> = match &identity.standing {
            Standing::Member(plan) => plan.founders.iter().map(|founder| founder.node.0).collect(),
            // It knows the members from its data alone.
            Standing::Joined(_) => Vec::new(),
            Standing::Removed(_) => bail!("node {} was removed from its cluster", node_text(identity.node)),
            Standing::New | Standing::Planned(_) => {
                bail!("node {} is not a member of a cluster yet", node_text(identity.node))
            }
        };
        let log = inspect(&look.log_dir())?;
        if let Some(refusal) = &log.refusal {
            bail!("this log cannot be built on, choose another survivor: {refusal}");
        }
        let view = data::open(&look)?;
        let recovery = Recovery::plan(&view, &log, identity.node.0, &founders, now().wall_ms())?;
        drop(view);
        say(&explain(&recovery, &node_text(identity.node)));
        if recovery.is_done() {
            say("\nNothing to do: this node goes on alone already. Start it.\n");
            return Ok(ExitCode::SUCCESS);
        }
        if !self.i_know_that_writes_may_be_lost {
            let again = format!("dstore debug recover {} --i-know-that-writes-may-be-lost", look.path().display());
            say(&format!("\nNOTHING WAS CHANGED. To do it:\n  {again}\n"));
            return Ok(ExitCode::FAILURE);
        }
        append(&look, &log, recovery)?;
        say("\nDone. Start the node; then let new nodes join it.\n");
        Ok(ExitCode::SUCCESS)
    }
}

/// What will be, or would be.
fn explain(recovery: &Recovery, me: &str) -> String {
    let mut text = format!("node {me} goes on alone\n");
    for found in &recovery.ranges {
        let RangeRecovery { range, term, applied, last, members, .. } = found;
        let behind = last.index.0.saturating_sub(applied.index.0);
        let (name, members) = (describe::range(*range), describe::members(members));
        // Strings take everything.
        let _ = write!(text, "\n{name}: term {term}, {members}\n  the data is applied up to {applied}, ");
        let _ = writeln!(text, "the log ends at {last}");
        if found.is_alone {
            text.push_str("  this node is its only member already\n");
        } else if behind > 0 {
            let _ = writeln!(
                text,
                "  the {behind} entries behind the data will count as decided, whether they were or not"
            );
        }
    }
    if !recovery.lost.is_empty() {
        let lost: Vec<String> = recovery.lost.iter().map(|node| describe::node(*node)).collect();
        let _ = write!(
            text,
            "\nGIVEN UP: {}\n\
             - Writes that only these nodes had are LOST, acknowledged or not: all behind the last entries above.\n\
             - They must NEVER RUN AGAIN: they would go on as a cluster of their own. Empty their directories.\n\
             - If one of them survived with a log that ends in a greater term, or in the same one at a greater index, \
             recover that one instead.\n",
            lost.join(" ")
        );
    }
    text
}

/// Writes it to the log, and waits until it is on disk.
fn append(look: &Look, seen: &Inspection, recovery: Recovery) -> anyhow::Result<()> {
    let mut options = SegmentOptions::new(random_u64());
    // Files of the size that is there: others would be of no use to the node.
    if let Some(bytes) = seen.segments.last().and_then(|newest| u32::try_from(newest.bytes).ok()) {
        options.segment_bytes = bytes;
    }
    let log = SegmentLog::open(&look.log_dir(), &options)?;
    let (done, when_done) = channel();
    // Nobody listens only if this thread is gone.
    let told = move |result| drop(done.send(result));
    log.submit(recovery.into_ops(), Box::new(told))?;
    when_done.recv().context("the log ended before it was written")??;
    Ok(())
}
