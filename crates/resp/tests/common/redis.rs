//! A real Redis to compare with.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a test against a real process")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use dstore_resp::{Decoded, Reply, ReplyDecoder, ReplyLimits};

/// A `redis-server` of our own on a Unix socket, stopped when dropped.
pub(crate) struct Redis {
    process: Child,
    directory: PathBuf,
}

impl Redis {
    /// Starts one; `None`, with the reason printed, if it is not installed or not the version compared with.
    pub(crate) fn start() -> Option<Redis> {
        let version = match Command::new("redis-server").arg("--version").output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => {
                println!("skipped: redis-server cannot be run: {error}");
                return None;
            }
        };
        if !version.contains("v=7.0.") {
            println!("skipped: this compares with Redis 7.0, installed is {version}");
            return None;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("dstore-resp-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&directory).expect("the temporary directory can be written");
        let mut process = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", "socket", "--save", "", "--enable-debug-command", "yes", "--dir"])
            .arg(&directory)
            .current_dir(&directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        let stdout = process.stdout.take().expect("it is piped");
        let redis = Redis { process, directory };
        let mut log = Vec::new();
        for line in BufReader::new(stdout).lines() {
            log.push(line.expect("the log is text"));
            // Redis announces each way in; the socket is the only one.
            if log.last().is_some_and(|line| line.contains("accept connections at") || line.contains("unix socket")) {
                return Some(redis);
            }
        }
        panic!("redis-server ended: {log:#?}");
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.directory.join("socket")).expect("redis-server listens");
        Client { stream, decoder: ReplyDecoder::new(ReplyLimits::default()), input: Vec::new(), raw: Vec::new() }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A connection to it.
pub(crate) struct Client {
    stream: UnixStream,
    decoder: ReplyDecoder,
    input: Vec<u8>,
    raw: Vec<u8>,
}

impl Client {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // A connection that Redis closes on an error may not take it all.
        let _ = self.stream.write_all(bytes);
    }

    /// The next reply as it came and decoded. `None` when Redis has closed the connection.
    pub(crate) fn receive(&mut self) -> Option<(Vec<u8>, Reply)> {
        loop {
            match self.decoder.decode(&self.input).expect("what Redis sends is valid") {
                Decoded::Message(reply, used) => {
                    self.raw.extend(self.input.drain(..used));
                    return Some((std::mem::take(&mut self.raw), reply));
                }
                Decoded::Skip(used) => self.raw.extend(self.input.drain(..used)),
                Decoded::Incomplete { .. } => {
                    let mut buffer = vec![0; 64 * 1024];
                    match self.stream.read(&mut buffer) {
                        Ok(0) | Err(_) => return None,
                        Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                    }
                }
            }
        }
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn call(&mut self, args: &[impl AsRef<[u8]>]) -> (Vec<u8>, Reply) {
        self.send(&super::multibulk(args));
        self.receive().expect("an answer")
    }

    /// [`Client::call`] with the words of a line.
    pub(crate) fn line(&mut self, line: &str) -> (Vec<u8>, Reply) {
        self.call(&line.split(' ').collect::<Vec<_>>())
    }
}
