//! Who is at each end of a connection: cluster, node, start, and the secret that proves membership.

use std::fmt;

/// A cluster, chosen at random when it is created. Nodes of different clusters refuse each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A node of a cluster. 0 is no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// One start of a node: greater after every restart, so that a peer can tell a new process from an old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// What a node says of itself in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id in that cluster.
    pub node: NodeId,
    /// Which start of it this is.
    pub incarnation: Incarnation,
}

/// The secret that all nodes of a cluster share. It is never sent, and never printed.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

/// The least bytes of a [`Secret`]: a refused proof can be tried against guesses offline by whoever saw it, so the
/// secret must be random and too long to guess.
pub const SECRET_BYTES_MIN: usize = 16;

/// A secret below [`SECRET_BYTES_MIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster secret needs at least {SECRET_BYTES_MIN} bytes, not {0}")]
pub struct SecretTooShort(pub usize);

impl Secret {
    /// Takes at least [`SECRET_BYTES_MIN`] random bytes.
    pub fn new(bytes: &[u8]) -> Result<Secret, SecretTooShort> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(SecretTooShort(bytes.len()));
        }
        Ok(Secret(bytes.into()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Which of the two connections to a peer this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Calls and one-way messages: short, and never behind bulk.
    Messages,
    /// Streams.
    Bulk,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lane::Messages => "messages",
            Lane::Bulk => "bulk",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_and_never_printed() {
        assert_eq!(Secret::new(b"short").unwrap_err(), SecretTooShort(5));
        let secret = Secret::new(b"0123456789abcdef").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
