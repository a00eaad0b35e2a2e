//! Patience with a daemon of the same name that is just ending: `ip link del wg0; wgd wg0`.
//!
//! Invariant: what is in use for longer than a moment belongs to somebody else, and that is an error.
use crate::limits;

/// Attempts something, and again for a moment while it is in use.
///
/// # Errors
/// Those of the last attempt.
pub(crate) fn outwait<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 0..limits::PREDECESSOR_TRIES {
        match attempt() {
            Err(error) if is_in_use(&error) => std::thread::sleep(limits::PREDECESSOR_PAUSE),
            outcome => return outcome,
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_free_is_taken() {
        let mut left = 3;
        let mut attempt = || {
            left -= 1;
            if left == 0 { Ok("mine") } else { Err("in use") }
        };
        assert_eq!(outwait(&mut attempt, |error| *error == "in use"), Ok("mine"));
    }

    #[test]
    fn what_stays_in_use_and_any_other_error_are_refused() {
        assert_eq!(outwait(|| Err::<(), _>("in use"), |_| true), Err("in use"));
        let mut attempts = 0;
        let mut broken = || {
            attempts += 1;
            Err::<(), _>("broken")
        };
        assert_eq!(outwait(&mut broken, |error| *error == "in use"), Err("broken"));
        assert_eq!(attempts, 1);
    }
}
