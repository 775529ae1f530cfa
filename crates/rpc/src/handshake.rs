//! The handshake: both ends agree on a version, prove that they hold the cluster's secret, and say who they are.
//!
//! ```text
//! dialer                                              acceptor
//!   | Hello      versions, nonce D                        |
//!   | --------------------------------------------------> |
//!   |             version, nonce A            Challenge   |
//!   | <-------------------------------------------------- |
//!   | Proof      HMAC(secret, "dialer", all of the above) |
//!   | --------------------------------------------------> |   now the acceptor knows a member asks
//!   |             identity, HMAC(secret, ...)   Welcome   |
//!   | <-------------------------------------------------- |   now the dialer knows a member answers
//!   | Identity   identity, lane, HMAC(secret, ...)        |
//!   | --------------------------------------------------> |   and who asks; calls may follow at once
//! ```
//!
//! Every HMAC-SHA256 covers its own label and every byte said before it (kind, length and body of each frame), so
//! nothing can be replayed, reflected or downgraded. A node without the secret sees two version numbers, two
//! nonces and a refusal; it learns neither cluster nor node, and nothing it sends reaches an application.
//!
//! Caveats: frames after the handshake carry checksums, not authentication: whoever can rewrite a TCP connection can
//! take it over once it is open. TLS below this protocol closes that; its channel binding then belongs at the start
//! of the transcript. A proof can be tried against guessed secrets offline, which is why short secrets are refused.

use std::sync::Arc;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use sha2::Sha256;

use crate::config::Config;
use crate::frame::{BODY_BYTES_MAX, Frame, Kind};
use crate::identity::{ClusterId, Identity, Incarnation, Lane, NodeId};

/// Protocol versions this build speaks.
pub const VERSION_MIN: u32 = 1;
/// See [`VERSION_MIN`].
pub const VERSION_MAX: u32 = 1;

/// Fresh random bytes, handed in with every new connection: never twice the same.
pub type Nonce = [u8; 32];

/// Largest body of a handshake frame: all that a stranger can make this end hold.
pub(crate) const HANDSHAKE_BODY_BYTES_MAX: usize = 512;

const MAC_BYTES: usize = 32;

const LABEL_PROOF: &[u8] = b"dstore-rpc dialer proof";
const LABEL_WELCOME: &[u8] = b"dstore-rpc acceptor identity";
const LABEL_IDENTITY: &[u8] = b"dstore-rpc dialer identity";

/// What a connection knows of its peer once the handshake is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is, proved.
    pub identity: Identity,
    /// What the connection is for, as the dialer chose.
    pub lane: Lane,
    /// The protocol version in use.
    pub version: u32,
    /// The largest body the peer accepts.
    pub body_bytes_max: usize,
    /// The credit each stream towards the peer begins with.
    pub stream_window_bytes: u32,
}

/// Why a handshake failed. The other end is told the same text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No protocol version in common.
    #[error("no common protocol version: we speak {VERSION_MIN} to {VERSION_MAX}, the peer {min} to {max}")]
    Version {
        /// The peer's lowest.
        min: u32,
        /// The peer's highest.
        max: u32,
    },
    /// The peer does not hold our secret.
    #[error("the peer does not know the cluster secret")]
    Secret,
    /// The peer belongs to another cluster.
    #[error("the peer belongs to cluster {theirs}, not {ours}")]
    Cluster {
        /// Our cluster.
        ours: ClusterId,
        /// The peer's.
        theirs: ClusterId,
    },
    /// The peer says it is who we are: ourselves, reached by our own address, or a copy of us.
    #[error("the peer is node {0}, as we are: a connection to ourselves, or two nodes with one id")]
    Ourselves(NodeId),
    /// The address belongs to another node than the one we want.
    #[error("the peer is node {found}, not {expected}")]
    Node {
        /// Whom we wanted.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// A frame that no handshake contains at this point, or whose body is not what it should be.
    #[error("malformed handshake: {0}")]
    Malformed(&'static str),
}

/// What one handshake frame leads to.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// To be sent.
    pub(crate) send: Option<(Kind, Bytes)>,
    /// Set when the handshake is done on this end.
    pub(crate) done: Option<Peer>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    DialerAwaitsChallenge,
    DialerAwaitsWelcome { version: u32 },
    AcceptorAwaitsHello,
    AcceptorAwaitsProof { version: u32 },
    AcceptorAwaitsIdentity { version: u32 },
}

/// One end of a handshake.
#[derive(Debug)]
pub(crate) struct Handshake {
    config: Arc<Config>,
    nonce: Nonce,
    stage: Stage,
    /// The dialer's choice; unused by the acceptor, who learns it.
    lane: Lane,
    /// Whom the dialer wants, if it knows.
    expected: Option<NodeId>,
    /// Every frame so far: kind, length, body.
    transcript: Vec<u8>,
}

impl Handshake {
    /// The dialing end, and its first frame.
    pub(crate) fn dial(
        config: Arc<Config>,
        nonce: Nonce,
        lane: Lane,
        expected: Option<NodeId>,
    ) -> (Handshake, (Kind, Bytes)) {
        let mut handshake =
            Handshake { config, nonce, stage: Stage::DialerAwaitsChallenge, lane, expected, transcript: Vec::new() };
        let hello = HelloBody { version_min: VERSION_MIN, version_max: VERSION_MAX, nonce: nonce.to_vec().into() };
        let send = handshake.say(Kind::Hello, hello.encode_to_vec());
        (handshake, send)
    }

    /// The accepting end.
    pub(crate) fn accept(config: Arc<Config>, nonce: Nonce) -> Handshake {
        let (stage, lane) = (Stage::AcceptorAwaitsHello, Lane::Messages);
        Handshake { config, nonce, stage, lane, expected: None, transcript: Vec::new() }
    }

    /// Takes the peer's next frame.
    pub(crate) fn handle(&mut self, frame: &Frame) -> Result<Step, Refusal> {
        match (self.stage, frame.header.kind) {
            (Stage::AcceptorAwaitsHello, Kind::Hello) => self.hello(&frame.body),
            (Stage::DialerAwaitsChallenge, Kind::Challenge) => self.challenge(&frame.body),
            (Stage::AcceptorAwaitsProof { version }, Kind::Proof) => self.proof(&frame.body, version),
            (Stage::DialerAwaitsWelcome { version }, Kind::Welcome) => self.welcome(&frame.body, version),
            (Stage::AcceptorAwaitsIdentity { version }, Kind::Identity) => self.identity(&frame.body, version),
            _ => Err(Refusal::Malformed("a frame out of turn")),
        }
    }

    fn hello(&mut self, body: &Bytes) -> Result<Step, Refusal> {
        let hello = HelloBody::decode(body.clone()).map_err(|_| Refusal::Malformed("hello"))?;
        check_nonce(&hello.nonce)?;
        let version = hello.version_max.min(VERSION_MAX);
        if version < hello.version_min.max(VERSION_MIN) {
            return Err(Refusal::Version { min: hello.version_min, max: hello.version_max });
        }
        self.heard(Kind::Hello, body);
        self.stage = Stage::AcceptorAwaitsProof { version };
        let challenge = ChallengeBody { version, nonce: self.nonce.to_vec().into() };
        Ok(Step { send: Some(self.say(Kind::Challenge, challenge.encode_to_vec())), done: None })
    }

    fn challenge(&mut self, body: &Bytes) -> Result<Step, Refusal> {
        let challenge = ChallengeBody::decode(body.clone()).map_err(|_| Refusal::Malformed("challenge"))?;
        check_nonce(&challenge.nonce)?;
        if !(VERSION_MIN..=VERSION_MAX).contains(&challenge.version) {
            return Err(Refusal::Version { min: challenge.version, max: challenge.version });
        }
        self.heard(Kind::Challenge, body);
        self.stage = Stage::DialerAwaitsWelcome { version: challenge.version };
        let proof = self.mac(LABEL_PROOF, &[]).finalize().into_bytes().to_vec();
        Ok(Step { send: Some(self.say(Kind::Proof, proof)), done: None })
    }

    fn proof(&mut self, body: &Bytes, version: u32) -> Result<Step, Refusal> {
        self.mac(LABEL_PROOF, &[]).verify_slice(body).map_err(|_| Refusal::Secret)?;
        self.heard(Kind::Proof, body);
        self.stage = Stage::AcceptorAwaitsIdentity { version };
        Ok(Step { send: Some(self.introduce(Kind::Welcome, LABEL_WELCOME)), done: None })
    }

    fn welcome(&mut self, body: &Bytes, version: u32) -> Result<Step, Refusal> {
        let peer = self.introduced(LABEL_WELCOME, body, version)?;
        self.heard(Kind::Welcome, body);
        let send = self.introduce(Kind::Identity, LABEL_IDENTITY);
        Ok(Step { send: Some(send), done: Some(Peer { lane: self.lane, ..peer }) })
    }

    fn identity(&mut self, body: &Bytes, version: u32) -> Result<Step, Refusal> {
        let peer = self.introduced(LABEL_IDENTITY, body, version)?;
        Ok(Step { send: None, done: Some(peer) })
    }

    /// Our identity, and an HMAC that covers it.
    fn introduce(&mut self, kind: Kind, label: &[u8]) -> (Kind, Bytes) {
        let Identity { cluster, node, incarnation } = self.config.identity;
        let body = IdentityBody {
            cluster: cluster.0.to_be_bytes().to_vec().into(),
            node: node.0,
            incarnation: incarnation.0,
            lane: lane_to_wire(self.lane),
            body_bytes_max: self.config.limits.body_bytes_max.min(BODY_BYTES_MAX) as u64,
            stream_window_bytes: self.config.limits.stream_window_bytes,
        };
        let mut wire = body.encode_to_vec();
        let mac = self.mac(label, &wire).finalize().into_bytes();
        wire.extend_from_slice(&mac);
        self.say(kind, wire)
    }

    /// The peer's identity, if its HMAC is right and it is somebody we talk to.
    fn introduced(&self, label: &[u8], body: &Bytes, version: u32) -> Result<Peer, Refusal> {
        let at = body.len().checked_sub(MAC_BYTES).ok_or(Refusal::Malformed("identity"))?;
        self.mac(label, &body[..at]).verify_slice(&body[at..]).map_err(|_| Refusal::Secret)?;
        let body = IdentityBody::decode(body.slice(..at)).map_err(|_| Refusal::Malformed("identity"))?;
        let cluster = body.cluster[..].try_into().map_err(|_| Refusal::Malformed("cluster id"))?;
        let theirs = Identity {
            cluster: ClusterId(u128::from_be_bytes(cluster)),
            node: NodeId(body.node),
            incarnation: Incarnation(body.incarnation),
        };
        let ours = &self.config.identity;
        if theirs.cluster != ours.cluster {
            return Err(Refusal::Cluster { ours: ours.cluster, theirs: theirs.cluster });
        }
        if theirs.node == ours.node {
            return Err(Refusal::Ourselves(ours.node));
        }
        if let Some(expected) = self.expected.filter(|expected| *expected != theirs.node) {
            return Err(Refusal::Node { expected, found: theirs.node });
        }
        Ok(Peer {
            identity: theirs,
            lane: lane_from_wire(body.lane).ok_or(Refusal::Malformed("lane"))?,
            version,
            body_bytes_max: usize::try_from(body.body_bytes_max).unwrap_or(usize::MAX).min(BODY_BYTES_MAX),
            stream_window_bytes: body.stream_window_bytes,
        })
    }

    fn mac(&self, label: &[u8], body: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.config.secret.bytes()).expect("HMAC takes keys of any length");
        mac.update(label);
        mac.update(&[0]);
        mac.update(&self.transcript);
        mac.update(body);
        mac
    }

    fn say(&mut self, kind: Kind, body: Vec<u8>) -> (Kind, Bytes) {
        let body = Bytes::from(body);
        self.heard(kind, &body);
        (kind, body)
    }

    fn heard(&mut self, kind: Kind, body: &[u8]) {
        self.transcript.push(kind as u8);
        self.transcript.extend_from_slice(&(body.len() as u32).to_le_bytes());
        self.transcript.extend_from_slice(body);
    }
}

fn check_nonce(nonce: &[u8]) -> Result<(), Refusal> {
    if nonce.len() == size_of::<Nonce>() { Ok(()) } else { Err(Refusal::Malformed("nonce")) }
}

fn lane_to_wire(lane: Lane) -> u32 {
    match lane {
        Lane::Messages => 0,
        Lane::Bulk => 1,
    }
}

fn lane_from_wire(lane: u32) -> Option<Lane> {
    match lane {
        0 => Some(Lane::Messages),
        1 => Some(Lane::Bulk),
        _ => None,
    }
}

#[derive(Clone, PartialEq, Message)]
struct HelloBody {
    #[prost(uint32, tag = "1")]
    version_min: u32,
    #[prost(uint32, tag = "2")]
    version_max: u32,
    #[prost(bytes = "bytes", tag = "3")]
    nonce: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct ChallengeBody {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "bytes", tag = "2")]
    nonce: Bytes,
}

/// The front of a Welcome and an Identity body; the last [`MAC_BYTES`] are the HMAC.
#[derive(Clone, PartialEq, Message)]
struct IdentityBody {
    #[prost(bytes = "bytes", tag = "1")]
    cluster: Bytes,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(uint64, tag = "3")]
    incarnation: u64,
    #[prost(uint32, tag = "4")]
    lane: u32,
    #[prost(uint64, tag = "5")]
    body_bytes_max: u64,
    #[prost(uint32, tag = "6")]
    stream_window_bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Header;
    use crate::identity::Secret;

    fn config(cluster: u128, node: u64, secret: &[u8]) -> Arc<Config> {
        let identity = Identity { cluster: ClusterId(cluster), node: NodeId(node), incarnation: Incarnation(1) };
        Arc::new(Config::new(identity, Secret::new(secret).unwrap()))
    }

    const SECRET: &[u8] = b"a secret of the cluster";

    type Outcome = Option<Result<Peer, Refusal>>;

    /// Runs a handshake, with `tamper` between the ends; the results of dialer and acceptor.
    fn run(
        dialer: Arc<Config>,
        acceptor: Arc<Config>,
        expected: Option<NodeId>,
        mut tamper: impl FnMut(Kind, Bytes) -> (Kind, Bytes),
    ) -> (Outcome, Outcome, Vec<(Kind, Bytes)>) {
        let (dial, first) = Handshake::dial(dialer, [1; 32], Lane::Bulk, expected);
        let mut ends = [dial, Handshake::accept(acceptor, [2; 32])];
        let mut results = [None, None];
        let mut wire = Vec::new();
        let mut next = Some(first);
        let mut to = 1;
        while let Some((kind, body)) = next.take() {
            wire.push((kind, body.clone()));
            let (kind, body) = tamper(kind, body);
            match ends[to].handle(&Frame { header: Header::new(kind, 0), body }) {
                Ok(step) => {
                    next = step.send;
                    if let Some(peer) = step.done {
                        results[to] = Some(Ok(peer));
                    }
                }
                Err(refusal) => results[to] = Some(Err(refusal)),
            }
            to = 1 - to;
        }
        let [dialer, acceptor] = results;
        (dialer, acceptor, wire)
    }

    #[test]
    fn members_learn_who_they_are() {
        let (a, b) = (config(7, 1, SECRET), config(7, 2, SECRET));
        let (dialer, acceptor, _) = run(a.clone(), b.clone(), Some(NodeId(2)), |kind, body| (kind, body));
        assert_eq!(dialer.unwrap().unwrap().identity, b.identity);
        let peer = acceptor.unwrap().unwrap();
        assert_eq!((peer.identity, peer.lane), (a.identity, Lane::Bulk));
    }

    #[test]
    fn without_the_secret_nothing_is_learnt_and_nothing_done() {
        let (a, b) = (config(7, 1, b"another secret entirely"), config(0x5757_5757, 2, SECRET));
        let (dialer, acceptor, wire) = run(a, b, None, |kind, body| (kind, body));
        assert_eq!((dialer, acceptor), (None, Some(Err(Refusal::Secret))));
        let from_acceptor: Vec<Kind> = wire.iter().map(|(kind, _)| *kind).skip(1).step_by(2).collect();
        assert_eq!(from_acceptor, [Kind::Challenge], "versions and a nonce, nothing else");
    }

    #[test]
    fn a_dialer_tells_nothing_to_an_acceptor_without_the_secret() {
        // An impostor that accepts any proof: it can say Welcome, but not prove it.
        let (a, b) = (config(7, 1, SECRET), config(7, 2, SECRET));
        let (dialer, _, wire) = run(a, b, None, |kind, body| match kind {
            Kind::Welcome => (kind, [&body[..body.len() - 1], &[!body[body.len() - 1]]].concat().into()),
            _ => (kind, body),
        });
        assert_eq!(dialer, Some(Err(Refusal::Secret)));
        assert!(wire.iter().all(|(kind, _)| *kind != Kind::Identity));
    }

    #[test]
    fn other_clusters_ourselves_and_the_wrong_node_are_refused() {
        let a = config(7, 1, SECRET);
        let found = |b, expected| run(a.clone(), b, expected, |kind, body| (kind, body)).0.unwrap().unwrap_err();
        let (ours, theirs) = (ClusterId(7), ClusterId(8));
        assert_eq!(found(config(8, 2, SECRET), None), Refusal::Cluster { ours, theirs });
        assert_eq!(found(a.clone(), None), Refusal::Ourselves(NodeId(1)));
        let (expected, found_node) = (NodeId(3), NodeId(2));
        assert_eq!(found(config(7, 2, SECRET), Some(expected)), Refusal::Node { expected, found: found_node });
    }

    #[test]
    fn any_byte_changed_on_the_way_is_refused() {
        let (a, b) = (config(7, 1, SECRET), config(7, 2, SECRET));
        let (_, _, wire) = run(a.clone(), b.clone(), None, |kind, body| (kind, body));
        for (changed, body) in &wire {
            for at in 0..body.len() {
                let (dialer, acceptor, _) = run(a.clone(), b.clone(), None, |kind, body| {
                    let mut bytes = body.to_vec();
                    if kind == *changed {
                        bytes[at] ^= 0x10;
                    }
                    (kind, bytes.into())
                });
                let refused = [&dialer, &acceptor].into_iter().any(|end| matches!(end, Some(Err(_))));
                assert!(refused, "byte {at} of {changed:?} changed: {dialer:?} {acceptor:?}");
                assert!(!matches!(acceptor, Some(Ok(_))), "byte {at} of {changed:?}: the acceptor believed it");
            }
        }
    }

    #[test]
    fn versions_that_do_not_meet_are_refused() {
        let (a, b) = (config(7, 1, SECRET), config(7, 2, SECRET));
        let (_, acceptor, _) = run(a, b, None, |kind, body| match kind {
            Kind::Hello => {
                let hello = HelloBody::decode(body).unwrap();
                (kind, HelloBody { version_min: 5, version_max: 9, ..hello }.encode_to_vec().into())
            }
            _ => (kind, body),
        });
        assert_eq!(acceptor, Some(Err(Refusal::Version { min: 5, max: 9 })));
    }
}
