//! [`Spans`]: which keys a snapshot is about; [`SpanSum`]: what was in them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// Key spans in ascending order, none empty, none overlapping another: what a snapshot or checksum is taken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spans(Arc<[Range<Bytes>]>);

/// Why a list is not [`Spans`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// A span whose end is not above its start.
    #[error("span {index} is empty or inverted")]
    Empty {
        /// Its place in the list, from 0.
        index: usize,
    },
    /// A span that begins before the one before it ends.
    #[error("span {index} begins before the end of the one before it")]
    Order {
        /// Its place in the list, from 0.
        index: usize,
    },
    /// Nothing at all, or more than [`Spans::COUNT_MAX`].
    #[error("{count} spans; between 1 and {} are allowed", Spans::COUNT_MAX)]
    Count {
        /// How many there were.
        count: usize,
    },
}

impl Spans {
    /// The most spans of one snapshot. A range has a handful; more would be a mistake.
    pub const COUNT_MAX: usize = 64;

    /// Takes a list of spans, start included, end not.
    ///
    /// # Errors
    /// If they are not as [`Spans`] must be.
    pub fn new(spans: Vec<Range<Bytes>>) -> Result<Spans, SpanError> {
        if spans.is_empty() || spans.len() > Spans::COUNT_MAX {
            return Err(SpanError::Count { count: spans.len() });
        }
        for (index, span) in spans.iter().enumerate() {
            if span.start >= span.end {
                return Err(SpanError::Empty { index });
            }
            if index > 0 && spans[index - 1].end > span.start {
                return Err(SpanError::Order { index });
            }
        }
        Ok(Spans(spans.into()))
    }

    /// The spans, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Range<Bytes>> {
        self.0.iter()
    }

    /// The span at `index`, counted from 0.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Range<Bytes>> {
        self.0.get(index)
    }

    /// Whether one of them holds `key`.
    #[must_use]
    pub fn contain(&self, key: &[u8]) -> bool {
        let after = self.0.partition_point(|span| span.start.as_ref() <= key);
        after > 0 && key < self.0[after - 1].end.as_ref()
    }
}

impl<'a> IntoIterator for &'a Spans {
    type Item = &'a Range<Bytes>;
    type IntoIter = std::slice::Iter<'a, Range<Bytes>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The checksum of all records in some spans, in order, with their number and size. Two replicas hold the same when these
/// are equal; different records that agree in all three are as likely as a CRC32C collision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpanSum {
    /// How many records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// CRC32C over each record: key length and value length (u32, little-endian), key, value.
    pub crc32c: u32,
}

impl SpanSum {
    /// Goes on with one record.
    ///
    /// # Panics
    /// If key or value have 4 GiB or more, which no engine holds.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        let mut crc = crc32c::crc32c_append(self.crc32c, &record_head(key, value));
        crc = crc32c::crc32c_append(crc, key);
        self.crc32c = crc32c::crc32c_append(crc, value);
        self.records += 1;
        self.bytes += (key.len() + value.len()) as u64;
    }
}

/// Lengths of key and value, as they stand before them in a chunk and in a checksum.
pub(super) fn record_head(key: &[u8], value: &[u8]) -> [u8; 8] {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("no key or value has 4 GiB").to_le_bytes();
    let mut out = [0; 8];
    out[..4].copy_from_slice(&length(key));
    out[4..].copy_from_slice(&length(value));
    out
}

impl fmt::Display for SpanSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x} ({} records, {} bytes)", self.crc32c, self.records, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(pairs: &[(&'static str, &'static str)]) -> Result<Spans, SpanError> {
        Spans::new(pairs.iter().map(|(start, end)| Bytes::from(*start)..Bytes::from(*end)).collect())
    }

    #[test]
    fn spans_are_ascending_and_apart() {
        assert!(spans(&[("a", "b"), ("b", "c"), ("x", "z")]).is_ok(), "touching is not overlapping");
        assert_eq!(spans(&[]), Err(SpanError::Count { count: 0 }));
        assert_eq!(spans(&[("a", "b"); 65]), Err(SpanError::Count { count: 65 }));
        assert_eq!(spans(&[("a", "b"), ("c", "c")]), Err(SpanError::Empty { index: 1 }));
        assert_eq!(spans(&[("b", "a")]), Err(SpanError::Empty { index: 0 }));
        assert_eq!(spans(&[("a", "c"), ("b", "d")]), Err(SpanError::Order { index: 1 }));
        assert_eq!(spans(&[("c", "d"), ("a", "b")]), Err(SpanError::Order { index: 1 }));
    }

    #[test]
    fn a_key_is_in_a_span_or_between_them() {
        let spans = spans(&[("b", "d"), ("f", "h")]).unwrap();
        for (key, inside) in [("a", false), ("b", true), ("c\u{7f}", true), ("d", false), ("f", true), ("h", false)] {
            assert_eq!(spans.contain(key.as_bytes()), inside, "{key}");
        }
    }

    #[test]
    fn a_sum_depends_on_order_and_on_where_a_key_ends() {
        let sum = |records: &[(&str, &str)]| {
            let mut sum = SpanSum::default();
            records.iter().for_each(|(key, value)| sum.add(key.as_bytes(), value.as_bytes()));
            sum
        };
        let one = sum(&[("a", "1"), ("b", "2")]);
        assert_eq!((one.records, one.bytes), (2, 4));
        assert_ne!(one, sum(&[("b", "2"), ("a", "1")]));
        assert_ne!(one, sum(&[("a", "1b"), ("", "2")]));
        assert_ne!(sum(&[("a", "")]), sum(&[("", "a")]));
        assert_ne!(sum(&[]), sum(&[("", "")]));
        assert_eq!(one.to_string(), format!("{:08x} (2 records, 4 bytes)", one.crc32c));
    }
}
