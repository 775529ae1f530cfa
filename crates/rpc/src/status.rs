//! How a call ends when it does not end in a reply: what went wrong, and whether the request may have been executed.
//!
//! The second half is what a caller that retries needs: after [`Execution::NotExecuted`] it may simply try again;
//! after [`Execution::MayHaveExecuted`] only where the request is idempotent or numbered.

use std::fmt;

use bytes::Bytes;
use prost::Message;

/// The longest message of a status that travels; longer ones are cut.
const MESSAGE_BYTES_MAX: usize = 256;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Code {
    /// No connection to the peer, or it died, or the peer could not say.
    Unavailable = 1,
    /// The deadline passed.
    DeadlineExceeded = 2,
    /// A bound on requests, bytes or streams is reached, here or there. Later may succeed.
    Overloaded = 3,
    /// The peer has no such method.
    UnknownMethod = 4,
    /// The caller cancelled.
    Cancelled = 5,
    /// The request could not be decoded, or exceeds what the peer accepts.
    InvalidRequest = 6,
    /// The reply could not be decoded.
    InvalidReply = 7,
    /// The method ran and answered with an error of its own, in the payload.
    Application = 8,
}

impl Code {
    /// Every code, for tests and tables that must leave none out.
    pub const ALL: [Code; 8] = [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Overloaded,
        Code::UnknownMethod,
        Code::Cancelled,
        Code::InvalidRequest,
        Code::InvalidReply,
        Code::Application,
    ];

    /// Its name in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Code::Unavailable => "unavailable",
            Code::DeadlineExceeded => "deadline exceeded",
            Code::Overloaded => "overloaded",
            Code::UnknownMethod => "unknown method",
            Code::Cancelled => "cancelled",
            Code::InvalidRequest => "invalid request",
            Code::InvalidReply => "invalid reply",
            Code::Application => "application error",
        }
    }
}

/// Whether the request took effect, as far as the one who reports it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Execution {
    /// Nobody knows: it was sent.
    MayHaveExecuted = 0,
    /// It certainly was not, and will not be.
    NotExecuted = 1,
    /// It was: the method ran to its end.
    Executed = 2,
}

/// How a call, or a stream, ended without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What went wrong.
    pub code: Code,
    /// Whether the request took effect.
    pub execution: Execution,
    /// For people: where and why.
    pub message: String,
    /// For programs: the application's own error, on [`Code::Application`].
    pub payload: Bytes,
}

impl Status {
    /// A status without a payload.
    pub fn new(code: Code, execution: Execution, message: impl Into<String>) -> Status {
        Status { code, execution, message: message.into(), payload: Bytes::new() }
    }

    /// The application's own error: the method ran, and `payload` says what came of it. Where it refused without
    /// doing anything, set [`Status::execution`] to say so.
    pub fn application(payload: impl Into<Bytes>, message: impl Into<String>) -> Status {
        Status {
            code: Code::Application,
            execution: Execution::Executed,
            message: message.into(),
            payload: payload.into(),
        }
    }

    /// True if the request certainly was not executed, so that trying again is safe.
    pub fn safe_to_retry(&self) -> bool {
        self.execution == Execution::NotExecuted
    }

    pub(crate) fn to_wire(&self) -> Bytes {
        let mut cut = self.message.len().min(MESSAGE_BYTES_MAX);
        while !self.message.is_char_boundary(cut) {
            cut -= 1;
        }
        let body = StatusBody {
            code: self.code as i32,
            execution: self.execution as i32,
            message: self.message[..cut].to_owned(),
            payload: self.payload.clone(),
        };
        body.encode_to_vec().into()
    }

    /// `None` if the body is not a status. A code or an execution of a later version counts as the vaguest of ours.
    pub(crate) fn from_wire(body: Bytes) -> Option<Status> {
        let body = StatusBody::decode(body).ok()?;
        Some(Status {
            code: Code::try_from(body.code).unwrap_or(Code::Unavailable),
            execution: Execution::try_from(body.execution).unwrap_or(Execution::MayHaveExecuted),
            message: body.message,
            payload: body.payload,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code.name())?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        f.write_str(match self.execution {
            Execution::NotExecuted => " (not executed)",
            Execution::MayHaveExecuted => " (may have been executed)",
            Execution::Executed => " (executed)",
        })
    }
}

impl std::error::Error for Status {}

#[derive(Clone, PartialEq, Message)]
struct StatusBody {
    #[prost(enumeration = "Code", tag = "1")]
    code: i32,
    #[prost(enumeration = "Execution", tag = "2")]
    execution: i32,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(bytes = "bytes", tag = "4")]
    payload: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_the_wire() {
        for code in Code::ALL {
            for execution in [Execution::NotExecuted, Execution::MayHaveExecuted, Execution::Executed] {
                let status = Status { payload: Bytes::from_static(b"p"), ..Status::new(code, execution, "why") };
                assert_eq!(Status::from_wire(status.to_wire()), Some(status));
            }
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let status = Status::new(Code::Unavailable, Execution::NotExecuted, "é".repeat(1000));
        let read = Status::from_wire(status.to_wire()).unwrap();
        assert_eq!(read.message, "é".repeat(MESSAGE_BYTES_MAX / 2));
    }

    #[test]
    fn an_unknown_code_is_read_as_the_vaguest() {
        let body = StatusBody { code: 99, execution: 99, message: String::new(), payload: Bytes::new() };
        let status = Status::from_wire(body.encode_to_vec().into()).unwrap();
        assert_eq!((status.code, status.execution), (Code::Unavailable, Execution::MayHaveExecuted));
        assert_eq!(Status::from_wire(Bytes::from_static(&[0xff; 3])), None);
    }
}
