//! What the figures of one run are held against: how many times the known parts' they should be, or how much at most.
//!
//! Invariant: a goal is told beside its figure and decides nothing: machines are noisy, and a figure is no test.

use super::{KNOWN, OURS, alone, loads};
use crate::bench::figures::{Figures, Row};

/// A figure of ours and what it should be.
pub(super) struct Goal {
    row: Row,
    bound: Bound,
}

enum Bound {
    /// At least so many times theirs.
    Times(f64),
    /// At most so many times theirs.
    NoMoreThan(f64),
    /// At most so much, whatever theirs is.
    Below(f64),
}

pub(super) const GOALS: [Goal; 10] = [
    Goal { row: loads::PUT, bound: Bound::Times(4.0) },
    Goal { row: loads::GET, bound: Bound::Times(4.0) },
    Goal { row: loads::SMALL, bound: Bound::Times(1.5) },
    Goal { row: loads::SMALL_P99, bound: Bound::NoMoreThan(1.0) },
    Goal { row: loads::MIXED_P99, bound: Bound::NoMoreThan(1.0) },
    Goal { row: alone::PUT, bound: Bound::Times(1.0) },
    Goal { row: alone::PUT_CPU, bound: Bound::NoMoreThan(1.0) },
    Goal { row: alone::GET, bound: Bound::Times(1.0) },
    Goal { row: alone::GET_CPU, bound: Bound::NoMoreThan(1.0) },
    Goal { row: alone::OPEN_MEMORY, bound: Bound::Below(64.0) },
];

impl Goal {
    /// One line: the goal, what was measured, and whether it was reached.
    pub(super) fn told(&self, figures: &Figures) -> String {
        let name = match self.row.name.trim() {
            name if name.starts_with("its ") => format!("the proxy alone: {name}"),
            name => name.to_owned(),
        };
        let ours = figures.median(self.row.name, OURS);
        let (Some(ours), theirs) = (ours, figures.median(self.row.name, KNOWN)) else {
            return format!("goal not measured: {name}");
        };
        let ratio = theirs.filter(|theirs| *theirs > 0.0).map(|theirs| ours / theirs);
        let (wanted, measured, reached) = match (&self.bound, ratio) {
            (Bound::Below(most), _) => (format!("< {most}"), format!("{ours:.1}"), ours < *most),
            (Bound::Times(_) | Bound::NoMoreThan(_), None) => return format!("goal not measured: {name}"),
            (Bound::Times(least), Some(ratio)) => {
                (format!("≥ {least:.2}"), format!("{ratio:.2}"), ratio >= *least)
            }
            (Bound::NoMoreThan(most), Some(ratio)) => {
                (format!("≤ {most:.2}"), format!("{ratio:.2}"), ratio <= *most)
            }
        };
        let verdict = if reached { "reached" } else { "MISSED" };
        format!("goal {verdict}: {name}: {measured}, aimed at {wanted}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(goal: usize, ours: f64, theirs: Option<f64>) -> String {
        let mut figures = Figures::default();
        figures.add(GOALS[goal].row, OURS, ours);
        if let Some(theirs) = theirs {
            figures.add(GOALS[goal].row, KNOWN, theirs);
        }
        GOALS[goal].told(&figures)
    }

    #[test]
    fn a_goal_is_reached_missed_or_not_measured() {
        assert!(told(0, 400.0, Some(100.0)).starts_with("goal reached"));
        assert!(told(0, 399.0, Some(100.0)).starts_with("goal MISSED"));
        assert!(told(0, 399.0, None).starts_with("goal not measured"));
        assert!(told(4, 99.0, Some(100.0)).starts_with("goal reached"));
        assert!(told(4, 101.0, Some(100.0)).starts_with("goal MISSED"));
        assert!(told(9, 63.9, Some(1.0)).starts_with("goal reached"));
        assert!(told(9, 64.0, Some(1000.0)).starts_with("goal MISSED"));
        assert!(GOALS[1].told(&Figures::default()).starts_with("goal not measured"));
    }
}
