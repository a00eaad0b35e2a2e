//! Readiness: a set of named conditions that must all hold.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The conditions. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<Vec<Named>>>,
}

type Named = (&'static str, Arc<AtomicBool>);

/// One condition's switch.
#[derive(Debug, Clone)]
pub struct Condition(Arc<AtomicBool>);

impl Readiness {
    /// No condition yet: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    pub fn condition(&self, name: &'static str, holds: bool) -> Condition {
        let flag = Arc::new(AtomicBool::new(holds));
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).push((name, Arc::clone(&flag)));
        Condition(flag)
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        self.describe().iter().all(|(_, holds)| *holds)
    }

    /// Each condition and whether it holds.
    pub fn describe(&self) -> Vec<(&'static str, bool)> {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.iter().map(|(name, flag)| (*name, flag.load(Ordering::Acquire))).collect()
    }
}

impl Condition {
    /// Sets whether the condition holds.
    pub fn set(&self, holds: bool) {
        self.0.store(holds, Ordering::Release);
    }

    /// Whether the condition holds.
    pub fn holds(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_false_condition_is_not_ready() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let tunnel = readiness.condition("tunnel", false);
        let _ledger = readiness.condition("ledger", true);
        assert!(!readiness.is_ready());
        tunnel.set(true);
        assert!(readiness.is_ready() && tunnel.holds());
        assert_eq!(readiness.describe(), [("tunnel", true), ("ledger", true)]);
    }
}
