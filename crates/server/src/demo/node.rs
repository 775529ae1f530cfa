//! One node of a demo: a process of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::layout::Place;

/// How long a node may take to say whether it is ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The process of a node.
pub(super) struct NodeProcess {
    number: usize,
    admin: SocketAddr,
    log: PathBuf,
    child: Child,
    /// The node stops when this is closed, by whatever closes it.
    stdin: Option<ChildStdin>,
    /// How it ended, once it was reaped.
    status: Option<ExitStatus>,
}

impl NodeProcess {
    /// Starts the node. `ended` is called, on a thread of its own, when its process has ended.
    ///
    /// # Errors
    ///
    /// The process cannot be started.
    pub(super) fn start(place: &Place, ended: impl FnOnce() + Send + 'static) -> anyhow::Result<NodeProcess> {
        let says = File::create(&place.log).with_context(|| format!("cannot write {}", place.log.display()))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["start", "--stop-with-stdin", "--config"])
            .arg(&place.config)
            .stdin(Stdio::piped())
            .stdout(says.try_clone()?)
            .stderr(says)
            // Ctrl-C is for the demo, which then stops its nodes in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start node {}", place.number))?;
        let pid = Pid::from_child(&child);
        let wait = move || {
            // Not reaped here: until it is, its id cannot become another process's.
            let noticed = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            while noticed().is_err_and(|error| error == rustix::io::Errno::INTR) {}
            ended();
        };
        std::thread::Builder::new().name(format!("node {}", place.number)).spawn(wait)?;
        let stdin = child.stdin.take();
        Ok(NodeProcess { number: place.number, admin: place.admin, log: place.log.clone(), child, stdin, status: None })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not been reaped yet.
    pub(super) fn is_running(&self) -> bool {
        self.status.is_none()
    }

    /// Whether clients can be sent to it.
    ///
    /// # Errors
    ///
    /// Why they cannot, as the node says, or as its silence does.
    pub(super) fn is_ready(&self) -> Result<(), String> {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&self.admin, ANSWER_WITHIN)?;
            stream.set_read_timeout(Some(ANSWER_WITHIN))?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().map_err(|error| match self.last_words() {
            Some(words) => format!("{error}; its last words: {words}"),
            None => error.to_string(),
        })?;
        if answer.starts_with("HTTP/1.1 200 ") {
            return Ok(());
        }
        Err(answer.lines().last().unwrap_or("it says nothing").to_owned())
    }

    /// Asks it to stop, as SIGTERM would, and does not wait.
    pub(super) fn ask_to_stop(&mut self) {
        self.stdin = None;
    }

    /// Takes note of its end. Waits, if there is still something to wait for.
    pub(super) fn reap(&mut self) {
        if self.status.is_none() {
            // Fails only for a process that somebody else has waited for, and that is over too.
            self.status = Some(self.child.wait().unwrap_or_default());
        }
    }

    /// Kills it, if it still runs.
    pub(super) fn kill(&mut self) {
        // Fails when it has ended by itself.
        let _ = self.child.kill();
        self.reap();
    }

    /// How it ended, and its last words if it did not end as it should.
    pub(super) fn epitaph(&mut self) -> String {
        self.reap();
        let status = self.status.unwrap_or_default();
        let how = match (status.signal(), status.code()) {
            (Some(signal), _) => format!("was ended by signal {signal}"),
            (None, Some(0)) => "has stopped".to_owned(),
            (None, code) => {
                let words = self.last_words().unwrap_or_else(|| format!("see {}", self.log.display()));
                format!("ended with exit code {}: {words}", code.unwrap_or_default())
            }
        };
        format!("node {} (pid {}) {how}", self.number, self.pid())
    }

    fn last_words(&self) -> Option<String> {
        let text = std::fs::read(&self.log).ok()?;
        let text = String::from_utf8_lossy(&text);
        text.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned)
    }
}
