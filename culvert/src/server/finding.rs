//! What was found, and what to do about it.

use serde::Serialize;

use crate::console::{self, printable};
use crate::failure::Failure;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Pass,
    Warn,
    /// It could not be looked at.
    CannotTell,
    Fail,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Pass => "pass",
            State::Warn => "warn",
            State::CannotTell => "cannot_tell",
            State::Fail => "fail",
        }
    }
}

/// One check of one thing.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) check: &'static str,
    pub(crate) subject: String,
    pub(crate) state: State,
    pub(crate) detail: String,
    /// What to do; nothing where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<&'static str>,
}

impl Finding {
    pub(crate) fn pass(check: &'static str, subject: &str, detail: impl Into<String>) -> Finding {
        Finding {
            check,
            subject: subject.to_owned(),
            state: State::Pass,
            detail: detail.into(),
            advice: None,
        }
    }

    /// Anything but a pass says what to do.
    pub(crate) fn bad(
        state: State,
        check: &'static str,
        subject: &str,
        detail: impl Into<String>,
        advice: &'static str,
    ) -> Finding {
        Finding { check, subject: subject.to_owned(), state, detail: detail.into(), advice: Some(advice) }
    }
}

/// The worst of them.
pub(crate) fn verdict(findings: &[Finding]) -> State {
    findings.iter().map(|finding| finding.state).max().unwrap_or(State::CannotTell)
}

/// All in a table, what is to be done below it.
pub(crate) fn table(findings: &[Finding]) -> String {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            let word = match finding.state {
                State::Pass => "pass",
                State::Warn => "WARN",
                State::CannotTell => "?",
                State::Fail => "FAIL",
            };
            let Finding { check, subject, detail, .. } = finding;
            vec![word.to_owned(), (*check).to_owned(), subject.clone(), printable(detail)]
        })
        .collect();
    let mut text = console::table(&["STATE", "CHECK", "OF", "FOUND"], &rows);
    let mut told = Vec::new();
    for finding in findings.iter().filter(|finding| finding.state != State::Pass) {
        let Some(advice) = finding.advice.filter(|_| !told.contains(&finding.check)) else { continue };
        told.push(finding.check);
        text.push_str(&format!("\n\n{}: {advice}", finding.check));
    }
    text
}

/// The command's end: failed if anything failed, cannot tell if something could not be looked at.
pub(crate) fn conclude(findings: &[Finding]) -> Result<(), Failure> {
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    match (count(State::Fail), count(State::CannotTell)) {
        (0, 0) => Ok(()),
        (0, unknown) => Err(Failure::cannot_tell(format!("{unknown} checks could not be made"))),
        (failed, _) => Err(Failure::failed(format!("{failed} of {} checks failed", findings.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn the_worst_finding_decides_and_warnings_do_not() {
        let pass = Finding::pass("a", "edge", "x");
        let warn = Finding::bad(State::Warn, "b", "edge", "x", "do");
        let unknown = Finding::bad(State::CannotTell, "c", "edge", "x", "do");
        let fail = Finding::bad(State::Fail, "d", "edge", "x", "do");
        assert!(conclude(&[pass.clone(), warn.clone()]).is_ok());
        let exit = |findings: &[Finding]| conclude(findings).err().map(|failure| failure.exit());
        assert_eq!(exit(&[warn.clone(), unknown.clone()]), Some(Exit::CannotTell));
        assert_eq!(exit(&[fail.clone(), unknown.clone(), pass.clone()]), Some(Exit::Failed));
        assert_eq!(verdict(&[pass, fail, unknown, warn]), State::Fail);
        assert_eq!(verdict(&[]), State::CannotTell, "nothing was looked at");
    }

    #[test]
    fn a_table_says_once_what_to_do() {
        let fail = |of: &str| Finding::bad(State::Fail, "seccomp", of, "no filter", "restart it");
        let text = table(&[fail("edge"), fail("wgd"), Finding::pass("user", "edge", "64011")]);
        assert_eq!(text.matches("restart it").count(), 1);
        assert!(text.contains("FAIL   seccomp  edge  no filter"), "{text}");
    }
}
