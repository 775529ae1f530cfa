//! A real `redis-server` for comparison, spoken to over a Unix socket in a directory of its own.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use dstore_resp::{ProtocolVersion, Reply, encode};
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
        requests.iter().map(|_| Answer::read(&mut self.reader)).collect()
    }
}

/// An answer as a client sees it. RESP3's own forms appear in RESP3 alone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    /// A status, with its `+`, or an error, with its `-`.
    Line(String),
    Integer(i64),
    Bulk(Option<Bytes>),
    Array(Option<Vec<Answer>>),
    /// RESP3's null.
    Null,
    /// RESP3's map: key, value, key, value.
    Map(Vec<Answer>),
}

impl Answer {
    /// What a client of ours would see.
    pub(crate) fn of(reply: &Reply, version: ProtocolVersion) -> Answer {
        let mut bytes = Vec::new();
        encode(reply, version, &mut bytes);
        let mut rest = bytes.as_slice();
        let answer = Answer::read(&mut rest);
        assert!(rest.is_empty(), "bytes behind a reply");
        answer
    }

    fn read(from: &mut impl BufRead) -> Answer {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line).expect("an answer");
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r\n").expect("a whole line")).into_owned();
        let number = || line[1..].parse::<i64>().expect("a number");
        match line.as_bytes().first().expect("an answer has a type") {
            b'+' | b'-' => Answer::Line(line),
            b':' => Answer::Integer(number()),
            b'$' => Answer::Bulk(usize::try_from(number()).ok().map(|len| {
                let mut bytes = vec![0; len + 2];
                from.read_exact(&mut bytes).expect("a whole string");
                bytes.truncate(len);
                Bytes::from(bytes)
            })),
            b'*' => {
                Answer::Array(usize::try_from(number()).ok().map(|len| (0..len).map(|_| Answer::read(from)).collect()))
            }
            b'%' => Answer::Map((0..2 * number()).map(|_| Answer::read(from)).collect()),
            b'_' => Answer::Null,
            other => panic!("an answer of type {:?}", char::from(*other)),
        }
    }

    pub(crate) fn is_error(&self) -> bool {
        matches!(self, Answer::Line(line) if line.starts_with('-'))
    }

    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Answer::Null | Answer::Bulk(None))
    }

    pub(crate) fn integer(&self) -> i64 {
        match self {
            Answer::Integer(value) => *value,
            other => panic!("{other:?} instead of an integer"),
        }
    }

    pub(crate) fn bulk(&self) -> &Bytes {
        match self {
            Answer::Bulk(Some(bytes)) => bytes,
            other => panic!("{other:?} instead of a string"),
        }
    }

    pub(crate) fn array(&self) -> &[Answer] {
        match self {
            Answer::Array(Some(answers)) => answers,
            other => panic!("{other:?} instead of an array"),
        }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Line(line) => f.write_str(line),
            Answer::Integer(value) => write!(f, ":{value}"),
            Answer::Bulk(Some(bytes)) => write!(f, "{bytes:?}"),
            Answer::Bulk(None) => f.write_str("nil"),
            Answer::Array(Some(answers)) => answers.fmt(f),
            Answer::Array(None) => f.write_str("nil array"),
            Answer::Null => f.write_str("null"),
            Answer::Map(answers) => write!(f, "map {answers:?}"),
        }
    }
}
