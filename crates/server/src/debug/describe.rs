//! Keys, values and operations as people read them. Whatever the bytes are, there is a text for them.

use std::fmt::Write as _;

use dstore_node::offline::{Content, NodeInfo};
use dstore_node::{Applied, SYSTEM_RANGE, USER_RANGE};
use dstore_raft::Configuration;
use dstore_storage::layout::{Head, Stamp, chunk, key, local, system};
use dstore_storage::{Bytes, RangeId, WriteOp};

/// Bytes of a value that are shown where it is not asked for whole.
pub const SHORT_BYTES: usize = 48;

/// Operations that are named where they are not asked for all.
const OPS_SHORT: usize = 3;

const MS_PER_DAY: u64 = 24 * 60 * 60 * 1000;

/// A range and what it is for.
pub fn range(range: RangeId) -> String {
    match range {
        SYSTEM_RANGE => "range 0 (system)".to_owned(),
        USER_RANGE => "range 1 (user)".to_owned(),
        other => format!("range {other}"),
    }
}

/// A node's id as commands take it.
pub fn node(node: u64) -> String {
    format!("{node:016x}")
}

/// Members as roles and ids.
pub fn members(members: &Configuration) -> String {
    let list = |ids: &[dstore_raft::NodeId]| ids.iter().map(|id| node(id.0)).collect::<Vec<_>>().join(" ");
    let mut text = format!("voters {}", list(members.voters()));
    let sets = [("outgoing", members.outgoing()), ("learners", members.learners())];
    for (name, set) in sets.into_iter().chain([("then learners", members.learners_next())]) {
        if !set.is_empty() {
            let _ = write!(text, ", {name} {}", list(set)); // strings take everything
        }
    }
    text
}

/// Bytes in quotes, no more than `bytes_max` of them.
pub fn quoted(bytes: &[u8], bytes_max: usize) -> String {
    match bytes.get(..bytes_max).filter(|_| bytes.len() > bytes_max) {
        Some(start) => format!("\"{}\"... ({} bytes)", start.escape_ascii(), bytes.len()),
        None => format!("\"{}\"", bytes.escape_ascii()),
    }
}

/// Milliseconds since the Unix epoch as a date and a time of day, in UTC.
pub fn time(ms: u64) -> String {
    let (days, of_day) = (ms / MS_PER_DAY, ms % MS_PER_DAY);
    // Days are counted in eras of 400 years that begin in March (Howard Hinnant, "chrono-compatible low-level date
    // algorithms").
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (seconds, ms) = (of_day / 1000, of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03}")
}

/// A stamp: its time, and its count within the millisecond.
pub fn stamp(stamp: Stamp) -> String {
    let count = stamp.as_u64() & ((1 << Stamp::LOGICAL_BITS) - 1);
    format!("{} +{count}", time(stamp.ms()))
}

/// What a key is of.
pub fn key(bytes: &[u8]) -> String {
    if let Some(node) = system::decode_node(bytes) {
        return format!("node {node:016x}");
    }
    if let Some(range) = system::decode_descriptor(bytes) {
        return format!("descriptor of range {range}");
    }
    if let Ok(user) = key::decode(bytes) {
        let name = format!("db{} {}", user.db, quoted(&user.key, usize::MAX));
        return match chunk::decode(user.sub) {
            _ if user.sub.is_empty() => name,
            Some((generation, index)) => format!("{name} chunk {index} of generation {generation}"),
            None => format!("{name} sub {}", quoted(user.sub, usize::MAX)),
        };
    }
    if let Some((deadline_ms, data_key)) = local::decode_expiry(bytes) {
        return format!("expiry at {} of {}", time(deadline_ms), key_of_expiry(data_key));
    }
    range_local(bytes).unwrap_or_else(|| quoted(bytes, usize::MAX))
}

/// The expiry index also names generations whose chunks nobody needs any more.
fn key_of_expiry(data_key: &[u8]) -> String {
    match key::decode(data_key) {
        Ok(user) if !user.sub.is_empty() && chunk::decode_orphans(user.sub).is_some() => {
            format!("orphans of db{} {}", user.db, quoted(&user.key, usize::MAX))
        }
        _ => key(data_key),
    }
}

fn range_local(bytes: &[u8]) -> Option<String> {
    let id = RangeId(u64::from_be_bytes(*bytes.get(1..)?.first_chunk::<8>()?));
    if bytes == local::applied_key(id) {
        return Some(format!("applied state of range {id}"));
    }
    if bytes == local::members_key(id) {
        return Some(format!("members of range {id}"));
    }
    let db = bytes.last()?;
    if bytes == local::count_key(id, *db) {
        return Some(format!("key count of db{db} in range {id}"));
    }
    let words: Vec<u64> = bytes.get(10..)?.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect();
    match words[..] {
        [node, incarnation, connection] if bytes == local::request_key(id, node, incarnation, connection) => {
            Some(format!("request of connection {connection} of node {node:016x} start {incarnation} in range {id}"))
        }
        _ => None,
    }
}

/// What the value of a key says; of a client's value no more than `bytes_max` bytes.
pub fn value(of: &[u8], bytes: &Bytes, bytes_max: usize) -> String {
    if key::is_head(of) == Ok(true) {
        return match Head::decode(bytes) {
            Ok(head) => head_and_value(&head, bytes, bytes_max),
            Err(error) => format!("DAMAGED: {error}"),
        };
    }
    let known = match of {
        _ if system::decode_node(of).is_some() => NodeInfo::of(bytes).map(|info| node_info(&info)),
        [1, id @ .., field] if id.len() == 8 => match field {
            1 => Applied::decode(Some(bytes))
                .ok()
                .map(|applied| format!("{}, {}", applied.position, stamp(applied.stamp))),
            4 => Configuration::decode(bytes).ok().map(|found| members(&found)),
            _ => None,
        },
        [1, ..] if of.get(9) == Some(&3) => local::decode_count(bytes).map(|count| count.to_string()),
        _ => None,
    };
    known.unwrap_or_else(|| quoted(bytes, bytes_max))
}

fn head_and_value(head: &Head, record: &Bytes, bytes_max: usize) -> String {
    let mut text = format!("{} version {}", head.kind.name(), head.version);
    if let Some(at) = head.expires_at_ms {
        let _ = write!(text, " expires {}", time(at));
    }
    match head.chunked {
        Some(chunks) => {
            let generation = head.generation.unwrap_or_default();
            let _ = write!(text, " {} bytes in chunks of generation {generation}", chunks.len);
        }
        None => {
            let _ = write!(text, " {}", quoted(&head.value(record), bytes_max));
        }
    }
    text
}

/// What the cluster knows of a node.
pub fn node_info(info: &NodeInfo) -> String {
    let address = |address: &String| if address.is_empty() { "-".to_owned() } else { address.clone() };
    let (peers, clients) = (address(&info.peer_address), address(&info.client_address));
    let removed = info.removed_at_ms.map_or(String::new(), |at| format!("  REMOVED {}", time(at)));
    format!("peers {peers}  clients {clients}  version {}  start {}{removed}", info.version, info.incarnation)
}

/// An operation, with no more than `bytes_max` bytes of its value.
pub fn op(op: &WriteOp, bytes_max: usize) -> String {
    match op {
        WriteOp::Put { key: at, value: bytes } => format!("put {} = {}", key(at), value(at, bytes, bytes_max)),
        WriteOp::Delete { key: at } => format!("delete {}", key(at)),
        WriteOp::DeleteRange { start, end } => {
            format!("delete from {} to {}", quoted(start, usize::MAX), quoted(end, usize::MAX))
        }
    }
}

/// An entry's content on one line.
pub fn content(content: &Content) -> String {
    let name = |op: &WriteOp| match op {
        WriteOp::Put { key: at, .. } => format!("put {}", key(at)),
        other => self::op(other, SHORT_BYTES),
    };
    match content {
        Content::Blank => String::new(),
        Content::Configuration(configuration) => members(configuration),
        Content::Unreadable(why) => format!("CANNOT BE READ: {why}"),
        Content::Effects(entry) => {
            let mut names: Vec<String> = entry.ops.iter().take(OPS_SHORT).map(name).collect();
            if entry.ops.len() > OPS_SHORT {
                names.push(format!("and {} more", entry.ops.len() - OPS_SHORT));
            }
            format!(
                "{}  {}",
                stamp(entry.stamp),
                if names.is_empty() { "no operation".to_owned() } else { names.join(", ") }
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00.000");
        assert_eq!(time(951_782_399_999), "2000-02-28 23:59:59.999");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(time(4_107_542_400_000), "2100-03-01 00:00:00.000");
        assert_eq!(time(1_795_390_145_123), "2026-11-22 23:29:05.123");
        assert_eq!(stamp(Stamp::from_u64(Stamp::from_ms(1).as_u64() + 5)), "1970-01-01 00:00:00.001 +5");
    }

    #[test]
    fn every_key_is_named() {
        let user = key::encode(2, b"a\0b");
        assert_eq!(key(&user), "db2 \"a\\x00b\"");
        assert_eq!(key(&chunk::chunk_key(&user, 7, 3)), "db2 \"a\\x00b\" chunk 3 of generation 7");
        assert_eq!(key(&system::node_key(0xab)), "node 00000000000000ab");
        assert_eq!(key(&system::descriptor_key(RangeId(1))), "descriptor of range 1");
        assert_eq!(key(&local::applied_key(RangeId(1))), "applied state of range 1");
        assert_eq!(key(&local::members_key(RangeId(0))), "members of range 0");
        assert_eq!(key(&local::count_key(RangeId(1), 3)), "key count of db3 in range 1");
        let request = key(&local::request_key(RangeId(1), 2, 3, 4));
        assert_eq!(request, "request of connection 4 of node 0000000000000002 start 3 in range 1");
        let expiry = key(&local::expiry_key(RangeId(1), 1, &user));
        assert_eq!(expiry, "expiry at 1970-01-01 00:00:00.001 of db2 \"a\\x00b\"");
        for garbage in [&b""[..], b"\x01", b"\x01\0\0\0\0\0\0\0\x01", b"\x02\x01", b"\x03", b"\xff", &[1; 40]] {
            assert!(!key(garbage).is_empty());
            let _any = value(garbage, &Bytes::from_static(b"garbage"), 4);
        }
    }

    #[test]
    fn values_say_what_they_are_and_are_cut_where_they_are_long() {
        let user = key::encode(0, b"k");
        let record = Head::string(9, Some(1)).encode(b"hello world");
        let text = value(&user, &record, 5);
        assert_eq!(text, "string version 9 expires 1970-01-01 00:00:00.001 \"hello\"... (11 bytes)");
        assert!(value(&user, &Bytes::from_static(b"\x01"), 5).starts_with("DAMAGED"));
        assert_eq!(value(&local::count_key(RangeId(1), 0), &local::encode_count(12), 5), "12");
        let alone = Configuration::new([dstore_raft::NodeId(1)], [dstore_raft::NodeId(2)]);
        let text = value(&local::members_key(RangeId(1)), &alone.encode(), 5);
        assert_eq!(text, "voters 0000000000000001, learners 0000000000000002");
    }
}
