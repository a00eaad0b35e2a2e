//! How a command ends when it does not end well.
//!
//! Invariant: the exit code says what kind of end it was, so that a script need not read the message.

use serde_json::json;

use crate::problem::ServerProblem;

/// The program's exit codes other than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It was tried and did not succeed, or a check has findings.
    Failed = 1,
    /// The command line or a file named on it is wrong. (clap uses the same code.)
    Usage = 2,
    /// It would destroy something and was not told to (`--force`).
    Refused = 3,
    /// Nobody answered, so nothing is known.
    CannotTell = 4,
}

/// What is said, and the code to leave with.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    problem: Option<Box<ServerProblem>>,
    output_closed: bool,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), problem: None, output_closed: false }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    pub(crate) fn cannot_tell(message: impl Into<String>) -> Self {
        Self::new(Exit::CannotTell, message)
    }

    /// A server's refusal.
    pub(crate) fn problem(problem: ServerProblem) -> Self {
        let exit = match problem.status {
            502..=504 => Exit::CannotTell,
            _ => Exit::Failed,
        };
        Self { exit, message: problem.to_string(), problem: Some(Box::new(problem)), output_closed: false }
    }

    /// Writing to our own output failed. A reader that had enough (`culvert ls | head`) is no failure.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        let output_closed = error.kind() == std::io::ErrorKind::BrokenPipe;
        Self { output_closed, ..Self::failed(format!("write to standard output: {error}")) }
    }

    /// The same, with what can be done about it.
    pub(crate) fn with_hint(mut self, hint: &str) -> Self {
        self.message.push_str(hint);
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The status that a server said it with.
    pub(crate) fn status(&self) -> Option<u16> {
        self.problem.as_ref().map(|problem| problem.status)
    }

    /// Whether it is a server's problem of this kind.
    pub(crate) fn is_of_kind(&self, name: &str) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.kind.as_deref() == Some(name))
    }

    /// Whether a server said it, as opposed to a connection that broke.
    pub(crate) fn is_problem(&self) -> bool {
        self.problem.is_some()
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn is_output_closed(&self) -> bool {
        self.output_closed
    }

    /// The form for `--json`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        json!({ "error": { "message": self.message, "exit": self.exit as u8, "problem": self.problem } })
    }
}
