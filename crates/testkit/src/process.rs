//! Real processes: servers that are ready when this returns, and tools that ran to their end.
//!
//! Nothing here sleeps. A server is ready when it prints the line that says so; a process has ended when it was waited
//! for. [`PATIENCE`] is not a measurement but the point where a hanging process becomes a failing test.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::powerloss::PowerLoss;
use crate::scratch::{Scratch, profile_directory};

/// How long a process may take for something that takes seconds at most, on the slowest of machines.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Flags of a node whose files are so small that a test's writes fill several of them.
pub const SMALL: [&str; 8] = [
    "--value-bytes-max",
    "1MiB",
    "--log-segment-bytes",
    "10MiB",
    "--log-bytes-max",
    "4MiB",
    "--memory-bytes-max",
    "64MiB",
];

/// Held by a test that wants the machine to itself: the others of the same program wait.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    stderr: PathBuf,
    /// Ends when the process has closed its standard output.
    output: Receiver<String>,
}

/// A server that ended instead of becoming ready.
#[derive(Debug)]
pub struct Refused {
    /// How it ended.
    pub status: ExitStatus,
    /// All it said on standard error.
    pub stderr: String,
}

/// A server that was started and has not said yet that it is ready. Dropping it kills it.
#[derive(Debug)]
pub struct Starting {
    process: Server,
}

impl Starting {
    /// Starts `command`. Its standard error goes to a file called `name` in `scratch`.
    ///
    /// # Panics
    ///
    /// When the process cannot be started.
    pub fn spawn(mut command: Command, scratch: &Scratch, name: &str) -> Starting {
        let stderr = scratch.path().join(name);
        let log =
            File::options().create(true).append(true).open(&stderr).expect("the scratch directory can be written");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let lines = child.stdout.take().expect("standard output is piped");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break; // the test is over
                }
            }
        });
        let address = SocketAddr::from(([0, 0, 0, 0], 0)); // until it tells
        Starting { process: Server { child, address, stderr, output } }
    }

    /// Waits for the line of its standard output in which `ready` finds the address it serves.
    ///
    /// # Errors
    ///
    /// The process ended before it was ready.
    ///
    /// # Panics
    ///
    /// When it is neither ready nor gone within [`PATIENCE`].
    pub fn wait(self, ready: impl Fn(&str) -> Option<SocketAddr>) -> Result<Server, Refused> {
        let mut server = self.process;
        loop {
            match server.output.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(address) = ready(&line) {
                        server.address = address;
                        return Ok(server);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = server.child.wait().expect("the child is ours to wait for");
                    return Err(Refused { status, stderr: server.stderr() });
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("process {} is not ready, see {}", server.pid(), server.stderr.display())
                }
            }
        }
    }

    /// All it said on standard error so far.
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Server {
    /// Starts `command` and waits for the line of its standard output in which `ready` finds the address it serves.
    /// Its standard error goes to a file called `name` in `scratch`.
    ///
    /// # Errors
    ///
    /// The process ended before it was ready.
    ///
    /// # Panics
    ///
    /// When the process cannot be started, or is neither ready nor gone within [`PATIENCE`].
    pub fn start(
        command: Command,
        scratch: &Scratch,
        name: &str,
        ready: impl Fn(&str) -> Option<SocketAddr>,
    ) -> Result<Server, Refused> {
        Starting::spawn(command, scratch, name).wait(ready)
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its port, as text for command lines.
    pub fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it said on standard error since the scratch directory was made, earlier processes included.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// kill -9: it gets no chance to do anything more.
    ///
    /// # Panics
    ///
    /// When the process cannot be waited for.
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // fails when it has ended already
        self.child.wait().expect("the child is ours to wait for");
    }

    /// Asks it to stop, as a service manager does, and does not wait.
    ///
    /// # Panics
    ///
    /// When it has ended already.
    pub fn terminate(&self) {
        assert!(signal(Signal::TERM, self.pid()), "process {} has ended already", self.pid());
    }

    /// SIGSTOP: it stands still, with all its connections open, until [`Server::resume`].
    ///
    /// # Panics
    ///
    /// When it has ended already.
    pub fn pause(&self) {
        assert!(signal(Signal::STOP, self.pid()), "process {} has ended already", self.pid());
    }

    /// SIGCONT: it goes on where it stood.
    ///
    /// # Panics
    ///
    /// When it has ended already.
    pub fn resume(&self) {
        assert!(signal(Signal::CONT, self.pid()), "process {} has ended already", self.pid());
    }

    /// Asks it to stop, as a service manager does, and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not end within [`PATIENCE`].
    pub fn stop(self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    ///
    /// When it does not end within [`PATIENCE`].
    pub fn wait(mut self) -> ExitStatus {
        loop {
            match self.output.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("process {} does not end", self.pid()),
            }
        }
        self.child.wait().expect("the child is ours to wait for")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How to start `dstore` on one data directory.
#[derive(Debug)]
pub struct Dstore {
    /// None for [`dstore_program`].
    program: Option<PathBuf>,
    data: PathBuf,
    arguments: Vec<String>,
}

impl Dstore {
    /// A node whose data is in `data`, on a port of its own choice.
    pub fn on(data: &Path) -> Dstore {
        Dstore { program: None, data: data.to_path_buf(), arguments: Vec::new() }
    }

    /// Another build of the program than the one under test.
    pub fn program(mut self, program: &Path) -> Dstore {
        self.program = Some(program.to_path_buf());
        self
    }

    /// Adds flags of `dstore start`.
    pub fn flags(mut self, flags: &[&str]) -> Dstore {
        self.arguments.extend(flags.iter().map(|flag| flag.to_string()));
        self
    }

    /// The command line, for a test that wants to run it by itself.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.program.clone().unwrap_or_else(dstore_program));
        command.arg("start").arg("--data-dir").arg(&self.data);
        if !self.arguments.iter().any(|flag| flag == "--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(&self.arguments);
        command
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// It refused to start.
    pub fn start(&self, scratch: &Scratch) -> Result<Server, Refused> {
        Server::start(self.command(), scratch, "dstore.stderr", listens_on)
    }

    /// Starts it with its data directory watched.
    ///
    /// # Errors
    ///
    /// It refused to start.
    pub fn start_watched(&self, scratch: &Scratch, power: &PowerLoss) -> Result<Server, Refused> {
        let mut command = self.command();
        power.attach(&mut command);
        Server::start(command, scratch, "dstore.stderr", listens_on)
    }
}

/// `dstore 0.1.0 listens on 127.0.0.1:6379`
pub(crate) fn listens_on(line: &str) -> Option<SocketAddr> {
    line.split_once(" listens on ")?.1.split_whitespace().next()?.parse().ok()
}

/// The server's program: what `DSTORE_BIN` names, or what cargo built beside the running test.
///
/// # Panics
///
/// When it is not there: `cargo test` alone does not build another package's program.
pub fn dstore_program() -> PathBuf {
    let program = std::env::var_os("DSTORE_BIN").map_or_else(|| profile_directory().join("dstore"), PathBuf::from);
    assert!(
        program.is_file(),
        "{} is missing: build it with `cargo build --release -p dstore-server`, or name another in DSTORE_BIN",
        program.display()
    );
    program
}

/// Starts Debian's `redis-server` on a free port, with its files in `directory`.
///
/// # Panics
///
/// When it does not start.
pub fn start_redis(scratch: &Scratch, directory: &Path, arguments: &[&str]) -> Server {
    // Redis cannot be asked for a free port. One that is free now may be taken a moment later: then try another.
    for _ in 0..10 {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &free.port().to_string(), "--dir"]).arg(directory);
        command.args(arguments);
        let ready = |line: &str| line.contains("eady to accept connections").then_some(free);
        if let Ok(server) = Server::start(command, scratch, "redis.stderr", ready) {
            return server;
        }
    }
    panic!("redis-server does not start, see {}", scratch.path().display());
}

/// Runs a tool to its end and gives its standard output. `input` is what it reads.
///
/// # Panics
///
/// When it cannot be run, or ends with another code than 0: with all that it printed.
pub fn run(command: &mut Command, input: &[u8]) -> String {
    let output = run_to_end(command, input);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}:\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// Runs a program to its end, however it ends. `input` is what it reads. It is killed after [`PATIENCE`].
///
/// # Panics
///
/// When it cannot be run.
pub fn run_to_end(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("standard input is piped");
    let pid = child.id();
    let (ended, end) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                signal(Signal::KILL, pid);
            }
        });
        scope.spawn(move || {
            let _ = stdin.write_all(input); // a tool may end without reading everything
        });
        let output = child.wait_with_output().expect("the child is ours to wait for");
        drop(ended);
        output
    })
}

/// Sends a signal. False when there is no such process.
fn signal(signal: Signal, pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("process ids are small and positive");
    kill_process(pid, signal).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_a_server_prints_tells_where_it_listens() {
        assert_eq!(listens_on("dstore 0.1.0 listens on 127.0.0.1:7001"), Some(([127, 0, 0, 1], 7001).into()));
        assert_eq!(listens_on("dstore 0.1.0 listens on [::1]:7001 and more"), "[::1]:7001".parse().ok());
        assert_eq!(listens_on("  data  x listens on nothing"), None);
    }

    #[test]
    fn a_server_is_ready_when_this_returns_and_gone_when_it_was_told() {
        let scratch = Scratch::new("process");
        let mut server = start_redis(&scratch, scratch.path(), &["--save", ""]);
        let ping = |server: &Server| run_to_end(Command::new("redis-cli").args(["-p", &server.port(), "ping"]), b"");
        assert_eq!(ping(&server).stdout, b"PONG\n");
        assert!(server.is_running());
        assert_eq!(server.stop().code(), Some(0));
    }

    #[test]
    fn a_server_that_does_not_start_says_why() {
        let scratch = Scratch::new("process");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no use >&2; exit 7"]);
        let refused = Server::start(command, &scratch, "stderr", listens_on).unwrap_err();
        assert_eq!((refused.status.code(), refused.stderr.as_str()), (Some(7), "no use\n"));
    }

    #[test]
    fn a_tool_is_given_its_input_and_its_output_is_returned() {
        let long = vec![b'x'; 1 << 20];
        assert_eq!(run(&mut Command::new("cat"), &long).len(), long.len());
    }
}
