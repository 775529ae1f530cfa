//! The load: so many connections, each with so many frames in flight, until so many echoes came back. Every byte is checked.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// The body of a frame.
pub(crate) const BODY_BYTES: usize = 64;
const FRAME_BYTES: usize = 4 + BODY_BYTES;

struct Client {
    stream: TcpStream,
    /// Bytes of the present batch that have not come back yet.
    missing: usize,
}

/// A set of connections to one server.
pub(crate) struct Load {
    poll: Poll,
    clients: Vec<Client>,
    batch: Vec<u8>,
}

impl Load {
    /// Connects; each connection will have `pipeline` frames in flight.
    pub(crate) fn connect(address: SocketAddr, connections: usize, pipeline: usize) -> io::Result<Load> {
        let poll = Poll::new()?;
        let mut clients = Vec::with_capacity(connections);
        for index in 0..connections {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            clients.push(Client { stream, missing: 0 });
        }
        let mut frame = Vec::with_capacity(FRAME_BYTES);
        frame.extend_from_slice(&(BODY_BYTES as u32).to_be_bytes());
        frame.extend((0..BODY_BYTES).map(|n| n as u8));
        Ok(Load { poll, clients, batch: frame.repeat(pipeline) })
    }

    /// Exchanges about `messages` frames in all and returns how many it were.
    pub(crate) fn run(&mut self, messages: u64) -> io::Result<u64> {
        let per_batch = (self.batch.len() / FRAME_BYTES) as u64;
        let mut batches_left = messages / per_batch;
        let mut done = 0;
        let mut open = 0;
        for client in &mut self.clients {
            if batches_left > 0 {
                batches_left -= 1;
                open += 1;
                client.send(&self.batch)?;
            }
        }
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 64 * 1024];
        while open > 0 {
            self.poll.poll(&mut events, None)?;
            for event in &events {
                let client = &mut self.clients[event.token().0];
                client.receive(&mut buffer, &self.batch)?;
                if client.missing == 0 {
                    done += per_batch;
                    if batches_left > 0 {
                        batches_left -= 1;
                        client.send(&self.batch)?;
                    } else {
                        open -= 1;
                    }
                }
            }
        }
        Ok(done)
    }
}

impl Client {
    /// A batch fits any socket buffer, which is empty here: everything before it has come back.
    fn send(&mut self, batch: &[u8]) -> io::Result<()> {
        self.missing = batch.len();
        self.stream.write_all(batch)
    }

    fn receive(&mut self, buffer: &mut [u8], batch: &[u8]) -> io::Result<()> {
        while self.missing > 0 {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    let at = batch.len() - self.missing;
                    if batch.get(at..at + count) != Some(&buffer[..count]) {
                        return Err(io::Error::other("the echo is not what was sent"));
                    }
                    self.missing -= count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
