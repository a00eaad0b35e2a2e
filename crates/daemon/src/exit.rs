//! Exit codes (`sysexits.h`) and the outermost frame of each `main`.

use std::fmt;
use std::process::ExitCode;

/// The command line is wrong.
pub const USAGE: u8 = 64;
/// A file that should be read is not there.
pub const NO_INPUT: u8 = 66;
/// A bug.
pub const SOFTWARE: u8 = 70;
/// The operating system refused something.
pub const OS: u8 = 71;
/// Input or output failed.
pub const IO: u8 = 74;
/// It may work later.
pub const TEMPORARY: u8 = 75;
/// A right is missing.
pub const PERMISSION: u8 = 77;
/// The configuration is wrong.
pub const CONFIG: u8 = 78;

/// Marks an error with the exit code that fits it: `.context(ExitWith(exit::CONFIG))`.
#[derive(Debug, Clone, Copy)]
pub struct ExitWith(pub u8);

impl fmt::Display for ExitWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            USAGE => "wrong usage",
            NO_INPUT => "cannot read input",
            OS => "the operating system refused",
            IO => "input or output failed",
            TEMPORARY => "not now",
            PERMISSION => "not permitted",
            CONFIG => "wrong configuration",
            _ => "failed",
        })
    }
}

/// Wraps `error` so that [`run_main`] exits with `code`.
pub fn fail(code: u8, error: impl Into<anyhow::Error>) -> anyhow::Error {
    error.into().context(ExitWith(code))
}

/// Runs a program's `try_main`. An error is printed on one line, causes joined by colons; the exit code is the
/// outermost [`ExitWith`]'s, else 1.
pub fn run_main(name: &'static str, try_main: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    match try_main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {}", describe(&error));
            ExitCode::from(code_of(&error))
        }
    }
}

/// The exit code that `error` stands for.
pub fn code_of(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<ExitWith>().map_or(1, |ExitWith(code)| *code)
}

/// The chain of causes in one text. The [`ExitWith`] marks are left out: the code says the same.
pub fn describe(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let is_mark = is_exit_mark(&text);
        // Many errors print their source themselves; saying it twice helps nobody.
        if !is_mark && !parts.last().is_some_and(|last| last.ends_with(&text)) {
            parts.push(text);
        }
    }
    if parts.is_empty() { error.to_string() } else { parts.join(": ") }
}

fn is_exit_mark(text: &str) -> bool {
    [USAGE, NO_INPUT, OS, IO, TEMPORARY, PERMISSION, CONFIG, 1]
        .iter()
        .any(|code| ExitWith(*code).to_string() == text)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_mark_gives_the_code_and_the_text_gives_the_causes() {
        let error = fail(CONFIG, std::io::Error::other("inner")).context("outer");
        assert_eq!(code_of(&error), CONFIG);
        assert_eq!(describe(&error), "outer: inner");
    }

    #[test]
    fn an_unmarked_error_is_code_1() {
        let error = Err::<(), _>(std::io::Error::other("x")).context("y").unwrap_err();
        assert_eq!((code_of(&error), describe(&error).as_str()), (1, "y: x"));
    }
}
