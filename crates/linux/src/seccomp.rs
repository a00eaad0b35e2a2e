//! System-call filters (`seccomp(2)`), compiled by `seccompiler` and put on every thread at once.
//!
//! Two programs are installed. The first answers `clone3` with `ENOSYS`, because its flags hide behind a
//! pointer that a filter cannot follow: libc then falls back on `clone`, whose flags can be seen. The second
//! is the allow-list; whatever is not on it kills the process. Where both have an opinion the kernel takes
//! the stricter, so `clone3` stays refused (and not killed) although the list has to name it.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use sha2::{Digest, Sha256};

/// One line of a daemon's table: a system call that is allowed, and why.
#[derive(Debug, Clone, Copy)]
pub struct SyscallRule {
    /// The call's number (`libc::SYS_…`).
    pub number: i64,
    /// The call's name, for reports.
    pub name: &'static str,
    /// Allowed if all conditions of any one of these groups hold; without groups, whatever the arguments.
    pub when: &'static [&'static [Condition]],
    /// Why the daemon needs it.
    pub reason: &'static str,
    /// Why no test suite is seen to make the call; `None` where one is (`cargo xtask lockdown` compares).
    pub unseen: Option<&'static str>,
}

impl SyscallRule {
    /// Says why no suite makes the call: an error path, another C library, another kernel.
    #[must_use]
    pub const fn unseen(self, why: &'static str) -> Self {
        Self { unseen: Some(why), ..self }
    }

    /// Whether a call with these arguments is allowed, as the kernel will judge it.
    pub fn permits(&self, arguments: &[u64; 6]) -> bool {
        self.when.is_empty() || self.when.iter().any(|group| group.iter().all(|one| one.holds(arguments)))
    }
}

/// A test of the low 32 bits of one argument.
#[derive(Debug, Clone, Copy)]
pub enum Condition {
    /// Argument `.0` (0 to 5) equals `.1`.
    Equals(u8, u64),
    /// Argument `argument`, masked, equals `value`.
    Masked {
        /// Which argument, 0 to 5.
        argument: u8,
        /// The bits that are looked at.
        mask: u64,
        /// What they must be.
        value: u64,
    },
}

/// Allows a call whatever its arguments.
pub const fn allow(number: i64, name: &'static str, reason: &'static str) -> SyscallRule {
    SyscallRule { number, name, when: &[], reason, unseen: None }
}

/// Allows a call when any of the groups of conditions holds.
pub const fn allow_when(
    number: i64,
    name: &'static str,
    when: &'static [&'static [Condition]],
    reason: &'static str,
) -> SyscallRule {
    SyscallRule { number, name, when, reason, unseen: None }
}

/// Why a filter was not installed.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The table does not compile.
    #[error("compile the system-call table: {0}")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel refused the program.
    #[error("install the system-call filter: {0}")]
    Install(#[from] seccompiler::Error),
    /// This processor's call numbers are not known here.
    #[error("no system-call table for this processor architecture")]
    Architecture,
}

/// The compiled pair of programs. A daemon puts it on by [`crate::Confined::seal`] and in no other way.
pub struct Filters {
    refuse_clone3: BpfProgram,
    allow_list: BpfProgram,
}

impl Filters {
    /// Compiles tables into one list.
    ///
    /// # Errors
    /// When a condition names an argument that there is not, or the processor is unknown.
    pub fn compile(tables: &[&[SyscallRule]]) -> Result<Self, FilterError> {
        let architecture =
            TargetArch::try_from(std::env::consts::ARCH).map_err(|_| FilterError::Architecture)?;
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        let mut unconditional = vec![libc::SYS_clone3];
        for rule in tables.iter().copied().flatten() {
            if rule.when.is_empty() {
                unconditional.push(rule.number);
                continue;
            }
            let alternatives = rules.entry(rule.number).or_default();
            for group in rule.when {
                let conditions = group.iter().map(Condition::compile).collect::<Result<Vec<_>, _>>()?;
                alternatives.push(SeccompRule::new(conditions)?);
            }
        }
        // A table that allows a call outright wins over one that adds conditions: an empty list means "always".
        for number in unconditional {
            rules.insert(number, Vec::new());
        }
        let allow_list =
            SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture)?;
        let refused = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        // ENOSYS (38) fits u32; libc declares it as i32.
        let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let refuse_clone3 = SeccompFilter::new(refused, SeccompAction::Allow, enosys, architecture)?;
        Ok(Self { refuse_clone3: refuse_clone3.try_into()?, allow_list: allow_list.try_into()? })
    }

    /// Installs both on all threads (`SECCOMP_FILTER_FLAG_TSYNC`). Needs `no_new_privs`.
    ///
    /// # Errors
    /// When the kernel refuses a program.
    pub fn install(&self) -> Result<(), FilterError> {
        seccompiler::apply_filter_all_threads(&self.refuse_clone3)?;
        seccompiler::apply_filter_all_threads(&self.allow_list)?;
        Ok(())
    }

    /// SHA-256 over the instructions, in hex: equal tables give equal sums.
    pub(crate) fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for sock_filter { code, jt, jf, k } in self.refuse_clone3.iter().chain(&self.allow_list) {
            hash.update(code.to_le_bytes());
            hash.update([*jt, *jf]);
            hash.update(k.to_le_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Condition {
    /// The filter looks at the low 32 bits alone.
    fn holds(&self, arguments: &[u64; 6]) -> bool {
        let low =
            |argument: u8| arguments.get(usize::from(argument)).map(|value| value & u64::from(u32::MAX));
        match *self {
            Self::Equals(argument, value) => low(argument) == Some(value & u64::from(u32::MAX)),
            Self::Masked { argument, mask, value } => {
                low(argument).map(|found| found & mask) == Some(value & mask & u64::from(u32::MAX))
            }
        }
    }

    fn compile(&self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (argument, operator, value) = match *self {
            Self::Equals(argument, value) => (argument, SeccompCmpOp::Eq, value),
            Self::Masked { argument, mask, value } => (argument, SeccompCmpOp::MaskedEq(mask), value),
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: SyscallRule = allow(libc::SYS_read, "read", "test");
    const INET_SOCKET: SyscallRule =
        allow_when(libc::SYS_socket, "socket", &[&[Condition::Equals(0, libc::AF_INET as u64)]], "test");

    #[test]
    fn equal_tables_have_equal_sums_and_others_do_not() {
        let one = Filters::compile(&[&[READ, INET_SOCKET]]).unwrap().sha256();
        let same = Filters::compile(&[&[INET_SOCKET], &[READ]]).unwrap().sha256();
        let other = Filters::compile(&[&[READ]]).unwrap().sha256();
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert_eq!(one.len(), 64);
    }

    #[test]
    fn an_unconditional_rule_wins_over_a_conditional_one() {
        let any = Filters::compile(&[&[allow(libc::SYS_socket, "socket", "test")]]).unwrap().sha256();
        let both = Filters::compile(&[&[INET_SOCKET], &[allow(libc::SYS_socket, "socket", "test")]])
            .unwrap()
            .sha256();
        assert_eq!(any, both);
    }
}
