//! How a command fails: one clear line, and an exit code that a script can act on.
//!
//! The codes are part of the interface. Nothing here prints a backtrace, and nothing else in this
//! crate decides on an exit code.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

/// Why a command did not do what it was asked, in the words of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What a script can do about it.
    pub(crate) kind: Kind,
    /// What happened, to what, and what to do. One line.
    pub(crate) message: String,
}

/// What a script can do about a failure. Each kind has an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// There is no such key. Exit code 1.
    NotFound,
    /// Something else went wrong, on this machine: a disk, a thread, a terminal. Exit code 1.
    Failed,
    /// The request makes no sense as it was given: change it. Exit code 2.
    Usage,
    /// No leader, or nobody reachable: nothing was done, try again later. Exit code 3.
    Unavailable,
    /// It may have been done or not: look before doing it again (rule C4). Exit code 4.
    UnknownOutcome,
    /// The certificate does not allow it. Exit code 5.
    NotPermitted,
    /// Data is damaged, or belongs to somebody else: do not go on with it. Exit code 6.
    Refused,
}

impl Kind {
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::NotFound | Self::Failed => 1,
            Self::Usage => 2,
            Self::Unavailable => 3,
            Self::UnknownOutcome => 4,
            Self::NotPermitted => 5,
            Self::Refused => 6,
        }
    }

    /// As it is called where failures are counted.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Unavailable => "unavailable",
            Self::UnknownOutcome => "unknown outcome",
            Self::NotPermitted => "not permitted",
            Self::Refused => "refused",
        }
    }
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: one_line(&message.to_string()) }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Says it on stderr and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        // If stderr is gone there is nobody left to tell; the exit code still says it.
        let _ = writeln!(std::io::stderr(), "error: {}", self.message);
        ExitCode::from(self.kind.exit_code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A message of a library may hold line breaks, and a name that somebody chose may hold anything
/// that moves a cursor. Neither may break "one line".
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        }));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_without_control_characters() {
        let failure = Failure::usage("a\n  b\r\n\u{1b}[31mc\u{7}");
        assert_eq!(failure.message, "a b \\u{1b}[31mc\\u{7}");
    }

    #[test]
    fn exit_codes_are_those_that_scripts_know() {
        let codes = [
            (Kind::NotFound, 1),
            (Kind::Usage, 2),
            (Kind::Unavailable, 3),
            (Kind::UnknownOutcome, 4),
            (Kind::NotPermitted, 5),
            (Kind::Refused, 6),
        ];
        for (kind, code) in codes {
            assert_eq!(kind.exit_code(), code, "{kind:?}");
        }
    }
}
