use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::folder::kept;

/// Ends the server and removes its folder once the pipe on its standard input is closed.
///
/// Arguments: the folder, and what of it is to be removed. Input: lines of `PID SIGNAL`, of which the last one counts,
/// `- -` for "no server", and `done` for "nothing is left to do". The server is given 5 s before it is killed; one
/// that has ended counts as gone even in a container whose first process never collects it.
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

/// The process that outlives ours, however ours ends, and clears up.
///
/// The kernel closes our end of its pipe on `exit`, on a signal and on SIGKILL alike. It stands in its own process
/// group, so that Ctrl-C in a terminal does not reach it.
#[derive(Debug)]
pub(crate) struct Executor {
    child: Child,
    pipe: ChildStdin,
}

impl Executor {
    pub(crate) fn start(folder: &Path) -> io::Result<Self> {
        let removed = if kept() {
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

    /// From now on this process ends with ours, by this signal.
    pub(crate) fn watch(&mut self, pid: u32, signal: &str) -> io::Result<()> {
        writeln!(self.pipe, "{pid} {signal}")
    }

    /// The process is gone, so its number may soon be another's.
    pub(crate) fn forget(&mut self) -> io::Result<()> {
        writeln!(self.pipe, "- -")
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Both can only fail where the executor is gone already.
        let _ = writeln!(self.pipe, "done");
        let _ = self.child.wait();
    }
}
