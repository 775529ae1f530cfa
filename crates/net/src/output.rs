//! What a connection has still to send: small writes gather in one buffer, large [`Bytes`] join without a copy.
//!
//! Invariant: the bytes leave in the order in which they were put: `segments` first, then `tail[tail_sent..]`.
//! `tail` is the only place that is written to; it turns into a segment when a large `Bytes` must go behind it.
//!
//! An idle connection holds no buffer: once everything is sent, `tail` goes back to the loop's [`Spare`] buffers.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes};

/// A `Bytes` at least this long is queued as it is; a shorter one is copied, which is cheaper than a slice of its own in
/// every `writev`.
const ZERO_COPY_BYTES_MIN: usize = 4096;
/// Slices in one `writev`. Linux takes 1024; beyond a few dozen the gain is nil.
pub(crate) const SLICES_MAX: usize = 64;

/// The output queue of one connection. Applications put bytes in; the framework sends them.
#[derive(Default)]
pub struct Output {
    segments: VecDeque<Bytes>,
    tail: Vec<u8>,
    tail_sent: usize,
    segment_bytes: usize,
}

impl Output {
    /// Bytes that wait to be sent.
    pub fn len(&self) -> usize {
        self.segment_bytes + self.tail.len() - self.tail_sent
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a copy of `bytes`.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// Appends `bytes`, without a copy if they are many.
    pub fn put_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < ZERO_COPY_BYTES_MIN {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        self.seal_tail();
        self.segment_bytes += bytes.len();
        self.segments.push_back(bytes);
    }

    /// The buffer that small writes gather in, to encode into directly. Only ever append to it.
    pub fn buffer(&mut self) -> &mut impl BufMut {
        &mut self.tail
    }

    /// The buffer as a vector, for encoders that want one. Only ever append: what is in it belongs to earlier writes.
    pub fn buffer_vec(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Makes `tail` a segment so that something can go behind it.
    fn seal_tail(&mut self) {
        if self.tail.len() > self.tail_sent {
            let mut sealed = Bytes::from(std::mem::take(&mut self.tail));
            sealed.advance(self.tail_sent);
            self.segment_bytes += sealed.len();
            self.segments.push_back(sealed);
        } else {
            self.tail.clear();
        }
        self.tail_sent = 0;
    }

    /// The unsent bytes if they lie in one piece.
    pub(crate) fn contiguous(&self) -> Option<&[u8]> {
        match self.segments.len() {
            0 => Some(&self.tail[self.tail_sent..]),
            1 if self.tail.len() == self.tail_sent => Some(&self.segments[0]),
            _ => None,
        }
    }

    /// Fills `slices` with the next unsent pieces, `bytes_max` at most; the count filled.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>], bytes_max: usize) -> usize {
        let tail = &self.tail[self.tail_sent..];
        let pieces = self.segments.iter().map(|segment| &segment[..]).chain((!tail.is_empty()).then_some(tail));
        let (mut filled, mut room) = (0, bytes_max);
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            if room == 0 {
                break;
            }
            let piece = &piece[..piece.len().min(room)];
            *slot = IoSlice::new(piece);
            room -= piece.len();
            filled += 1;
        }
        filled
    }

    /// Forgets the first `count` unsent bytes: they were sent.
    pub(crate) fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.segments.front_mut() {
            let taken = count.min(front.len());
            self.segment_bytes -= taken;
            count -= taken;
            if taken < front.len() {
                front.advance(taken);
                return;
            }
            self.segments.pop_front();
        }
        self.tail_sent += count;
        assert!(self.tail_sent <= self.tail.len(), "sent {count} bytes more than there were");
    }

    /// Whether the gathering buffer needs memory before the next write.
    pub(crate) fn lacks_buffer(&self) -> bool {
        self.tail.capacity() == 0
    }

    /// Gives the gathering buffer memory to start with.
    pub(crate) fn lend(&mut self, buffer: Vec<u8>) {
        debug_assert!(self.lacks_buffer() && buffer.is_empty(), "lend only what is lacking");
        self.tail = buffer;
    }

    /// Takes the memory back once everything is sent.
    pub(crate) fn reclaim(&mut self) -> Option<Vec<u8>> {
        if !self.is_empty() || self.tail.capacity() == 0 {
            return None;
        }
        self.tail_sent = 0;
        let mut buffer = std::mem::take(&mut self.tail);
        buffer.clear();
        Some(buffer)
    }

    /// Throws everything away.
    pub(crate) fn clear(&mut self) {
        *self = Output::default();
    }
}

/// Buffers that idle connections gave back, for the next one that needs one.
#[derive(Default)]
pub(crate) struct Spare {
    buffers: Vec<Vec<u8>>,
}

impl Spare {
    /// Buffers kept; together with the size below this bounds what lies idle (4 MiB a loop).
    const COUNT_MAX: usize = 64;
    /// A larger buffer goes back to the allocator instead: one large reply must not pin its memory.
    const BYTES_MAX: usize = 64 * 1024;
    /// What a fresh buffer starts with.
    const BYTES_MIN: usize = 1024;

    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_else(|| Vec::with_capacity(Self::BYTES_MIN))
    }

    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        if (1..=Self::BYTES_MAX).contains(&buffer.capacity()) && self.buffers.len() < Self::COUNT_MAX {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(output: &mut Output, step: usize, bytes_max: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = output.slices(&mut slices, bytes_max);
            let all: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            assert!((1..=bytes_max).contains(&all.len()));
            let count = step.min(all.len());
            sent.extend_from_slice(&all[..count]);
            output.advance(count);
        }
        sent
    }

    #[test]
    fn bytes_leave_in_the_order_they_were_put_whatever_the_socket_takes() {
        for (step, bytes_max) in [(1, 4096), (7, 8), (4095, usize::MAX), (4096, 4100), (100_000, usize::MAX)] {
            let mut output = Output::default();
            let large = vec![b'L'; ZERO_COPY_BYTES_MIN];
            output.put_slice(b"a");
            output.advance(1);
            output.put_slice(b"bc");
            output.put_bytes(large.clone().into());
            output.put_bytes(Bytes::from_static(b"small"));
            output.put_bytes(large.clone().into());
            output.put_slice(b"end");
            assert_eq!(output.len(), 2 + 2 * large.len() + 5 + 3);
            assert!(output.contiguous().is_none());
            let expected = [b"bc", &large[..], b"small", &large, b"end"].concat();
            assert!(drain(&mut output, step, bytes_max) == expected, "step {step}");
            assert_eq!(output.contiguous(), Some(&[][..]));
            assert!(output.reclaim().is_some());
            assert!(output.lacks_buffer());
        }
    }
}
