//! The ratios that are aimed at, each said with what was reached.

use super::super::figures::{Figures, Row};

/// A contender's figure.
pub(super) struct Of {
    pub(super) row: Row,
    pub(super) contender: &'static str,
}

/// A ratio and the least it shall be.
pub(super) struct Goal {
    pub(super) what: &'static str,
    pub(super) of: Of,
    pub(super) to: Of,
    pub(super) least: f64,
}

/// A line for each goal.
pub(super) fn judge(goals: &[Goal], figures: &[&Figures]) -> Vec<String> {
    goals.iter().map(|goal| goal.line(figures)).collect()
}

impl Goal {
    fn line(&self, figures: &[&Figures]) -> String {
        let value = |of: &Of| figures.iter().find_map(|section| section.median(of.row.name, of.contender));
        match (value(&self.of), value(&self.to)) {
            (Some(of), Some(to)) if to > 0.0 => {
                let ratio = of / to;
                let verdict = if ratio >= self.least { "reached" } else { "MISSED" };
                format!("goal {verdict}: {}: {ratio:.2}, aimed at ≥ {:.2}", self.what, self.least)
            }
            _ => format!("goal not measured: {}", self.what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_says_whether_it_was_reached_missed_or_not_measured() {
        const ROW: Row = Row { name: "rate", digits: 0 };
        let of = |contender| Of { row: ROW, contender };
        let goal = |least| Goal { what: "speed", of: of("a"), to: of("b"), least };
        let mut figures = Figures::default();
        assert_eq!(goal(1.0).line(&[&figures]), "goal not measured: speed");
        figures.add(ROW, "a", 3.0);
        figures.add(ROW, "b", 2.0);
        assert_eq!(goal(1.5).line(&[&figures]), "goal reached: speed: 1.50, aimed at ≥ 1.50");
        assert_eq!(goal(1.6).line(&[&figures]), "goal MISSED: speed: 1.50, aimed at ≥ 1.60");
    }
}
