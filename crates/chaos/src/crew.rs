//! Clients and their judge, from start to verdict.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use dstore_testkit::namespaces::Network;

use crate::auditor::Auditor;
use crate::clients::{self, Shared};
use crate::judge::finally::Expected;
use crate::judge::{Judge, Verdict};

/// Threads at work. Dropping it ends them.
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    gives_up: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    judge: Option<JoinHandle<(Verdict, Expected)>>,
}

impl Crew {
    /// Sets so many clients to work on nodes at these addresses. Evidence goes into a directory.
    pub fn start(
        network: Option<Arc<Network>>,
        addresses: Vec<(usize, std::net::SocketAddr)>,
        count: usize,
        pace: Duration,
        seed: u64,
        evidence: &Path,
    ) -> Crew {
        let shared = Arc::new(Shared::new(network, count, pace));
        shared.use_nodes(addresses);
        let (told, heard) = channel();
        let judge = Judge::new(shared.clone(), heard, Auditor::new(shared.clone()), evidence);
        let gives_up = Arc::new(AtomicBool::new(false));
        let when = gives_up.clone();
        let judge = Some(std::thread::spawn(move || judge.run(&when)));
        let clients = clients::start(&shared, &told, seed);
        Crew { shared, gives_up, clients, judge }
    }

    /// What the clients share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// One who reads.
    pub fn auditor(&self) -> Auditor {
        Auditor::new(self.shared.clone())
    }

    /// Stops the clients, and gives what came of it and what must be there now. Unless the store `serves` again, nothing
    /// more is read for that.
    pub fn finish(mut self, serves: bool) -> (Verdict, Expected) {
        self.gives_up.store(!serves, Ordering::Relaxed);
        self.shared.stop();
        let mut broken = 0;
        for client in self.clients.drain(..) {
            broken += u64::from(client.join().is_err());
        }
        let judge = self.judge.take().expect("it is joined here alone");
        let (mut verdict, expected) = judge.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if broken > 0 {
            verdict.blame(format!("{broken} clients panicked: what they saw was not judged in full"));
        }
        (verdict, expected)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.gives_up.store(true, Ordering::Relaxed);
        self.shared.stop();
        for client in self.clients.drain(..) {
            let _ = client.join(); // whoever drops this has worse to tell
        }
        if let Some(judge) = self.judge.take() {
            let _ = judge.join();
        }
    }
}
