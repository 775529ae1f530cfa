//! A client of one node that waits for each reply: for commands of the command line, not for speed.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail};
use dstore_resp::{Decoded, Reply, ReplyDecoder, ReplyLimits};

/// Largest reply that is taken: what nodes say of themselves is a few kilobytes.
const REPLY_BYTES_MAX: usize = 4 << 20;

/// A connection to one node.
pub struct Client {
    stream: TcpStream,
    decoder: ReplyDecoder,
    /// Received and not yet decoded.
    input: Vec<u8>,
}

impl Client {
    /// Connects to `address`, `host:port`. Neither this nor a reply may take longer than `timeout`.
    ///
    /// # Errors
    ///
    /// Nobody answers there.
    pub fn connect(address: &str, timeout: Duration) -> anyhow::Result<Client> {
        let mut last = None;
        for candidate in address.to_socket_addrs().with_context(|| format!("cannot look up `{address}`"))? {
            match TcpStream::connect_timeout(&candidate, timeout) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(timeout))?;
                    stream.set_write_timeout(Some(timeout))?;
                    let decoder = ReplyDecoder::new(ReplyLimits { reply_bytes_max: REPLY_BYTES_MAX });
                    return Ok(Client { stream, decoder, input: Vec::new() });
                }
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error.into()),
            None => bail!("`{address}` has no address"),
        }
    }

    /// Sends a command and waits for its reply. An error reply is an error.
    ///
    /// # Errors
    ///
    /// The node answers with an error, with what is no reply, or not in time.
    pub fn call(&mut self, args: &[&str]) -> anyhow::Result<Reply> {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            request.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
        }
        self.stream.write_all(&request)?;
        match self.reply()? {
            Reply::Error(text) => bail!("{}", String::from_utf8_lossy(&text)),
            reply => Ok(reply),
        }
    }

    /// As [`Client::call`], for commands that answer with text.
    ///
    /// # Errors
    ///
    /// See [`Client::call`].
    pub fn call_text(&mut self, args: &[&str]) -> anyhow::Result<String> {
        match self.call(args)? {
            Reply::Bulk(text) | Reply::Verbatim(_, text) | Reply::Status(text) => {
                Ok(String::from_utf8_lossy(&text).into())
            }
            reply => bail!("{} was answered with {reply:?}", args[0]),
        }
    }

    fn reply(&mut self) -> anyhow::Result<Reply> {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.decoder.decode(&self.input)? {
                Decoded::Message(reply, length) => {
                    self.input.drain(..length);
                    return Ok(reply);
                }
                Decoded::Skip(length) => drop(self.input.drain(..length)),
                Decoded::Incomplete { .. } => {
                    let count = match self.stream.read(&mut chunk) {
                        Ok(count) => count,
                        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                            bail!("no reply in time")
                        }
                        Err(error) => return Err(error).context("no reply"),
                    };
                    if count == 0 {
                        bail!("the connection was closed");
                    }
                    self.input.extend_from_slice(&chunk[..count]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that answers one connection with `answer`, in pieces, whatever it is asked.
    fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            let _ = stream.read(&mut request).unwrap();
            for byte in answer {
                stream.write_all(&[*byte]).unwrap();
            }
        });
        address
    }

    fn ask(answer: &'static [u8]) -> anyhow::Result<String> {
        Client::connect(&server(answer), Duration::from_secs(30))?.call_text(&["INFO"])
    }

    #[test]
    fn silence_is_told_as_such() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let mut client = Client::connect(&address, Duration::from_millis(10)).unwrap();
        assert_eq!(client.call(&["INFO"]).unwrap_err().to_string(), "no reply in time");
    }

    #[test]
    fn replies_are_put_together_and_errors_are_errors() {
        assert_eq!(ask(b"$5\r\nhello\r\n").unwrap(), "hello");
        assert_eq!(
            ask(b"-NOAUTH Authentication required.\r\n").unwrap_err().to_string(),
            "NOAUTH Authentication required."
        );
        assert_eq!(ask(b"$5\r\nhel").unwrap_err().to_string(), "the connection was closed");
        assert!(ask(b"HTTP/1.1 400 Bad Request\r\n").is_err());
        assert!(ask(b":5\r\n").unwrap_err().to_string().contains("INFO was answered with"));
    }
}
