//! What test programs report, added up.
//!
//! Invariant: a suite that ended badly without naming a failed test (it did not compile, it was killed)
//! still counts as a failure.

/// The counts and names of every suite of one run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Results {
    passed: u64,
    failed: u64,
    skipped: u64,
    failures: Vec<String>,
    skips: Vec<String>,
    /// Tests that a runner left for `cargo xtask test slow`; another suite, so not counted here.
    for_slow: u64,
}

impl Results {
    /// Takes in one line of a test program's output, in libtest's form.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            for part in rest.split(['.', ';']) {
                let mut words = part.split_whitespace();
                if let (Some(count), Some(word)) =
                    (words.next().and_then(|w| w.parse::<u64>().ok()), words.next())
                {
                    match word {
                        "passed" => self.passed += count,
                        "failed" => self.failed += count,
                        "ignored" | "skipped" => self.skipped += count,
                        _ => {}
                    }
                }
            }
        } else if let Some(rest) = line.strip_prefix("test ")
            && let Some((name, verdict)) = rest.rsplit_once(" ... ")
        {
            if verdict.starts_with("FAILED") {
                self.failures.push(name.to_owned());
            } else if verdict.starts_with("ignored") || verdict.starts_with("skipped") {
                self.skips.push(format!("{name} ({verdict})"));
            } else if verdict.starts_with("not in the quick set") {
                self.for_slow += 1;
            }
        }
    }

    /// Says how a suite's process ended, given the failures counted before it.
    pub(crate) fn suite_ended(&mut self, suite: &str, succeeded: bool, failed_before: u64) {
        if !succeeded && self.failed == failed_before {
            self.failed += 1;
            self.failures.push(format!("{suite}: did not build or did not finish"));
        }
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    pub(crate) fn ran(&self) -> u64 {
        self.passed + self.failed
    }

    /// The names of what failed or was skipped, then the counts on a line of their own.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for name in &self.failures {
            text.push_str(&format!("failed: {name}\n"));
        }
        for name in &self.skips {
            text.push_str(&format!("skipped: {name}\n"));
        }
        if self.for_slow > 0 {
            text.push_str(&format!("{} more run with `cargo xtask test slow`\n", self.for_slow));
        }
        text.push_str(&format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_programs_add_up() {
        let mut results = Results::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test a::d ... ignored, needs a VM",
            "test idle_for_minutes ... not in the quick set, see `cargo xtask test slow`",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        ] {
            results.line(line);
        }
        assert_eq!(
            results.summary(),
            "failed: a::c\nskipped: a::d (ignored, needs a VM)\n1 more run with `cargo xtask test slow`\n6 passed, 1 failed, 1 skipped"
        );
    }

    #[test]
    fn a_suite_that_did_not_build_counts_as_one_failure() {
        let mut results = Results::default();
        results.line("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        results.suite_ended("scenarios", false, results.failed());
        assert_eq!((results.ran(), results.failed()), (3, 1));
    }

    #[test]
    fn a_suite_with_a_named_failure_is_not_counted_twice() {
        let mut results = Results::default();
        results.line("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
        results.suite_ended("unit tests", false, 0);
        assert_eq!(results.failed(), 1);
    }
}
