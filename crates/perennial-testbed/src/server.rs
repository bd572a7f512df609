//! A server as a child process: started, signalled, stopped, and ended together with this process.

use std::collections::hash_map::RandomState;
use std::fs::OpenOptions;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::error::TestbedError;
use crate::folder::{Folder, logs_are_kept};

/// How long a server may take to reach the wanted state.
const READY: Duration = Duration::from_secs(20);
const READY_POLL: Duration = Duration::from_millis(20);
/// How long a server may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// One server's process, folder and log. Dropping it ends the process and removes the folder.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    /// The signal that ends the process when its state is no longer needed.
    end: Signal,
    process: Mutex<Process>,
    // Must be the last field: the folder is removed after the process has ended.
    folder: Folder,
}

#[derive(Debug)]
struct Process {
    child: Option<Child>,
    cleaner: Cleaner,
}

/// A server's program, arguments and user.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<std::ffi::OsString>,
    /// User and group, if they differ from ours.
    pub(crate) user: Option<(u32, u32)>,
    /// Added to the environment.
    pub(crate) environment: &'a [(&'static str, std::ffi::OsString)],
}

impl Launch<'_> {
    /// A command in `folder` with its own process group; of our environment it inherits only `PATH`.
    pub(crate) fn command(&self, through: &[&str], folder: &Path) -> Command {
        let mut words = through.iter().map(std::ffi::OsString::from);
        let first = words.next();
        let mut command = Command::new(first.as_deref().unwrap_or(self.program.as_os_str()));
        command.args(words);
        if first.is_some() {
            command.arg(self.program);
        }
        command.args(&self.arguments);
        // The caller's BAO_*, VAULT_* and PG* variables would change the servers' behaviour.
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.env("HOME", folder).current_dir(folder);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // A test's own settings for OpenSSL, such as the signature algorithms that Postgres accepts.
        let openssl = folder.join("openssl.cnf");
        if openssl.exists() {
            command.env("OPENSSL_CONF", openssl);
        }
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
        let cleaner = Cleaner::start(folder.path()).map_err(|source| TestbedError::Run {
            program: "/bin/sh".into(),
            source,
        })?;
        let process = Mutex::new(Process {
            child: None,
            cleaner,
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
        // The shell waits for a line before it becomes the server, so that the cleaner knows its number first: no
        // server is left behind, whenever our process is killed.
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
        process.cleaner.watch(pid, signal).map_err(run)?;
        if let Some(mut gate) = gate {
            writeln!(gate, "go").map_err(run)?;
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process().child.as_ref().map(Child::id)
    }

    /// Fails if the process has ended on its own.
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

    /// Polls until it returns a value, for at most 20 s; fails at once if the process has ended.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        state: &'static str,
        poll: impl Fn() -> F,
    ) -> Result<T, TestbedError> {
        let reached = async {
            loop {
                if let Some(value) = poll().await {
                    return Ok(value);
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
        tokio::time::timeout(READY, reached).await.map_err(late)?
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), TestbedError> {
        let mut process = self.process();
        // Only if it still runs: its number may belong to another process by now.
        let child = process.runs().then_some(process.child.as_ref()).flatten();
        let child = child.ok_or(TestbedError::Stopped { server: self.name })?;
        kill_process(Pid::from_child(child), signal).map_err(|error| TestbedError::Signal {
            server: self.name,
            source: error.into(),
        })
    }

    /// Ends the process without blocking the thread: with `signal`, and with SIGKILL after 5 s.
    ///
    /// Does nothing if the process is stopped. If cancelled, the process may still be running: call it again.
    pub(crate) async fn stop(&self, signal: Signal) {
        self.send_end(signal);
        let mut waited = Duration::ZERO;
        while self.runs() && waited < PATIENCE {
            tokio::time::sleep(POLL).await;
            waited += POLL;
        }
        self.collect();
    }

    /// Sends the signal and resumes the process if it is paused.
    fn send_end(&self, signal: Signal) {
        // Fails only if the process is stopped. A paused process handles most signals only after it is resumed.
        let _ = self.signal(signal);
        let _ = self.signal(Signal::CONT);
    }

    /// Kills the process if it still runs, and reaps it.
    fn collect(&self) {
        let mut process = self.process();
        if let Some(mut child) = process.child.take() {
            // Neither call fails: a process that has ended but was not reaped can still be killed.
            let _ = child.kill();
            let _ = child.wait();
            let _ = process.cleaner.forget();
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
        // A panic elsewhere must not prevent ending the process.
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
            // It ended on its own. This fails only if the cleaner has ended too.
            let _ = self.cleaner.forget();
        }
        runs
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.send_end(self.end);
        let mut waited = Duration::ZERO;
        while self.runs() && waited < PATIENCE {
            std::thread::sleep(POLL);
            waited += POLL;
        }
        self.collect();
    }
}

/// Ends the server and removes a folder once the pipe on its standard input is closed.
///
/// Argument: the folder to remove. Input: lines of `PID SIGNAL`, of which the last one counts; `- -` means "no server",
/// and `done` means "nothing left to do". The script sends the signal and kills the server 5 s later. A zombie counts
/// as ended, because the first process of a container may never reap it.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
pid=- signal=-
while read -r a b; do
  [ "$a" = done ] && exit 0
  pid=$a signal=$b
done
if [ "$pid" != - ]; then
  kill -CONT "$pid"; kill -s "$signal" "$pid"
  i=0
  while kill -0 "$pid" && ! grep -q '^State:.Z' "/proc/$pid/status" && [ "$i" -lt 50 ]; do
    sleep 0.1; i=$((i + 1))
  done
  kill -KILL "$pid"
fi 2>/dev/null
rm -rf -- "$1"
"#;

/// A process that outlives ours, however ours ends, and cleans up after it.
///
/// The kernel closes our end of the pipe on `exit`, on a signal and on SIGKILL. The process has its own process group,
/// so that Ctrl-C in a terminal does not reach it.
#[derive(Debug)]
struct Cleaner {
    child: Child,
    pipe: ChildStdin,
}

impl Cleaner {
    fn start(folder: &Path) -> io::Result<Self> {
        let removed = if logs_are_kept() {
            folder.join("private")
        } else {
            folder.into()
        };
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(removed)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, pipe })
    }

    /// Ends this process with this signal when ours ends.
    fn watch(&mut self, pid: u32, signal: &str) -> io::Result<()> {
        writeln!(self.pipe, "{pid} {signal}")
    }

    /// Forgets the process: it has ended, and its number may soon belong to another one.
    fn forget(&mut self) -> io::Result<()> {
        writeln!(self.pipe, "- -")
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        // Both fail only if the cleaner has already ended.
        let _ = writeln!(self.pipe, "done");
        let _ = self.child.wait();
    }
}

/// Ports are chosen below the range that the kernel uses for outgoing connections.
///
/// A stopped server must be able to return to its port. In the kernel's range an outgoing connection could take that
/// port in the meantime, and a client that retries a closed port there can even connect to itself.
const PORTS: Range<u64> = 12_000..32_000;

/// Finds a port without a listener. Another process may still take it first, so callers retry.
pub(crate) fn free_port() -> Result<u16, TestbedError> {
    let random = RandomState::new();
    (0_u32..200)
        .filter_map(|attempt| {
            let port = PORTS.start + random.hash_one(attempt) % (PORTS.end - PORTS.start);
            u16::try_from(port).ok()
        })
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or(TestbedError::NoPort)
}
