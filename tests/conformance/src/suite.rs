//! Runs the checks one after the other and reports like libtest.

use std::any::Any;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context as _, Error, Result, anyhow};
use culvert_netns::lab::{self, Lab};
use culvert_netns::wait;
use culvert_netns::world::World;

use crate::check::Check;
use crate::checks;
use crate::differences;
use crate::stage::Stage;
use crate::subject::Subject;

/// What came of one check.
enum Verdict {
    /// The rule holds.
    Holds,
    /// It does not, and [`differences`] says why another program may differ here.
    Differs(&'static str),
    /// It does not.
    Broken(Error),
}

/// Runs the checks whose names contain one of `filters` (all without filters) inside `world`; true if no rule was
/// found broken and at least one was looked at.
///
/// # Errors
/// When the lab cannot be built, or `wgd` has not been built.
pub fn run(world: &World, subject: &Subject, filters: &[String]) -> Result<bool> {
    let all = checks::all();
    let wanted: Vec<&Check> = all
        .iter()
        .filter(|check| filters.is_empty() || filters.iter().any(|text| check.name.contains(text.as_str())))
        .collect();
    let programs = lab::programs()?;
    if matches!(subject, Subject::Wgd { .. }) {
        lab::require_programs(&programs, &["wgd"])?;
    }
    let lab = Lab::build(world, &programs).context("build the lab")?;
    let path = subject.install(&programs, &lab.web.path(culvert_netns::host::DISK))?;
    let told: String = subject.arguments().iter().map(|word| format!(" {word}")).collect();
    say(&format!("\nrunning {} checks against {}{told}\n", wanted.len(), subject.name()));
    let began = wait::now();
    let (mut passed, mut differ) = (0, 0);
    let mut failures = Vec::new();
    for check in &wanted {
        let (name, section) = (check.name, check.section);
        print(&format!("test {name} (§{section}) ... "));
        let start = wait::now();
        let verdict = look(check, &Stage::new(&lab, subject, path.clone()), subject);
        let seconds = wait::now().duration_since(start).as_secs_f64();
        match verdict {
            Verdict::Holds => {
                passed += 1;
                say(&format!("ok ({seconds:.1} s)"));
            }
            Verdict::Differs(reason) => {
                differ += 1;
                say(&format!("differs (expected: {reason})"));
            }
            Verdict::Broken(error) => {
                say(&format!("FAILED ({seconds:.1} s)"));
                failures.push((name, error));
            }
        }
    }
    if !failures.is_empty() {
        say("\nfailures:\n");
        for (name, error) in &failures {
            say(&format!("---- {name} ----\n{error:#}\n"));
        }
    }
    say(&format!(
        "\ntest result: {}. {passed} passed; {} failed; {differ} differ as expected; {} filtered out; \
         finished in {:.2}s\n",
        if failures.is_empty() { "ok" } else { "FAILED" },
        failures.len(),
        all.len() - wanted.len(),
        wait::now().duration_since(began).as_secs_f64()
    ));
    Ok(failures.is_empty() && !wanted.is_empty())
}

fn look(check: &Check, stage: &Stage<'_>, subject: &Subject) -> Verdict {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        stage.reset().context("clean the stage")?;
        (check.run)(stage)
    }))
    .unwrap_or_else(|panic| Err(anyhow!("panicked: {}", describe(&*panic))));
    let Err(error) = outcome else { return Verdict::Holds };
    match (subject, differences::reason(check.name)) {
        (Subject::Other(_), Some(reason)) => Verdict::Differs(reason),
        (Subject::Other(_), None) | (Subject::Wgd { .. }, _) => Verdict::Broken(error),
    }
}

fn describe(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "without words".to_owned())
}

fn say(line: &str) {
    print(&format!("{line}\n"));
}

fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    // A closed pipe (`| head`) is the reader's wish.
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}
