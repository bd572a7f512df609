//! No process and no folder is left behind, however a testbed ends.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use perennial_testbed::Testbed;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Environment variable of a process that a test starts only to kill it.
const HOLD: &str = "PERENNIAL_TEST_HOLD";

/// The processes and folders of a testbed.
#[derive(Clone, Default)]
struct Traces {
    pids: Vec<Pid>,
    folders: Vec<PathBuf>,
}

impl Traces {
    fn of(testbed: &Testbed) -> Self {
        let pids = [testbed.bao.pid(), testbed.postgres.pid()];
        let pid = |pid: u32| Pid::from_raw(pid.try_into().unwrap()).unwrap();
        Self {
            pids: pids.map(|number| pid(number.unwrap())).to_vec(),
            folders: vec![
                testbed.bao.folder().into(),
                testbed.postgres.folder().into(),
            ],
        }
    }

    fn processes_ended(&self) -> bool {
        self.pids.iter().all(|pid| ended(*pid))
    }

    async fn wait_gone(&self) {
        let gone = async {
            while !self.processes_ended() || self.folders.iter().any(|folder| folder.exists()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let left = || format!("{:?} {:?}", self.pids, self.folders);
        tokio::time::timeout(Duration::from_secs(5), gone)
            .await
            .unwrap_or_else(|_| panic!("left: {}", left()));
    }
}

/// Whether the process has ended; a zombie counts, because the first process of a container may never reap it.
fn ended(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let reaped = test_kill_process(pid).is_err();
    reaped || status.contains("State:\tZ")
}

/// Starts this test program again as a process that only holds a testbed.
async fn holder() -> (Child, Traces) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "gone::hold_a_testbed",
            "--nocapture",
        ])
        .env(HOLD, "1")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut traces = Traces::default();
    while let Some(line) = lines.next_line().await.unwrap() {
        match line.split_once(' ') {
            Some(("pid", pid)) => traces.pids.extend(Pid::from_raw(pid.parse().unwrap())),
            Some(("folder", folder)) => traces.folders.push(folder.into()),
            _ if line == "ready" => break,
            _ => {}
        }
    }
    assert_eq!(
        (traces.pids.len(), traces.folders.len()),
        (2, 2),
        "the holder did not start"
    );
    for pid in &traces.pids {
        assert!(!ended(*pid));
        // Its own process group: Ctrl-C in a terminal reaches only the parent.
        assert_eq!(rustix::process::getpgid(Some(*pid)).unwrap(), *pid);
    }
    (child, traces)
}

#[tokio::test]
#[ignore = "started by the tests below"]
async fn hold_a_testbed() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let testbed = Testbed::start().await.unwrap();
    let traces = Traces::of(&testbed);
    // The test harness has printed the beginning of this line.
    println!();
    for pid in traces.pids {
        println!("pid {pid}");
    }
    for folder in traces.folders {
        println!("folder {}", folder.display());
    }
    println!("ready");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn killed_parent_leaves_no_server() {
    let (mut child, traces) = holder().await;
    child.kill().await.unwrap();
    traces.wait_gone().await;
}

#[tokio::test]
async fn interrupted_parent_leaves_no_server() {
    let (mut child, traces) = holder().await;
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    // A paused server must end too.
    kill_process(traces.pids[0], Signal::STOP).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    child.wait().await.unwrap();
    traces.wait_gone().await;
}

#[tokio::test]
async fn drop_leaves_no_server() {
    let testbed = Testbed::start().await.unwrap();
    let traces = Traces::of(&testbed);
    testbed.bao.pause().unwrap();
    drop(testbed);
    // At once, because drop waits.
    assert!(traces.processes_ended());
    assert!(traces.folders.iter().all(|folder| !folder.exists()));
}

#[tokio::test]
async fn panic_leaves_the_logs_and_no_key() {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let failed = tokio::spawn(async move {
        let testbed = Testbed::start().await.unwrap();
        sender.send(Traces::of(&testbed)).ok().unwrap();
        panic!("as a failing test does");
    });
    assert!(failed.await.unwrap_err().is_panic());
    let traces = receiver.await.unwrap();
    assert!(traces.processes_ended());
    for folder in traces.folders {
        let mut names: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| name != "audit.log");
        assert_eq!(names, ["server.log"]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
