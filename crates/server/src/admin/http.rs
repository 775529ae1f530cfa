//! As much HTTP/1.1 as a watcher needs: `GET` without a body, a bounded head, connections that are kept or closed.

use std::fmt::Write;

/// Largest head of a request: browsers with their cookies stay below it.
pub const HEAD_BYTES_MAX: usize = 8192;

/// A request that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The path asked for, without its query.
    pub path: String,
    /// Whether another request may follow on the connection.
    pub keep_alive: bool,
}

/// Why a request is not served. The connection ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not HTTP/1, or has a body.
    Malformed,
    /// It is not a `GET`.
    Method,
    /// Its head is larger than [`HEAD_BYTES_MAX`].
    TooLarge,
}

impl Refusal {
    /// What it is answered with.
    pub fn response(self) -> Response {
        match self {
            Refusal::Malformed => Response::text(400, "this is no HTTP/1 request that is understood here\n"),
            Refusal::Method => Response::text(405, "only GET\n"),
            Refusal::TooLarge => Response::text(431, "the head of the request is too large\n"),
        }
    }
}

/// The request at the beginning of `input`, and its length; `None` while it is not whole.
///
/// # Errors
///
/// See [`Refusal`].
pub fn decode(input: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if input.len() >= HEAD_BYTES_MAX { Err(Refusal::TooLarge) } else { Ok(None) };
    };
    if end + 4 > HEAD_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    let head = std::str::from_utf8(&input[..end]).map_err(|_| Refusal::Malformed)?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refusal::Malformed);
    };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return Err(Refusal::Malformed);
    }
    let mut keep_alive = version != "HTTP/1.0";
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(Refusal::Malformed)?;
        match name.to_ascii_lowercase().as_str() {
            "connection" if value.trim().eq_ignore_ascii_case("close") => keep_alive = false,
            "content-length" if value.trim() != "0" => return Err(Refusal::Malformed),
            "transfer-encoding" => return Err(Refusal::Malformed),
            _ => {}
        }
    }
    if method != "GET" {
        return Err(Refusal::Method);
    }
    let path = target.split('?').next().unwrap_or_default().to_owned();
    Ok(Some((Request { path, keep_alive }, end + 4)))
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 200, or what is wrong.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Response {
    /// A line for people.
    pub fn text(status: u16, body: impl Into<String>) -> Response {
        Response { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// The bytes that are sent.
    pub fn encode(&self, keep_alive: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let Response { status, content_type, body } = self;
        let mut head = format!("HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n");
        // Writing to a String cannot fail.
        let _ = write!(head, "Content-Length: {}\r\nCache-Control: no-store\r\n", body.len());
        if *status == 405 {
            head.push_str("Allow: GET\r\n");
        }
        head.push_str(if keep_alive { "Connection: keep-alive\r\n\r\n" } else { "Connection: close\r\n\r\n" });
        head.push_str(body);
        head.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, keep_alive: bool) -> Request {
        Request { path: path.to_owned(), keep_alive }
    }

    #[test]
    fn a_request_is_whole_at_its_empty_line() {
        let input = b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\nGET";
        for length in 0..input.len() - 3 {
            assert_eq!(decode(&input[..length]), Ok(None), "{length}");
        }
        assert_eq!(decode(input), Ok(Some((request("/metrics", true), input.len() - 3))));
        assert_eq!(decode(b"GET / HTTP/1.0\r\n\r\n"), Ok(Some((request("/", false), 18))));
        let closing = b"GET / HTTP/1.1\r\nconnection: Close\r\n\r\n";
        assert_eq!(decode(closing), Ok(Some((request("/", false), closing.len()))));
    }

    #[test]
    fn everything_else_is_refused() {
        let malformed = [
            "GET /\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET http://localhost/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "\r\n\r\n",
        ];
        for input in malformed {
            assert_eq!(decode(input.as_bytes()), Err(Refusal::Malformed), "{input:?}");
        }
        assert_eq!(decode(b"GET /\xff HTTP/1.1\r\n\r\n"), Err(Refusal::Malformed));
        assert_eq!(decode(b"DELETE / HTTP/1.1\r\n\r\n"), Err(Refusal::Method));
        let long = |bytes: usize| format!("GET / HTTP/1.1\r\na: {}", "x".repeat(bytes)).into_bytes();
        assert_eq!(decode(&long(HEAD_BYTES_MAX - 100)), Ok(None));
        assert_eq!(decode(&long(HEAD_BYTES_MAX)), Err(Refusal::TooLarge));
        let whole = [long(HEAD_BYTES_MAX), b"\r\n\r\n".to_vec()].concat();
        assert_eq!(decode(&whole), Err(Refusal::TooLarge));
    }
}
