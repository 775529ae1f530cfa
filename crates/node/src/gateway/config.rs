//! CONFIG: what is set for this node. A few settings can be changed while it runs; they hold until it is started again, and
//! for this node alone. The others are given at its start, and setting one to what it is already is no error.

use bytes::Bytes;
use dstore_resp::{CommandId, Reply, glob_matches_nocase, help};
use dstore_storage::Engine;

use super::connection::integer;
use super::{Calls, Facts, Stats};
use crate::Node;

/// Settings with Redis's names that cannot be anything else here, and that clients ask for.
const CONSTANT: &[(&str, &str)] = &[
    ("activedefrag", "no"),
    ("cluster-enabled", "no"),
    ("daemonize", "no"),
    ("hz", "10"),
    ("io-threads", "1"),
    ("maxmemory-clients", "0"),
    ("notify-keyspace-events", ""),
    ("replicaof", ""),
    ("slaveof", ""),
    ("stop-writes-on-bgsave-error", "yes"),
    ("tls-port", "0"),
    ("unixsocket", ""),
];

/// What can be changed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Commands that take longer, in microseconds, are in the slow log; none if negative.
    pub(crate) slow_log_slower_us: i64,
    pub(crate) slow_log_len_max: i64,
    /// Commands that take as long, in milliseconds, are events of LATENCY; none if 0.
    pub(crate) latency_threshold_ms: i64,
    /// Seconds after which an idle client is closed; never if 0.
    pub(crate) idle_timeout_s: i64,
    pub(crate) latency_tracking: bool,
    pub(crate) percentiles: Vec<f64>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            slow_log_slower_us: 10_000,
            slow_log_len_max: 128,
            latency_threshold_ms: 0,
            idle_timeout_s: 0,
            latency_tracking: true,
            percentiles: vec![50.0, 99.0, 99.9],
        }
    }
}

impl Settings {
    fn numbers(&mut self) -> [(&'static str, &mut i64, i64, i64); 4] {
        [
            ("latency-monitor-threshold", &mut self.latency_threshold_ms, 0, i64::MAX),
            ("slowlog-log-slower-than", &mut self.slow_log_slower_us, -1, i64::MAX),
            ("slowlog-max-len", &mut self.slow_log_len_max, 0, i64::MAX),
            ("timeout", &mut self.idle_timeout_s, 0, i32::MAX.into()),
        ]
    }

    /// All of them, as CONFIG GET tells them.
    fn list(&self) -> Vec<(&'static str, String)> {
        let mut copy = self.clone();
        let mut list: Vec<_> = copy.numbers().map(|(name, value, ..)| (name, value.to_string())).into();
        let percentiles: Vec<String> = self.percentiles.iter().map(f64::to_string).collect();
        list.push(("latency-tracking", if self.latency_tracking { "yes" } else { "no" }.to_owned()));
        list.push(("latency-tracking-info-percentiles", percentiles.join(" ")));
        list
    }

    /// Changes one. `None` if it is not one of these; the error is why the value is none for it.
    fn set(&mut self, name: &str, value: &[u8]) -> Option<Result<(), String>> {
        for (known, place, least, most) in self.numbers() {
            if known == name {
                return Some(match integer(value) {
                    None => Err("argument couldn't be parsed into an integer".to_owned()),
                    Some(number) if number < least || number > most => {
                        Err(format!("argument must be between {least} and {most} inclusive"))
                    }
                    Some(number) => {
                        *place = number;
                        Ok(())
                    }
                });
            }
        }
        match name {
            "latency-tracking" => Some(match value.to_ascii_lowercase().as_slice() {
                word @ (b"yes" | b"no") => {
                    self.latency_tracking = word == b"yes";
                    Ok(())
                }
                _ => Err("argument must be 'yes' or 'no'".to_owned()),
            }),
            "latency-tracking-info-percentiles" => Some(percentiles(value).map(|new| self.percentiles = new)),
            _ => None,
        }
    }
}

fn percentiles(value: &[u8]) -> Result<Vec<f64>, String> {
    let text = String::from_utf8_lossy(value);
    let numbers: Option<Vec<f64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    let numbers = numbers.ok_or("Invalid latency-tracking-info-percentiles parameters")?;
    let sound = numbers.iter().all(|number| (0.0..=100.0).contains(number));
    let why = "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]";
    sound.then_some(numbers).ok_or_else(|| why.to_owned())
}

/// Everything that CONFIG GET knows, in the order of the names.
fn all(facts: &Facts, settings: &Settings) -> Vec<(&'static str, String)> {
    let mut list = settings.list();
    list.push(("requirepass", facts.password.as_ref().map_or("", |_| "(redacted)").to_owned()));
    for (name, value) in
        facts.settings.iter().cloned().chain(CONSTANT.iter().map(|(name, value)| (*name, (*value).to_owned())))
    {
        if !list.iter().any(|(known, _)| *known == name) {
            list.push((name, value));
        }
    }
    list.sort_unstable_by_key(|(name, _)| *name);
    list
}

fn failed(name: &str, why: &str) -> Reply {
    Reply::error(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
}

impl<E: Engine> Node<E> {
    pub(crate) fn config(&mut self, id: CommandId, args: &[Bytes]) -> Reply {
        match id {
            CommandId::ConfigGet => self.config_get(&args[2..]),
            CommandId::ConfigSet => self.config_set(&args[2..]),
            CommandId::ConfigResetStat => {
                self.stats = Stats::default();
                self.gateway.calls = Calls::default();
                self.gateway.pace = super::Pace::default();
                Reply::OK
            }
            CommandId::ConfigRewrite => Reply::error(
                "ERR The server is running without a config file of its own: what CONFIG SET changes holds until the \
                 node is started again; change the file or the flags it is started with",
            ),
            _ => help(CommandId::Config),
        }
    }

    /// CONFIG GET pattern [pattern ...]
    fn config_get(&self, patterns: &[Bytes]) -> Reply {
        let asked = |name: &str| patterns.iter().any(|pattern| glob_matches_nocase(pattern, name.as_bytes()));
        let found = all(&self.facts, &self.gateway.settings).into_iter().filter(|(name, _)| asked(name));
        Reply::Map(found.map(|(name, value)| (Reply::bulk_static(name), Reply::Bulk(Bytes::from(value)))).collect())
    }

    /// CONFIG SET name value [name value ...]: all of them or none.
    fn config_set(&mut self, pairs: &[Bytes]) -> Reply {
        if pairs.len() % 2 == 1 {
            return Reply::error("ERR syntax error");
        }
        let known = all(&self.facts, &self.gateway.settings);
        let (mut settings, mut password) = (self.gateway.settings.clone(), self.facts.password.clone());
        let mut named: Vec<(String, &str)> = Vec::new();
        for pair in pairs.chunks_exact(2) {
            let name = String::from_utf8_lossy(&pair[0]).to_ascii_lowercase().replace(['\r', '\n'], " ");
            let Some((_, current)) = known.iter().find(|(known, _)| *known == name) else {
                return Reply::error(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"));
            };
            if named.iter().any(|(before, _)| *before == name) {
                return failed(&name, "duplicate parameter");
            }
            named.push((name, current));
        }
        for (pair, (name, current)) in pairs.chunks_exact(2).zip(named) {
            match settings.set(&name, &pair[1]) {
                Some(Ok(())) => {}
                Some(Err(why)) => return failed(&name, &why),
                None if name == "requirepass" => {
                    password = (!pair[1].is_empty()).then(|| Bytes::copy_from_slice(&pair[1]));
                }
                None if current.as_bytes().eq_ignore_ascii_case(&pair[1]) => {}
                None => return failed(&name, &why_fixed(&name)),
            }
        }
        (self.gateway.settings, self.facts.password) = (settings, password);
        Reply::OK
    }
}

fn why_fixed(name: &str) -> String {
    let why = match name {
        "appendfsync" | "appendonly" | "save" => "an answered write is on the disks of a majority, always",
        "maxmemory" | "maxmemory-policy" | "maxmemory-clients" => {
            "nothing is evicted; memory is bounded by the \
            node's own settings, data by the disk"
        }
        "notify-keyspace-events" => "there are no keyspace notifications",
        "cluster-enabled" | "replicaof" | "slaveof" => "the cluster is the node's own",
        _ => "it is given at the node's start",
    };
    format!("can't set immutable config: {why}")
}
