//! A Redis client of a hundred lines that hides nothing: what was sent, what came back, and when a connection broke.
//!
//! For loads and benchmarks that must tell a refusal from a lost connection, and for programs here that ask a node how it
//! does. It speaks RESP2. Tests of what users see go through clients that other people wrote.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest text that is taken for the head of a reply: a line longer than this is none.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR what was wrong`
    Error(String),
    /// `:1`
    Integer(i64),
    /// A string of bytes.
    Bulk(Vec<u8>),
    /// Nothing, as a string or an array.
    Null,
    /// Several replies.
    Array(Vec<Reply>),
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects; neither this nor any read takes longer than `timeout`.
    ///
    /// # Errors
    ///
    /// Nobody listens there, or nothing answers in time.
    pub fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    ///
    /// The connection broke, or the reply did not come in time: what became of the command is not known. The client is
    /// of no more use then.
    pub fn call(&mut self, arguments: &[&[u8]]) -> io::Result<Reply> {
        let mut request = Vec::new();
        pack(&mut request, arguments);
        self.send(&request)?;
        self.receive()
    }

    /// Sends requests as [`pack`] made them.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(requests)
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    ///
    /// The connection broke, or the reply did not come in time.
    pub fn receive(&mut self) -> io::Result<Reply> {
        read_reply(&mut self.stream)
    }
}

/// Appends one request in the Redis protocol.
pub fn pack(request: &mut Vec<u8>, arguments: &[&[u8]]) {
    request.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        request.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        request.extend_from_slice(argument);
        request.extend_from_slice(b"\r\n");
    }
}

fn read_reply(input: &mut impl BufRead) -> io::Result<Reply> {
    let line = read_line(input)?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("no reply begins with {line:?}"));
    let kind = line.get(..1).ok_or_else(bad)?;
    let rest = &line[1..];
    let number = || rest.parse::<i64>().map_err(|_| bad());
    Ok(match kind {
        "+" => Reply::Simple(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Integer(number()?),
        "$" | "*" if number()? == -1 => Reply::Null,
        "$" => {
            let bytes = u64::try_from(number()?).map_err(|_| bad())?;
            let mut text = Vec::new();
            input.take(bytes).read_to_end(&mut text)?;
            let mut end = [0; 2];
            input.read_exact(&mut end)?; // also what fails when the text was cut short
            Reply::Bulk(text)
        }
        "*" => Reply::Array((0..number()?).map(|_| read_reply(input)).collect::<io::Result<_>>()?),
        _ => return Err(bad()),
    })
}

fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    input.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\r\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_reply_is_read() {
        let mut input: &[u8] = b"+OK\r\n-ERR no\r\n:-7\r\n$2\r\n\r\n\r\n$-1\r\n*2\r\n:1\r\n*0\r\n";
        let bulk = Reply::Bulk(b"\r\n".to_vec());
        let array = Reply::Array(vec![Reply::Integer(1), Reply::Array(Vec::new())]);
        let simple = [Reply::Simple("OK".into()), Reply::Error("ERR no".into()), Reply::Integer(-7)];
        for expected in simple.into_iter().chain([bulk, Reply::Null, array]) {
            assert_eq!(read_reply(&mut input).unwrap(), expected);
        }
        assert_eq!(read_reply(&mut input).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_reply_that_was_cut_short_is_an_error() {
        let whole: &[u8] = b"*2\r\n$5\r\nhello\r\n:12\r\n";
        for length in 0..whole.len() {
            assert!(read_reply(&mut &whole[..length]).is_err(), "{length} bytes");
        }
        assert!(read_reply(&mut &b"?\r\n"[..]).is_err());
        assert!(read_reply(&mut &b"$-2\r\n"[..]).is_err());
    }

    #[test]
    fn a_request_is_packed_as_the_protocol_says() {
        let mut request = Vec::new();
        pack(&mut request, &[b"SET", b"k", b""]);
        assert_eq!(request, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
    }
}
