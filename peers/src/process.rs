//! A process that serves one library at one work.

use std::{
    env, fmt,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow};
use indicatif::ProgressBar;
use serde::de::DeserializeOwned;

use crate::{
    Arguments, Peer,
    serve::{Prepared, Turn},
    work::Work,
};

/// A process of its own, so that a library meets the work cold, and so that threads it keeps waiting do not run while the other
/// is timed: where processes can be stopped, this one is, except in its turns.
#[derive(Debug)]
pub struct Process {
    pub prepared: Prepared,
    running: Running,
}

#[derive(Debug)]
struct Running {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

pub enum Started {
    Ready(Process),
    /// A result was not the right one; the process has said which.
    Wrong,
}

/// An error that a process has said itself.
#[derive(Debug)]
pub struct Said;

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a process has said what is wrong")
    }
}

impl std::error::Error for Said {}

impl Process {
    /// Starts a process and waits until it is ready; it is paused then.
    pub fn start(work: &Work, peer: Peer, arguments: &Arguments, progress: &ProgressBar) -> Result<Started> {
        let mut command = Command::new(env::current_exe().context("this program's own path")?);
        command.args(["--serve", work.name, "--peer", peer.name()]);
        command.args(arguments.adapter.as_ref().map(|name| format!("--adapter={name}")));
        command.args(arguments.verbose.then_some("--verbose"));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("measuring {}", work.name))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(to), Some(from), Some(said)) = pipes else { return Err(anyhow!("no pipes to the process")) };
        let above = progress.clone();
        let listener = thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                // Where even standard error is closed, there is nobody left to tell.
                let _ = above.suspend(|| writeln!(io::stderr(), "{line}"));
            }
        });
        let mut running = Running { child, to, from: BufReader::new(from) };
        let Some(prepared) = running.next()? else {
            let status = running.child.wait()?;
            // All that it said is said before anything that follows from it.
            let _ = listener.join();
            return match status.code() {
                Some(1) => Ok(Started::Wrong),
                Some(2) => Err(Said.into()),
                _ => Err(anyhow!("{}: {} ended with {status}", work.name, peer.name())),
            };
        };
        let process = Self { prepared, running };
        process.pause()?;
        Ok(Started::Ready(process))
    }

    /// Times one of its ways, in milliseconds for doing the work once.
    pub fn turn(&mut self, way: usize, repetitions: u32) -> Result<f64> {
        writeln!(self.running.to, "{}", serde_json::to_string(&Turn { way, repetitions })?)?;
        self.running.next()?.ok_or_else(|| anyhow!("a process ended while it was timed"))
    }

    #[cfg(unix)]
    pub fn pause(&self) -> Result<()> {
        self.running.signal(rustix::process::Signal::STOP)
    }

    #[cfg(unix)]
    pub fn resume(&self) -> Result<()> {
        self.running.signal(rustix::process::Signal::CONT)
    }

    #[cfg(not(unix))]
    pub fn pause(&self) -> Result<()> {
        Ok(())
    }

    #[cfg(not(unix))]
    pub fn resume(&self) -> Result<()> {
        Ok(())
    }
}

impl Running {
    /// What it says next, unless it has ended.
    fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        if line.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&line)?)) }
    }

    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        Ok(rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has nothing to finish, and may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
