//! Finding and running the binary, and the examples beside it.

use std::env::consts::EXE_EXTENSION;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::NamedTempFile;

/// The binary that was built with the tests, in the same profile.
///
/// # Panics
///
/// If it is not there. `make test` builds it first.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    // target/release/deps/some_test-0123 -> target/release/raft
    let profile = test.ancestors().nth(2).expect("cargo puts tests below the profile's directory");
    let binary = profile.join(format!("raft{}", std::env::consts::EXE_SUFFIX));
    assert!(
        binary.is_file(),
        "{} is missing: run `make test`, or first `cargo build --release --workspace`",
        binary.display()
    );
    binary
}

/// An example that was built with the tests, to be run on a cluster. No environment of ours.
///
/// # Panics
///
/// If it is not there. `cargo test` builds it unless it is told which tests to run.
pub fn example(name: &str) -> Command {
    let raft = binary();
    let path = raft.with_file_name("examples").join(name).with_extension(EXE_EXTENSION);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --release --workspace --examples`",
        path.display()
    );
    clean(Command::new(path))
}

/// What one run of the binary came to.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The exit code. `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Ran {
    /// Checks that it failed with this code and one line on stderr that holds all of `parts`.
    ///
    /// # Panics
    ///
    /// If it did not.
    pub fn assert_refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.stderr.lines().count(), 1, "one line is due: {self:#?}");
        assert!(self.stderr.starts_with("error: "), "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not named: {self:#?}");
        }
    }

    /// Checks that it succeeded, and reads what it printed as JSON.
    ///
    /// # Panics
    ///
    /// If it did not.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{self:#?}");
        serde_json::from_str(&self.stdout).expect("the output is JSON")
    }
}

/// Runs `raft` with these words and no environment of ours.
///
/// # Panics
///
/// If it cannot be run at all.
pub fn raft<S: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = S>) -> Ran {
    raft_reading(words, Stdio::null())
}

/// Runs `raft` with these words and this input, and no environment of ours.
///
/// # Panics
///
/// If it cannot be run at all.
pub(crate) fn raft_reading<S: AsRef<std::ffi::OsStr>>(
    words: impl IntoIterator<Item = S>,
    stdin: Stdio,
) -> Ran {
    let output = command()
        .args(words)
        .stdin(stdin)
        .output()
        .expect("the binary was found, so it can be run");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A `raft`, or an example, that runs on until dropped, and is then killed.
#[derive(Debug)]
pub struct Background {
    child: Child,
    log: NamedTempFile,
    output: NamedTempFile,
}

impl Background {
    /// Starts `raft` with these words.
    ///
    /// # Panics
    ///
    /// If it cannot be run at all.
    pub fn start(words: &[String]) -> Self {
        let mut command = command();
        command.args(words);
        Self::of(command)
    }

    /// Starts an [`example`] with its words.
    ///
    /// # Panics
    ///
    /// If it cannot be run at all.
    pub fn of(mut command: Command) -> Self {
        let file = || NamedTempFile::new().expect("a temporary file can be made");
        let open = |file: &NamedTempFile| file.reopen().expect("it can be opened again");
        let (log, output) = (file(), file());
        let child = command
            .stdin(Stdio::null())
            .stdout(open(&output))
            .stderr(open(&log))
            .spawn()
            .expect("the binary was found, so it can be run");
        Self { child, log, output }
    }

    /// Asks it to end, as Ctrl-C does.
    ///
    /// # Panics
    ///
    /// If it cannot be asked.
    pub fn interrupt(&self) {
        signal("-INT", self.child.id());
    }

    /// Waits until it ends by itself. Whether it says that all went well.
    ///
    /// # Panics
    ///
    /// If it cannot be waited for.
    pub fn wait(&mut self) -> bool {
        self.child.wait().expect("it is our child").success()
    }

    /// What it has written to stdout.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.output.path()).unwrap_or_default()
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(name: &str, process: u32) {
    let status = Command::new("kill").args([name, &process.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill {name} {process} failed");
}

pub(crate) fn command() -> Command {
    clean(Command::new(binary()))
}

fn clean(mut command: Command) -> Command {
    // What the developer has set must not steer the tests.
    for name in ["RAFT_ENDPOINTS", "RAFT_TLS_DIR", "RAFT_LOG"] {
        command.env_remove(name);
    }
    command
}
