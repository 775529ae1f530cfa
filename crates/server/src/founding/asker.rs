//! Asking one peer, again and again.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;
use dstore_net::Mailbox;
use dstore_rpc::blocking::Client;
use dstore_rpc::service::Caller;
use dstore_rpc::{CallOptions, CloseReason, ClusterId, Config};

use super::gathering::Heard;
use super::wire::{Tell, founders};
use crate::config::PeerAddress;
use crate::identity::Founder;
use crate::outsider::Silence;
use crate::random;

/// How long one question may take, connecting included.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait before a peer is asked again. A founding takes two or three rounds.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The thread that asks one peer.
pub(super) struct Asker {
    pub(super) place: usize,
    pub(super) peer: PeerAddress,
    pub(super) config: Config,
    pub(super) mailbox: Mailbox<(usize, Heard)>,
    /// There is something new to say: ask at once. Ends with the meeting.
    pub(super) woken: Receiver<Tell>,
    /// What this node has to say.
    pub(super) tell: Tell,
}

impl Asker {
    /// Asks until the meeting is over.
    pub(super) fn run(mut self) {
        self.config.timeouts.handshake = ASK_TIMEOUT;
        let mut client = None;
        loop {
            let heard = self.ask(&mut client);
            if self.mailbox.post((self.place, heard)).is_err() {
                return;
            }
            match self.woken.recv_timeout(ASK_AGAIN) {
                Ok(tell) => self.tell = tell,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Asks over the connection of last time, if it is still good for that.
    pub(super) fn ask(&self, kept: &mut Option<Client>) -> Heard {
        let mut client = match kept.take() {
            Some(client) => client,
            None => match self.client(self.config.clone()) {
                Ok(client) => client,
                Err(error) => return Heard::Away(format!("cannot be looked up: {error:#}")),
            },
        };
        let told = client.connect().and_then(|peer| {
            let options = CallOptions::deadline(Instant::now() + ASK_TIMEOUT);
            Ok((peer.identity.node, client.call(founders::ASK, &self.tell, options)?))
        });
        match told {
            Ok((node, tell)) => {
                *kept = Some(client);
                tell.heard(node)
            }
            Err(status) => self.explain(client.refused(), &status.to_string()),
        }
    }

    /// Asks a member of `cluster`, as one who could be its member too, who founded it. What it does not tell stays unknown.
    fn ask_member(&self, cluster: ClusterId) -> Vec<Founder> {
        let mut config = self.config.clone();
        config.identity.cluster = cluster;
        let tell = self.client(config).ok().and_then(|mut client| {
            let options = CallOptions::deadline(Instant::now() + ASK_TIMEOUT);
            let node = client.connect().ok()?.identity.node;
            Some(client.call(founders::ASK, &self.tell, options).ok()?.heard(node))
        });
        match tell {
            Some(Heard::Founder { plan: Some(plan), .. }) if plan.cluster == cluster => plan.founders,
            _ => Vec::new(),
        }
    }

    /// A name may lead elsewhere next time, so each client begins with a look-up.
    fn client(&self, config: Config) -> anyhow::Result<Client> {
        let address = self.peer.look_up()?.into_iter().next().context("the name has no address")?;
        Ok(Client::new(address, config, None, random::bytes()?))
    }

    /// Why there was no answer, for people; or the answer that a refusal is.
    fn explain(&self, refused: Option<&CloseReason>, status: &str) -> Heard {
        match Silence::of(refused, status) {
            Silence::OtherCluster(theirs) => Heard::Member { cluster: theirs, founders: self.ask_member(theirs) },
            silence => Heard::Away(silence.to_string()),
        }
    }
}
