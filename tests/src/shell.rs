//! A client that keeps its connection: `raft shell` behind two pipes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::Value;

use crate::binary;

/// A running `raft shell`. It ends when dropped.
#[derive(Debug)]
pub struct Shell {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// What the shell answered to one line.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The request was done; this came of it.
    Done(Value),
    /// It was not, or nobody knows: the kind of the error and its message.
    Failed(String, String),
}

impl Answer {
    /// Whether the request was done.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// Whether it may or may not have been done.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Failed(kind, _) if kind == "unknown_outcome")
    }
}

impl Shell {
    /// Starts a shell that knows these endpoints.
    ///
    /// # Panics
    ///
    /// If the binary cannot be run.
    pub fn start(endpoints: &str, tls: &Path, timeout: &str) -> Self {
        let mut child = binary::command()
            .args(["shell", "--endpoints", endpoints, "--timeout", timeout, "--tls-dir"])
            .arg(tls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the binary was found, so it can be run");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("it was piped"));
        Self { child, stdin, stdout }
    }

    /// Sends one line and waits for its answer.
    ///
    /// # Panics
    ///
    /// If the shell ends, or answers something else than one line of JSON.
    pub fn ask(&mut self, line: &str) -> Answer {
        self.send(line);
        self.answer()
    }

    /// Sends a line without waiting.
    ///
    /// # Panics
    ///
    /// If the shell has ended.
    pub fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open until the shell is dropped");
        writeln!(stdin, "{line}").expect("the shell reads until its stdin ends");
    }

    /// Waits for the next answer.
    ///
    /// # Panics
    ///
    /// If the shell ends, or answers something else than one line of JSON.
    pub fn answer(&mut self) -> Answer {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("stdout is readable");
        let value: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{line:?} is not an answer: {error}"));
        match value.get("error") {
            Some(error) => {
                let text = |name: &str| {
                    error[name].as_str().expect("an error has a kind and a message").to_owned()
                };
                Answer::Failed(text("kind"), text("message"))
            }
            None => Answer::Done(value),
        }
    }

    /// Ends its input and gives its exit code.
    ///
    /// # Panics
    ///
    /// If the process cannot be waited for.
    pub fn finish(mut self) -> Option<i32> {
        drop(self.stdin.take());
        self.child.wait().expect("it is our child").code()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It may be waiting for a node that is gone, for as long as its timeout.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
