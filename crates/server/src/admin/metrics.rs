//! A snapshot in the text format that Prometheus reads.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::snapshot::Snapshot;

/// What the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a snapshot. Each name begins with `dstore_`.
pub fn encode(snapshot: &Snapshot) -> String {
    let mut registry = Registry::with_prefix("dstore");
    registry.register_collector(Box::new(Metrics(snapshot.clone())));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("writing to a String cannot fail");
    page
}

#[derive(Debug)]
struct Metrics(Snapshot);

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Page(encoder);
        let snapshot = &self.0;
        process(&mut page, snapshot)?;
        clients(&mut page, snapshot)?;
        raft(&mut page, snapshot)
    }
}

fn process(page: &mut Page<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let who = [("version", snapshot.version), ("cluster", &*snapshot.cluster), ("node", &*snapshot.node)];
    page.gauges("node_info", "Always 1: who the node is", None, [(who, 1)])?;
    page.gauge("ready", "1 when clients can be sent here", None, u64::from(snapshot.readiness().is_ok()))?;
    page.gauge("uptime", "Since the node began to serve", Some(Unit::Seconds), snapshot.uptime_s)?;
    page.gauge("incarnation", "How often the node was started", None, snapshot.incarnation)?;
    page.gauge("memory_resident", "Resident memory of the process", Some(Unit::Bytes), snapshot.resident_bytes)?;
    let seconds = |us: u64| us as f64 / 1e6;
    let modes =
        [([("mode", "user")], seconds(snapshot.cpu_user_us)), ([("mode", "system")], seconds(snapshot.cpu_system_us))];
    page.counters("cpu", "Processor time of the process", Some(Unit::Seconds), modes)
}

fn clients(page: &mut Page<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    page.gauge("clients", "Clients connected", None, snapshot.clients)?;
    page.gauge("requests_held", "Requests that wait for a leader to take them", None, snapshot.requests_held)?;
    page.counter("connections", "Clients accepted", None, snapshot.connections_total)?;
    page.counter("commands", "Commands executed, those inside of EXEC included", None, snapshot.commands_total)?;
    page.counter("command_errors", "Replies that were errors", None, snapshot.errors_total)?;
    page.gauge("keys", "Keys in all databases", None, snapshot.keys)?;
    page.counter("expired_keys", "Expired keys removed", None, snapshot.expired_keys_total)?;
    let help = "Batches and sweeps that waited for the disk while the loop went on";
    page.counter("rehearsals", help, None, snapshot.rehearsals_total)?;
    page.counter("proposed_entries", "Log entries proposed", None, snapshot.entries_total)?;
    page.counter("proposed", "Payload of the log entries proposed", Some(Unit::Bytes), snapshot.entry_bytes_total)
}

fn raft(page: &mut Page<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    page.gauge("log_size", "The log's files on disk", Some(Unit::Bytes), snapshot.log_bytes)?;
    page.gauge("log_entries", "Entries in the log's files", None, snapshot.log_entries)?;
    page.gauge("disk_free", "Room on the disk", Some(Unit::Bytes), snapshot.disk_free_bytes.unwrap_or(0))?;
    let levels = ["ample", "low", "critical"];
    let space = levels.map(|level| ([("level", level)], u64::from(snapshot.disk_space == level)));
    page.gauges("disk_space", "1 for the level that the room on the disk is at", None, space)?;
    page.gauge("disk_stalled", "1 while writes to the disk stand still", None, u64::from(snapshot.disk_stalled))?;
    let refused = u64::from(snapshot.growth_refused.is_some());
    page.gauge("growth_refused", "1 while the node refuses growth as the leader of user data", None, refused)?;
    let ranges: Vec<(String, _)> = snapshot.ranges.iter().map(|range| (range.range.to_string(), range)).collect();
    let mut each = |name, help, value: fn(&super::RangeSnapshot) -> u64| {
        let values = ranges.iter().map(|(label, range)| ([("range", &**label)], value(range)));
        page.gauges(name, help, None, values)
    };
    each("raft_is_leader", "1 where the node leads the range", |range| u64::from(range.role == "leader"))?;
    each("raft_has_leader", "1 where a leader is known", |range| u64::from(range.leader.is_some()))?;
    each("raft_term", "Term of the range", |range| range.term)?;
    each("raft_commit_index", "Entry up to which the range is decided, as the node knows", |range| range.commit)?;
    each("raft_applied_index", "Entry up to which the range is applied", |range| range.applied)?;
    each("raft_last_index", "Last entry of the log", |range| range.last)?;
    each("raft_durable_index", "Last entry of the log that is on the disk", |range| range.durable)?;
    each("raft_begin_index", "Entry after which the log begins", |range| range.log_begin)?;
    let peers = snapshot.members.iter().map(|member| {
        let labels = [("node", &*member.node), ("address", &*member.peer_address)];
        (labels, u64::from(member.connected))
    });
    page.gauges("peer_connected", "1 where there is a connection to the node", None, peers)
}

/// The page as it is written. Values are numbers of either kind.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: u64) -> Result<(), Error> {
        let encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<Unit>, value: u64) -> Result<(), Error> {
        let encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> Result<(), Error> {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::sample;
    use super::*;

    #[test]
    fn a_page_names_types_and_units() {
        let page = encode(&sample());
        let expected = [
            "# HELP dstore_commands Commands executed, those inside of EXEC included\n# TYPE dstore_commands counter\n\
             dstore_commands_total 12\n",
            "# UNIT dstore_cpu_seconds seconds\n",
            "dstore_cpu_seconds_total{mode=\"user\"} 1.5\n",
            "dstore_ready 1\n",
            "dstore_raft_term{range=\"1\"} 7\n",
            "dstore_raft_is_leader{range=\"1\"} 0\n",
            "dstore_memory_resident_bytes 0\n",
            "dstore_peer_connected{node=\"0000000000000003\",address=\"10.0.0.3:7379\"} 0\n",
            "dstore_node_info{version=\"0.1.0\",",
        ];
        for part in expected {
            assert!(page.contains(part), "{part} is missing in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn every_metric_has_a_help_text_and_the_prefix_and_is_documented() {
        let page = encode(&sample());
        let documentation = include_str!("../../../../docs/operations.md");
        for line in page.lines().filter(|line| *line != "# EOF") {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            if line.starts_with('#') {
                assert!(words[2].starts_with("dstore_") && words.len() == 4 && !words[3].is_empty(), "{line}");
            } else {
                let name = line.split(['{', ' ']).next().unwrap();
                assert!(documentation.contains(&format!("`{name}`")), "docs/operations.md says nothing of {name}");
            }
        }
    }
}
