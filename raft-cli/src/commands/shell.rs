//! `raft shell`: requests from stdin, one a line, on one connection.
//!
//! On a terminal: a prompt with history, and tables unless `-o json` is given. Otherwise: one line
//! of JSON for each request, flushed, in order, also for one that fails; then the next. Empty lines
//! and comments (`#`) are not answered. Ends with its input, or at `exit`.

use std::io::{self, BufRead, IsTerminal, Read};
use std::process::ExitCode;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::args::{self, Global, Output};
use crate::connect::Session;
use crate::failure::{Failure, Kind};
use crate::output::{self, Reply};
use crate::terminal;

pub(super) fn run(global: &Global) -> Result<ExitCode, Failure> {
    // A thread of its own keeps the connection alive while we wait for a line.
    let runtime = terminal::runtime(1)?;
    let session = runtime.block_on(async { Session::open(global) })?;
    let shell = Shell { runtime, session };
    let done = if io::stdin().is_terminal() { shell.talk(global.output) } else { shell.serve() };
    shell.runtime.block_on(shell.session.close());
    done
}

struct Shell {
    runtime: Runtime,
    session: Session,
}

/// What a line asks for.
enum Line {
    Nothing,
    Exit,
    Words(Vec<String>),
}

impl Shell {
    /// With a person.
    fn talk(&self, form: Output) -> Result<ExitCode, Failure> {
        let mut editor = DefaultEditor::new().map_err(|error| terminal_failed(&error))?;
        loop {
            let line = match editor.readline("raft> ") {
                Ok(line) => line,
                // Ctrl-C drops the line, Ctrl-D ends.
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => return Ok(ExitCode::SUCCESS),
                Err(error) => return Err(terminal_failed(&error)),
            };
            match words(&line) {
                Ok(Line::Nothing) => continue,
                Ok(Line::Exit) => return Ok(ExitCode::SUCCESS),
                Ok(Line::Words(words)) if words == ["help"] => {
                    output::print_line(HELP)?;
                }
                Ok(Line::Words(words)) => match self.answer(words) {
                    Ok(reply) => {
                        reply.print(form)?;
                    }
                    Err(failure) => {
                        output::print_line(&format!("error: {failure}"))?;
                    }
                },
                Err(failure) => {
                    output::print_line(&format!("error: {failure}"))?;
                }
            }
            // A history that cannot take a line only lacks it.
            let _ = editor.add_history_entry(&line);
        }
    }

    /// With a program.
    fn serve(&self) -> Result<ExitCode, Failure> {
        let mut stdin = io::stdin().lock();
        loop {
            let answer = match read_line(&mut stdin)? {
                None => return Ok(ExitCode::SUCCESS),
                Some(Err(failure)) => failed(&failure),
                Some(Ok(line)) => match words(&line) {
                    Ok(Line::Nothing) => continue,
                    Ok(Line::Exit) => return Ok(ExitCode::SUCCESS),
                    Ok(Line::Words(words)) => {
                        self.answer(words).map_or_else(|failure| failed(&failure), |r| r.to_json())
                    }
                    Err(failure) => failed(&failure),
                },
            };
            output::print_line(&answer.to_string())?;
        }
    }

    fn answer(&self, words: Vec<String>) -> Result<Reply, Failure> {
        let request = args::parse_line(words)?;
        self.runtime.block_on(super::answer(&self.session, &request))
    }
}

fn words(line: &str) -> Result<Line, Failure> {
    // JSON has quotes of its own, so it is taken as it is.
    if let Some(json) = line.trim().strip_prefix("txn").map(str::trim_start)
        && json.starts_with('{')
    {
        return Ok(Line::Words(vec!["txn".to_owned(), json.to_owned()]));
    }
    let words = shlex::split(line).ok_or_else(|| {
        Failure::usage("a quote is not closed, or a backslash ends the line; close it")
    })?;
    Ok(match words.first().map(String::as_str) {
        None => Line::Nothing,
        Some("exit" | "quit") if words.len() == 1 => Line::Exit,
        Some(_) => Line::Words(words),
    })
}

/// One line of input, or why it cannot be taken. `None` at the end.
fn read_line(input: &mut impl BufRead) -> Result<Option<Result<String, Failure>>, Failure> {
    let unreadable = |error: io::Error| Failure::failed(format!("cannot read from stdin: {error}"));
    let mut line = Vec::new();
    let mut limited = input.by_ref().take(MAX_LINE_BYTES + 1);
    if limited.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
        return Ok(None);
    }
    if limited.limit() == 0 && line.last() != Some(&b'\n') {
        skip_line(input).map_err(unreadable)?;
        let message = format!("the line has more than {MAX_LINE_BYTES} bytes; send less at once");
        return Ok(Some(Err(Failure::usage(message))));
    }
    let line = String::from_utf8(line)
        .map_err(|_| Failure::usage("the line is not UTF-8; send text, in UTF-8"));
    Ok(Some(line))
}

/// Reads over the rest of a line without keeping it.
fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

fn failed(failure: &Failure) -> Value {
    json!({ "error": { "kind": failure.kind, "message": failure.message } })
}

fn terminal_failed(error: &ReadlineError) -> Failure {
    Failure::new(Kind::Failed, format!("the terminal does not work: {error}"))
}

/// The longest value, quoted as badly as possible, and room to spare.
const MAX_LINE_BYTES: u64 = 32 << 20;

const HELP: &str = "\
put KEY VALUE         write a value under a key (--prev-kv, --lease ID, ...)
get KEY               read it (--stale, --rev N)
range KEY [END]       read several (--prefix, --limit N, --keys-only, --sort-by FIELD, ...)
del KEY [END]         remove it, or several (--prefix, --prev-kv)
txn {JSON}            do several things as one: {\"compare\":[..],\"then\":[..],\"else\":[..]}
watch KEY [END]       wait for what happens to it (--prefix, --rev N, --count N, --prev-kv)
lock NAME             wait for a lock, and hold it; also elect NAME VALUE; unlock NAME gives it up
lease grant TTL       keys that go when nobody keeps them; also revoke, keep-alive, timetolive, list
session list          what makes a write run once; also open, keep-alive, close
compact REVISION      give up the history before a revision
status                show what each node is doing
exit                  leave";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_honoured_and_must_be_closed() {
        let Ok(Line::Words(words)) = words(r#"put 'a b' "c \"d\"" # not this"#) else { panic!() };
        assert_eq!(words, ["put", "a b", "c \"d\""]);
        assert!(super::words("get 'open").is_err());
        let Ok(Line::Words(words)) = super::words(r#" txn {"then":["put a 'b'"]} "#) else {
            panic!()
        };
        assert_eq!(words, ["txn", r#"{"then":["put a 'b'"]}"#]);
        assert!(matches!(super::words("  # a comment"), Ok(Line::Nothing)));
        assert!(matches!(super::words("exit"), Ok(Line::Exit)));
    }

    #[test]
    fn a_line_that_is_too_long_or_no_text_is_answered_and_the_next_one_read() {
        let mut input = vec![b'x'; usize::try_from(MAX_LINE_BYTES).unwrap() + 10];
        input.extend(b"\n\xff\nget k\nlast");
        let mut input = &input[..];
        let mut next = || read_line(&mut input).unwrap();
        assert!(matches!(next(), Some(Err(failure)) if failure.kind == Kind::Usage));
        assert!(matches!(next(), Some(Err(failure)) if failure.message.contains("UTF-8")));
        assert!(matches!(next(), Some(Ok(line)) if line == "get k\n"));
        assert!(matches!(next(), Some(Ok(line)) if line == "last"));
        assert!(next().is_none());
    }

    #[test]
    fn failures_have_a_kind_and_a_message() {
        let value = failed(&Failure::new(Kind::UnknownOutcome, "lost"));
        assert_eq!(value, json!({ "error": { "kind": "unknown_outcome", "message": "lost" } }));
    }
}
