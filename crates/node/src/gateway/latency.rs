//! LATENCY: the slowest commands of each second, once `latency-monitor-threshold` is set. There are two events, as commands
//! are fast or not by the command table: `fast-command` and `command`. Times are those of the slow log.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use dstore_resp::{CommandFlags, CommandId, CommandSpec, Reply, help};

use super::calls::Calls;

/// Seconds that are remembered of an event, as many as Redis remembers.
const SAMPLES_MAX: usize = 160;
/// Rows of a graph.
const GRAPH_ROWS: u64 = 4;

#[derive(Debug, Default)]
struct Event {
    /// A second, and the slowest command in it in milliseconds.
    samples: VecDeque<(u64, u64)>,
    slowest_ms: u64,
}

/// What LATENCY tells of.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    events: BTreeMap<&'static str, Event>,
}

impl Latency {
    /// Notes a command if it took as long as the threshold; 0 notes nothing.
    pub(crate) fn note(&mut self, time_s: u64, spec: &CommandSpec, took: Duration, threshold_ms: i64) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let threshold_ms = u64::try_from(threshold_ms).unwrap_or(0);
        if threshold_ms == 0 || took_ms < threshold_ms {
            return;
        }
        let name = if spec.flags.has(CommandFlags::FAST) { "fast-command" } else { "command" };
        let event = self.events.entry(name).or_default();
        event.slowest_ms = event.slowest_ms.max(took_ms);
        match event.samples.back_mut() {
            Some((second, slowest_ms)) if *second == time_s => *slowest_ms = took_ms.max(*slowest_ms),
            _ => event.samples.push_back((time_s, took_ms)),
        }
        if event.samples.len() > SAMPLES_MAX {
            event.samples.pop_front();
        }
    }

    pub(crate) fn answer(&mut self, id: CommandId, args: &[Bytes], calls: &Calls, threshold_ms: i64) -> Reply {
        match id {
            CommandId::LatencyLatest => self.latest(),
            CommandId::LatencyHistory => self.history(&args[2]),
            CommandId::LatencyReset => self.reset(&args[2..]),
            CommandId::LatencyGraph => self.graph(&args[2]),
            CommandId::LatencyDoctor => self.doctor(threshold_ms),
            CommandId::LatencyHistogram => histogram(&args[2..], calls),
            _ => help(CommandId::Latency),
        }
    }

    fn find(&self, name: &[u8]) -> Option<(&'static str, &Event)> {
        self.events.iter().find(|(known, _)| known.as_bytes() == name).map(|(known, event)| (*known, event))
    }

    fn latest(&self) -> Reply {
        let number = |number: u64| Reply::Integer(number.cast_signed());
        let describe = |(name, event): (&&'static str, &Event)| {
            let (second, took_ms) = event.samples.back().copied().unwrap_or_default();
            Reply::Array(vec![Reply::bulk_static(name), number(second), number(took_ms), number(event.slowest_ms)])
        };
        Reply::Array(self.events.iter().map(describe).collect())
    }

    fn history(&self, name: &[u8]) -> Reply {
        let sample = |(second, took_ms): &(u64, u64)| {
            Reply::Array(vec![Reply::Integer(second.cast_signed()), Reply::Integer(took_ms.cast_signed())])
        };
        let samples = self.find(name).map(|(_, event)| event.samples.iter().map(sample).collect());
        Reply::Array(samples.unwrap_or_default())
    }

    fn reset(&mut self, names: &[Bytes]) -> Reply {
        let before = self.events.len();
        self.events.retain(|name, _| !names.is_empty() && !names.iter().any(|other| other == name.as_bytes()));
        Reply::Integer((before - self.events.len()) as i64)
    }

    fn graph(&self, name: &[u8]) -> Reply {
        let Some((name, event)) = self.find(name) else {
            let name = String::from_utf8_lossy(name).replace(['\r', '\n'], " ");
            return Reply::error(format!("ERR No samples available for event '{name}'"));
        };
        let low = event.samples.iter().map(|(_, took_ms)| *took_ms).min().unwrap_or(0);
        let mut text =
            format!("{name} - high {} ms, low {low} ms (all time high {} ms)\n", event.slowest_ms, event.slowest_ms);
        text.push_str(&"-".repeat(80));
        let shown = event.samples.iter().rev().take(80).rev();
        for row in (0..GRAPH_ROWS).rev() {
            text.push('\n');
            for (_, took_ms) in shown.clone() {
                let height = took_ms * GRAPH_ROWS / event.slowest_ms.max(1);
                text.push(if height > row {
                    '#'
                } else if row == 0 {
                    '_'
                } else {
                    ' '
                });
            }
        }
        text.push('\n');
        Reply::Verbatim("txt", Bytes::from(text))
    }

    fn doctor(&self, threshold_ms: i64) -> Reply {
        let mut text = String::new();
        if threshold_ms == 0 {
            text.push_str(
                "Latency monitoring is disabled at this node. Use \"CONFIG SET latency-monitor-threshold \
                 <milliseconds>\" to enable it.\n",
            );
        } else if self.events.is_empty() {
            text.push_str("No command took as long as the threshold.\n");
        }
        for (name, event) in &self.events {
            let _ = writeln!(
                text,
                "{name}: {} seconds with commands of {threshold_ms} ms or more, the slowest of {} ms. A command's time \
                 contains the way to the leader and the disks of a majority: compare with INFO raft, then look at \
                 SLOWLOG GET.",
                event.samples.len(),
                event.slowest_ms
            );
        }
        Reply::Verbatim("txt", Bytes::from(text))
    }
}

fn histogram(names: &[Bytes], calls: &Calls) -> Reply {
    let wanted = |spec: &CommandSpec| {
        names.is_empty()
            || names.iter().any(|name| {
                let container = spec.full_name.split('|').next().unwrap_or_default();
                [spec.full_name, container].iter().any(|full| name.eq_ignore_ascii_case(full.as_bytes()))
            })
    };
    let rows = calls.rows().filter(|(spec, row)| row.is_timed() && wanted(spec));
    Reply::Map(rows.map(|(spec, row)| (Reply::bulk_static(spec.full_name), row.describe())).collect())
}
