//! A small file system of its own, which can be full, read-only or hanging.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

/// Larger than all saved certificates together.
const SIZE: u64 = 8 << 20;

/// An ext4 in a loop-mounted file. It is thawed, unmounted and removed when this process ends in any way.
#[derive(Debug)]
pub(super) struct Disk {
    mounted: PathBuf,
    guard: Child,
}

/// Thaws, unmounts and removes the folder once its standard input is closed.
const GUARD: &str = r#"trap '' HUP INT TERM
read -r _
fsfreeze -u "$1" || true
umount -l "$1" && rm -rf -- "$2""#;

impl Disk {
    /// Mounts it in this folder, which is removed with it; needs root and a loop device.
    ///
    /// # Errors
    /// Either is missing, or one of the programs.
    pub(super) fn mount(folder: &Path) -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "it needs root");
        let (image, mounted) = (folder.join("disk"), folder.join("saved"));
        fs::File::create(&image)?.set_len(SIZE)?;
        fs::create_dir(&mounted)?;
        run("mkfs.ext4", &["-q", "-m", "0"], &image)?;
        let mount = Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &mounted])
            .output()?;
        let errors = String::from_utf8_lossy(&mount.stderr);
        ensure!(mount.status.success(), "mount: {}", errors.trim());
        let guard = Command::new("/bin/sh")
            .args(["-c", GUARD, "sh"])
            .args([&mounted, folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { mounted, guard })
    }

    /// The folder of the file system.
    pub(super) fn folder(&self) -> &Path {
        &self.mounted
    }

    /// Fills it to the last byte, or makes room again.
    pub(super) fn fill(&self, full: bool) -> anyhow::Result<()> {
        let file = self.mounted.join("filler");
        if !full {
            return fs::remove_file(file).context("failed to make room");
        }
        let filled = fs::write(file, vec![0; SIZE as usize]);
        ensure!(filled.is_err(), "the disk has more room than it should");
        Ok(())
    }

    /// Makes it read-only, or writable again.
    pub(super) fn read_only(&self, read_only: bool) -> anyhow::Result<()> {
        let mode = if read_only {
            "remount,ro"
        } else {
            "remount,rw"
        };
        run("mount", &["-o", mode], &self.mounted)
    }

    /// Makes every write hang, or continue.
    pub(super) fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        run(
            "fsfreeze",
            &[if frozen { "-f" } else { "-u" }],
            &self.mounted,
        )
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).arg(path).output();
    let output = output.with_context(|| format!("failed to run {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", errors.trim());
    Ok(())
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // It fails only if the guard was waited for before.
        let _ = self.guard.wait();
    }
}
