//! A process of ours: signals, and how it ended. It goes with the value that holds it.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Between two looks whether a process has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running process, or one that has ended and was not looked at.
#[derive(Debug)]
pub struct Process {
    child: Child,
    begun: Instant,
    times_told_to_end: u32,
}

/// The same command, as a process that the kernel kills when ours dies, however that happens. Its variables are set for
/// it alone and not for the tools that start it. Must be started from a thread that lives as long as the run.
pub fn bound_to_us(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "env"]);
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let mut assignment = name.to_owned();
            assignment.push("=");
            assignment.push(value);
            bound.arg(assignment);
        }
    }
    bound.arg(command.get_program()).args(command.get_args());
    bound
}

impl Process {
    /// Starts a process whose output is added to a file.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn spawn(mut command: Command, log: &Path) -> io::Result<Process> {
        let log = File::options().create(true).append(true).open(log)?;
        // A group of its own: ctrl-C is for us, who end it in good order.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn()?;
        Ok(Process { child, begun: Instant::now(), times_told_to_end: 0 })
    }

    fn signal(&self, signal: Signal) {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("process ids are small and positive");
        let _ = kill_process(pid, signal); // it may have ended, and is ours to wait for until then
    }

    /// kill -9, and waits.
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // fails when it has ended already
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub fn terminate(&mut self) {
        self.times_told_to_end += 1;
        self.signal(Signal::CONT); // one that is paused would not hear it
        self.signal(Signal::TERM);
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// How often it was asked to end: the second time it is not to wait for anything.
    pub fn times_told_to_end(&self) -> u32 {
        self.times_told_to_end
    }

    /// How long ago it was started.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How it ended, if it does within that time.
    pub fn wait_within(&mut self, time: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if begun.elapsed() > time {
                return None;
            }
            std::thread::sleep(LOOK_AGAIN); // a child is waited for with a limit in no other way
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
