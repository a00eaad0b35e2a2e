//! Waiting for a condition with a bound, the only way anything here waits.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The one clock of the harness.
#[expect(clippy::disallowed_methods, reason = "tests run in real time; this is their one door to it")]
pub fn now() -> Instant {
    Instant::now()
}

/// Looks until `condition` gives a value; fails with `what` and the last reason after `bound`.
pub fn until<T>(what: &str, bound: Duration, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let start = now();
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(reason) if now().duration_since(start) > bound => {
                bail!("waited {:.1} s for {what}: {reason:#}", bound.as_secs_f64())
            }
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    }
}

/// Looks until `condition` holds.
pub fn until_true(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    until(what, bound, || if condition() { Ok(()) } else { bail!("not so") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_names_itself() {
        let error = until_true("the moon", Duration::from_millis(10), || false).unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
    }
}
