use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::ends::Executor;
use crate::error::TestbedError;
use crate::folder::Folder;

/// How long a server may take to reach a state that it was brought to.
const READY: Duration = Duration::from_secs(20);
const READY_POLL: Duration = Duration::from_millis(20);
/// How long a server has to end by itself before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// One server's process, folder and log. Dropping it ends the process and removes the folder.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    /// How the process is ended when nothing of it is needed any more.
    end: Signal,
    process: Mutex<Process>,
    // Removed last: fields are dropped in this order.
    folder: Folder,
}

#[derive(Debug)]
struct Process {
    child: Option<Child>,
    executor: Executor,
}

/// What a server runs as, and with what.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<std::ffi::OsString>,
    /// User and group, where they differ from ours.
    pub(crate) user: Option<(u32, u32)>,
}

impl Launch<'_> {
    /// A command in its own process group, in `folder`, that sees nothing of our environment but `PATH`.
    pub(crate) fn command(&self, through: &[&str], folder: &Path) -> Command {
        let mut words = through.iter().map(std::ffi::OsString::from);
        let first = words.next();
        let mut command = Command::new(first.as_deref().unwrap_or(self.program.as_os_str()));
        command.args(words);
        if first.is_some() {
            command.arg(self.program);
        }
        command.args(&self.arguments);
        // BAO_*, VAULT_* and PG* variables of the caller would change what the servers do.
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.env("HOME", folder).current_dir(folder);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.process_group(0);
        command
    }
}

impl Server {
    pub(crate) fn new(
        name: &'static str,
        end: Signal,
        folder: Folder,
    ) -> Result<Self, TestbedError> {
        let executor = Executor::start(folder.path()).map_err(|source| TestbedError::Run {
            program: "/bin/sh".into(),
            source,
        })?;
        let process = Mutex::new(Process {
            child: None,
            executor,
        });
        Ok(Self {
            name,
            end,
            process,
            folder,
        })
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Starts the process; its output is appended to the log.
    pub(crate) fn launch(&self, launch: &Launch<'_>) -> Result<(), TestbedError> {
        let path = self.folder.log();
        let open = || {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600).open(&path)
        };
        let log = open().map_err(TestbedError::at(&path))?;
        let errors = log.try_clone().map_err(TestbedError::at(&path))?;
        let run = |source| TestbedError::Run {
            program: launch.program.to_path_buf(),
            source,
        };

        let mut process = self.process();
        // The shell waits for a word before it becomes the server: the executor knows the number first, so there is
        // no moment in which our sudden death would leave the server behind.
        let gate = r#"read -r go && exec "$@" </dev/null"#;
        let mut child = launch
            .command(&["/bin/sh", "-c", gate, "sh"], self.folder.path())
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(run)?;
        let gate = child.stdin.take();
        let pid = child.id();
        process.child = Some(child);
        let signal = if self.end == Signal::QUIT {
            "QUIT"
        } else {
            "KILL"
        };
        process.executor.watch(pid, signal).map_err(run)?;
        if let Some(mut gate) = gate {
            writeln!(gate, "go").map_err(run)?;
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process().child.as_ref().map(Child::id)
    }

    /// Fails where the process has ended by itself.
    fn still_runs(&self) -> Result<(), TestbedError> {
        if self.runs() {
            return Ok(());
        }
        Err(TestbedError::NotStarted {
            server: self.name,
            log: self.last_lines(),
        })
    }

    pub(crate) fn runs(&self) -> bool {
        self.process().runs()
    }

    /// Asks until there is an answer, at most 20 s; fails at once where the process has ended.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        state: &'static str,
        ask: impl Fn() -> F,
    ) -> Result<T, TestbedError> {
        let answered = async {
            loop {
                if let Some(answer) = ask().await {
                    return Ok(answer);
                }
                self.still_runs()?;
                tokio::time::sleep(READY_POLL).await;
            }
        };
        let late = |_| TestbedError::Late {
            server: self.name,
            state,
            waited: READY,
        };
        tokio::time::timeout(READY, answered).await.map_err(late)?
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), TestbedError> {
        let mut process = self.process();
        // Not to a number that may be another's by now.
        let child = process.runs().then_some(process.child.as_ref()).flatten();
        let child = child.ok_or(TestbedError::Stopped { server: self.name })?;
        kill_process(Pid::from_child(child), signal).map_err(|error| TestbedError::Signal {
            server: self.name,
            source: error.into(),
        })
    }

    /// Ends the process without blocking the thread: by `signal`, or by SIGKILL after 5 s.
    ///
    /// Does nothing while it is stopped. Cancelled, it leaves a process that may still end: call it again.
    pub(crate) async fn stop(&self, signal: Signal) {
        self.ask_to_end(signal);
        let mut waited = Duration::ZERO;
        while self.runs() && waited < PATIENCE {
            tokio::time::sleep(POLL).await;
            waited += POLL;
        }
        self.collect();
    }

    /// Sends the signal, also to a paused process.
    fn ask_to_end(&self, signal: Signal) {
        // Fails only while it is stopped. A paused process acts on most signals only once it goes on.
        let _ = self.signal(signal);
        let _ = self.signal(Signal::CONT);
    }

    /// Kills what is left, and takes note that it is gone.
    fn collect(&self) {
        let mut process = self.process();
        if let Some(mut child) = process.child.take() {
            // A process that has ended but was not waited for can still be killed; neither fails.
            let _ = child.kill();
            let _ = child.wait();
            let _ = process.executor.forget();
        }
    }

    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn last_lines(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        // A panic elsewhere must not keep the process from being ended.
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    fn runs(&mut self) -> bool {
        let Some(child) = self.child.as_mut() else {
            return false;
        };
        let runs = matches!(child.try_wait(), Ok(None));
        if !runs {
            // It ended by itself. Fails only where the executor is gone too.
            let _ = self.executor.forget();
        }
        runs
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ask_to_end(self.end);
        let mut waited = Duration::ZERO;
        while self.runs() && waited < PATIENCE {
            std::thread::sleep(POLL);
            waited += POLL;
        }
        self.collect();
    }
}
