//! A real `redis-server` for comparison, spoken to over a Unix socket in a directory of its own.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use dstore_resp::{ProtocolVersion, Reply, encode};
pub(crate) use dstore_testkit::answer::Answer;
use tempfile::TempDir;

/// A running server; it ends with this value.
pub(crate) struct RedisServer {
    child: Child,
    directory: TempDir,
}

impl RedisServer {
    /// Starts one, or says why that is not possible here.
    pub(crate) fn start() -> Result<RedisServer, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut child = Command::new("redis-server")
            .current_dir(directory.path())
            .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"])
            .args(["--databases", "4", "--proto-max-bulk-len", "1mb", "--daemonize", "no", "--logfile", ""])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server: {error}"))?;
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let server = RedisServer { child, directory };
        for line in output.lines() {
            if line.map_err(|error| error.to_string())?.contains("ready to accept connections") {
                return Ok(server);
            }
        }
        Err("redis-server ended before it was ready".into())
    }

    pub(crate) fn connect(&self) -> RedisClient {
        let stream = UnixStream::connect(self.directory.path().join("redis.sock")).expect("it is ready");
        RedisClient { reader: BufReader::new(stream.try_clone().expect("a second handle")), writer: stream }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Nothing to save, and nobody to tell if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct RedisClient {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl RedisClient {
    /// Sends these requests at once and waits for all answers.
    pub(crate) fn pipeline(&mut self, requests: &[&[Bytes]]) -> Vec<Answer> {
        let mut bytes = Vec::new();
        for request in requests {
            bytes.extend(format!("*{}\r\n", request.len()).bytes());
            for arg in *request {
                bytes.extend(format!("${}\r\n", arg.len()).bytes());
                bytes.extend_from_slice(arg);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        self.writer.write_all(&bytes).expect("redis-server takes requests");
        requests.iter().map(|_| Answer::read(&mut self.reader).expect("an answer")).collect()
    }
}

/// What a client of ours would see of a reply.
pub(crate) fn answer_of(reply: &Reply, version: ProtocolVersion) -> Answer {
    let mut bytes = Vec::new();
    encode(reply, version, &mut bytes);
    Answer::parse(&bytes)
}
