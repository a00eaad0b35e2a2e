//! What the demo has shown: a list of checks, each with a figure.

/// The checks so far.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    checks: Vec<Check>,
}

#[derive(Debug)]
struct Check {
    claim: String,
    holds: bool,
    figure: String,
}

impl Evidence {
    /// Notes whether `claim` holds, with what was seen.
    pub(crate) fn add(&mut self, claim: &str, holds: bool, figure: impl Into<String>) {
        self.checks.push(Check { claim: claim.to_owned(), holds, figure: figure.into() });
    }

    /// How many claims did not hold.
    pub(crate) fn failed(&self) -> usize {
        self.checks.iter().filter(|check| !check.holds).count()
    }

    /// One line a claim.
    pub(crate) fn table(&self) -> String {
        let width = self.checks.iter().map(|check| check.claim.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for check in &self.checks {
            let mark = if check.holds { "✓" } else { "✗" };
            let blanks = " ".repeat(width - check.claim.chars().count());
            text.push_str(&format!("  {mark} {}{blanks}  {}\n", check.claim, check.figure));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_does_not_hold_is_counted_and_marked() {
        let mut evidence = Evidence::default();
        evidence.add("water is wet", true, "100 %");
        evidence.add("fire is cold", false, "900 °C");
        assert_eq!(evidence.failed(), 1);
        let table = evidence.table();
        assert!(table.contains("✓ water is wet") && table.contains("✗ fire is cold"), "{table}");
    }
}
