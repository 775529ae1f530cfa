//! Bytes of established connections: readiness, reading, processing, writing, closing after the flush.

use std::io::{self, IoSlice};
use std::time::Duration;

use crate::connection::WriteHalf;
use crate::driver::Driver;
use crate::error::CloseReason;
use crate::net::ConnectionId;
use crate::output::SLICES_MAX;
use crate::protocol::{Application, Driven, Notice};
use crate::sys::{Readiness, SocketKey};

/// The least room made for a read behind input that waits for more.
const READ_ROOM_BYTES: usize = 16 * 1024;
/// Bytes sent to one peer at a time, of two times in a turn.
const SEND_BYTES_MAX: usize = 512 * 1024;
/// How long a closed connection goes on to swallow what its peer had under way.
const LINGER: Duration = Duration::from_secs(2);

/// What a read brought.
enum Read {
    /// Go on reading.
    More,
    /// Nothing more for now.
    Drained,
}

/// Room for the next read behind `length` bytes of a message that is whole at `needed` bytes: memory follows what has come,
/// at most doubling it, and not what a peer announces.
fn room_for(length: usize, needed: usize) -> usize {
    needed.saturating_sub(length).clamp(READ_ROOM_BYTES, READ_ROOM_BYTES.max(length))
}

impl<A: Application> Driver<A> {
    /// An event of the poller for a connection (or for one that is gone: then nothing).
    pub(crate) fn on_readiness(&mut self, id: ConnectionId, event: Readiness) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        if connection.connecting.is_some() {
            // An error or a hang-up counts as writable: SO_ERROR tells which.
            if event.writable || event.error || event.read_closed {
                connection.readable |= event.readable;
                connection.end_announced |= event.read_closed;
                self.finish_connect(id);
            }
        } else {
            let hears = connection.may_read() && !connection.input_ended;
            connection.readable |= !connection.input_ended && (event.readable || event.read_closed || event.error);
            connection.end_announced |= event.read_closed || event.error;
            if event.error && !hears {
                // Nobody will read, so nobody would find it.
                if let Some(error) = connection.socket.and_then(|socket| self.net.poller.take_error(socket)) {
                    self.net.doom(id, error.into());
                    return;
                }
            }
            if event.writable {
                self.on_writable(id);
            }
        }
        self.serve(id);
    }

    /// The socket takes bytes again. If it had refused some, taking them now is a sign that the peer reads.
    fn on_writable(&mut self, id: ConnectionId) {
        let now = self.net.now;
        let Some(connection) = self.net.connection_mut(id) else { return };
        let refused = !std::mem::replace(&mut connection.writable, true);
        let before = connection.output.len();
        if before > 0 {
            self.flush(id);
        }
        if let Some(connection) = self.net.connection_mut(id)
            && refused
            && connection.output.len() < before
        {
            connection.last_heard = now;
        }
    }

    /// Does for a connection what can be done: finish a connect, process buffered input, read more, tell of the end, flush.
    pub(crate) fn serve(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection(id) else { return };
        if connection.connecting.as_ref().is_some_and(|connecting| connecting.immediate) {
            self.finish_connect(id);
        } else if connection.lingering {
            return self.linger(id);
        } else if connection.unopened {
            self.net.connections[id.index as usize].unopened = false;
            self.established(id);
        }
        self.process_buffered(id);
        let mut budget = self.net.config.read_bytes_per_turn_max.max(1);
        while let Some(connection) = self.net.connection(id) {
            if !connection.readable || !connection.may_process() {
                break;
            }
            if budget == 0 {
                self.net.schedule(id);
                break;
            }
            match self.read(id, &mut budget) {
                Read::More => {}
                Read::Drained => break,
            }
        }
        self.tell_input_ended(id);
        // Output leaves at the end of the turn, all of it in one call; but not so much of it may gather.
        if self.net.connection(id).is_some_and(|c| c.output.len() > c.config.output_high_bytes) {
            self.flush(id);
        }
        // Output beyond the mark stopped the processing, and the socket then took it: carry on in the next turn.
        if let Some(connection) = self.net.connection(id) {
            let has_work = connection.has_work() || connection.readable || self.owes_input_end(id);
            if connection.may_process() && has_work {
                self.net.schedule(id);
            }
        }
    }

    fn owes_input_end(&self, id: ConnectionId) -> bool {
        self.net.connection(id).is_some_and(|c| c.input_ended && !c.input_ended_told)
    }

    /// The peer's stream ended and everything whole in it was processed: tell the protocol, once.
    fn tell_input_ended(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        let due = connection.input_ended && !connection.input_ended_told && connection.may_process();
        if due && !connection.has_work() {
            connection.input_ended_told = true;
            self.notify(id, Notice::InputClosed);
        }
    }

    // Reading and processing.

    fn read(&mut self, id: ConnectionId, budget: &mut usize) -> Read {
        let Some(connection) = self.net.connection_mut(id) else { return Read::Drained };
        let Some(socket) = connection.socket else { return Read::Drained };
        if connection.input.len() == 0 {
            self.read_to_scratch(id, socket, budget)
        } else {
            self.read_behind(id, socket, budget)
        }
    }

    /// Nothing is buffered: read into the loop's buffer, process from there, keep only the rest.
    fn read_to_scratch(&mut self, id: ConnectionId, socket: SocketKey, budget: &mut usize) -> Read {
        let mut scratch = std::mem::take(&mut self.net.scratch);
        let room = scratch.len().min(*budget);
        let result = self.net.poller.read(socket, &mut scratch[..room]);
        let outcome = self.account_read(id, result, room, budget);
        if let Some(count) = outcome.filter(|count| *count > 0) {
            let driven = self.drive(id, &scratch[..count]);
            if let Some(connection) = self.net.connections.get_mut(id.index as usize) {
                connection.needed = driven.needed;
                if driven.consumed < count && connection.doom.is_none() {
                    if connection.input.lacks_memory() {
                        connection.input.lend(self.net.spare.take());
                    }
                    connection.input.append(&scratch[driven.consumed..count]);
                }
            }
            self.after_drive(id, driven);
        }
        self.net.scratch = scratch;
        if outcome.is_some() { Read::More } else { Read::Drained }
    }

    /// Input waits for more: read behind it.
    fn read_behind(&mut self, id: ConnectionId, socket: SocketKey, budget: &mut usize) -> Read {
        let connection = &mut self.net.connections[id.index as usize];
        let length = connection.input.len();
        let most = connection.config.input_bytes_max.saturating_sub(length);
        if most == 0 {
            let limit = connection.config.input_bytes_max;
            self.net.doom(id, CloseReason::InputTooLarge(limit));
            return Read::Drained;
        }
        let room = room_for(length, connection.needed).min(most).min(*budget);
        let buffer = connection.input.room(room);
        let room = buffer.len().min(most).min(*budget);
        let buffer = &mut buffer[..room];
        let result = self.net.poller.read(socket, buffer);
        let Some(count) = self.account_read(id, result, room, budget) else { return Read::Drained };
        if let Some(connection) = self.net.connection_mut(id) {
            connection.input.filled(count);
        }
        self.process_buffered(id);
        Read::More
    }

    /// The books of one read call: `Some(count)` if reading may go on.
    fn account_read(
        &mut self,
        id: ConnectionId,
        result: io::Result<usize>,
        room: usize,
        budget: &mut usize,
    ) -> Option<usize> {
        self.net.tick();
        let now = self.net.now;
        let connection = self.net.connection_mut(id)?;
        match result {
            Ok(0) => {
                connection.readable = false;
                connection.input_ended = true;
                None
            }
            Ok(count) => {
                *budget -= count;
                connection.last_heard = now;
                // Contract of the poller: after a short read only a new event can bring more, unless the end is near.
                connection.readable = count == room || connection.end_announced;
                Some(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.readable = false;
                None
            }
            Err(error) => {
                self.net.doom(id, error.into());
                None
            }
        }
    }

    /// Hands buffered input to the protocol, if it may and can have it.
    fn process_buffered(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        if !connection.may_process() || !connection.has_work() {
            return;
        }
        let mut input = std::mem::take(&mut connection.input);
        let driven = self.drive(id, input.bytes());
        input.consume(driven.consumed);
        if let Some(connection) = self.net.connections.get_mut(id.index as usize) {
            connection.needed = driven.needed;
            if let Some(memory) = input.reclaim() {
                self.net.spare.give(memory);
            }
            connection.input = input;
        }
        self.after_drive(id, driven);
    }

    fn drive(&mut self, id: ConnectionId, input: &[u8]) -> Driven {
        let driven = self.with_handler(id, |handler, app, cx| handler.drive(app, cx, input));
        // Nothing came back after a panic: the input is as lost as its connection.
        driven.unwrap_or(Driven { consumed: input.len(), needed: 0, failed: None })
    }

    fn after_drive(&mut self, id: ConnectionId, driven: Driven) {
        if let Some(text) = driven.failed {
            self.net.close_with(id, CloseReason::Decode(text));
        } else if let Some(connection) = self.net.connection(id) {
            let limit = connection.config.input_bytes_max;
            if driven.needed > limit && connection.input.len() > 0 {
                self.net.doom(id, CloseReason::InputTooLarge(limit));
            }
        }
    }

    // Writing.

    /// Sends what was written in this turn.
    pub(crate) fn flush_dirty(&mut self) {
        // A flush may call back (water marks), and that may write again. Such a producer goes round once more, and then waits
        // for the next turn like everybody else, however fast its peer reads.
        for _ in 0..2 {
            let mut dirty = std::mem::take(&mut self.net.dirty);
            for id in dirty.drain(..) {
                if self.net.connection(id).is_some_and(|connection| connection.dirty) {
                    self.flush(id);
                }
            }
            if self.net.dirty.is_empty() {
                self.net.dirty = dirty;
                return;
            }
        }
    }

    /// Offers the output to the socket and draws the consequences: water marks, half-close, close.
    pub(crate) fn flush(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        connection.dirty = false;
        if connection.doom.is_some() {
            return;
        }
        connection.output_passed |= connection.output.len() > connection.config.output_high_bytes;
        let connecting = connection.connecting.is_some();
        if !connecting && let Err(error) = self.send(id) {
            return self.net.doom(id, error.into());
        }
        let Some(connection) = self.net.connection_mut(id) else { return };
        if connection.output.len() > connection.config.output_bytes_max {
            let limit = connection.config.output_bytes_max;
            return self.net.doom(id, CloseReason::OutputTooLarge(limit));
        }
        if connecting {
            return;
        }
        if connection.output.is_empty() {
            self.output_sent(id);
        }
        self.mark_water(id);
    }

    /// Writes until the output is empty, the socket refuses, or others must have their turn: a peer that reads as fast as this
    /// writes would keep the loop to itself.
    fn send(&mut self, id: ConnectionId) -> io::Result<()> {
        let now = self.net.now;
        let mut budget = SEND_BYTES_MAX;
        let Some(connection) = self.net.connections.get_mut(id.index as usize) else { return Ok(()) };
        let Some(socket) = connection.socket else { return Ok(()) };
        while connection.writable && !connection.output.is_empty() {
            if budget == 0 {
                self.net.make_dirty(id);
                return Ok(());
            }
            let (result, offered) = match connection.output.contiguous() {
                Some(bytes) => {
                    let bytes = &bytes[..bytes.len().min(budget)];
                    (self.net.poller.write(socket, bytes), bytes.len())
                }
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                    let filled = connection.output.slices(&mut slices, budget);
                    let offered = slices[..filled].iter().map(|slice| slice.len()).sum();
                    (self.net.poller.write_vectored(socket, &slices[..filled]), offered)
                }
            };
            match result {
                Ok(count) => {
                    connection.output.advance(count);
                    budget -= count;
                    connection.last_sent = now;
                    // Contract of the poller: a short write means full, and room brings an event.
                    connection.writable = count == offered;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.writable = false,
                Err(error) => return Err(error),
            }
        }
        if let Some(buffer) = connection.output.reclaim() {
            self.net.spare.give(buffer);
        }
        Ok(())
    }

    /// Nothing waits any more: end our half, or the connection, if that was asked for.
    fn output_sent(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        if connection.closing.is_some() {
            return self.finish_close(id);
        }
        if connection.write_half == WriteHalf::Ending {
            connection.write_half = WriteHalf::Ended;
            let Some(socket) = connection.socket else { return };
            match self.net.poller.shutdown_write(socket) {
                // The peer has reset it: the read tells.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                Err(error) => self.net.doom(id, error.into()),
                Ok(()) => {}
            }
        }
    }

    /// The output of a closing connection is sent. If the peer may still be sending, closing now would make the kernel answer
    /// with a reset, which can overtake our last reply and destroy it; so end our half, and read on, into the void, until
    /// the peer has ended his or a short time has passed.
    fn finish_close(&mut self, id: ConnectionId) {
        let now = self.net.now;
        let Some(connection) = self.net.connections.get_mut(id.index as usize) else { return };
        if connection.lingering {
            return;
        }
        let refused = matches!(connection.closing, Some(CloseReason::Decode(_)));
        let more_may_come = refused || connection.readable || connection.input.len() > 0;
        if !connection.input_ended
            && more_may_come
            && let Some(socket) = connection.socket
        {
            connection.lingering = true;
            if self.net.poller.shutdown_write(socket).is_ok() {
                if let Some(timer) = connection.close_timer {
                    self.net.timers.update(timer, now + LINGER);
                }
                return self.net.schedule(id);
            }
        }
        if let Some(reason) = connection.closing.take() {
            self.net.doom(id, reason);
        }
    }

    /// Reads what nobody wants any more.
    fn linger(&mut self, id: ConnectionId) {
        let mut scratch = std::mem::take(&mut self.net.scratch);
        let mut budget = self.net.config.read_bytes_per_turn_max.max(1);
        while let Some(socket) =
            self.net.connection(id).filter(|c| c.readable && c.doom.is_none()).and_then(|c| c.socket)
        {
            if budget == 0 {
                self.net.schedule(id);
                break;
            }
            let room = scratch.len().min(budget);
            let result = self.net.poller.read(socket, &mut scratch[..room]);
            let failed = matches!(&result, Err(error) if error.kind() != io::ErrorKind::WouldBlock);
            if !failed && self.account_read(id, result, room, &mut budget).is_some() {
                continue;
            }
            let Some(connection) = self.net.connection_mut(id) else { break };
            if (failed || connection.input_ended)
                && let Some(reason) = connection.closing.take()
            {
                self.net.doom(id, reason);
            }
        }
        self.net.scratch = scratch;
    }

    fn mark_water(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        if connection.doom.is_some() {
            return;
        }
        let length = connection.output.len();
        if !connection.output_high && length > connection.config.output_high_bytes {
            connection.output_high = true;
            self.notify(id, Notice::OutputHigh);
        } else if connection.output_passed && length <= connection.config.output_low_bytes {
            (connection.output_high, connection.output_passed) = (false, false);
            self.net.schedule(id);
            self.notify(id, Notice::OutputLow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_what_has_come_and_not_what_is_announced() {
        assert_eq!(room_for(10, 512 << 20), READ_ROOM_BYTES);
        assert_eq!(room_for(1 << 20, 512 << 20), 1 << 20);
        assert_eq!(room_for(1 << 20, (1 << 20) + 100), READ_ROOM_BYTES);
        assert_eq!(room_for(1 << 20, (1 << 20) + 100_000), 100_000);
        assert_eq!(room_for(1 << 20, 0), READ_ROOM_BYTES, "the length is not known");
    }
}
