//! What a process knew about its own lock-down when it was sealed.

/// One layer of the lock-down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// All five capability sets are empty, or hold only what the role was allowed to keep.
    Capabilities,
    /// Runs as a user other than 0.
    User,
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivileges,
    /// `PR_SET_DUMPABLE` is 0 and `RLIMIT_CORE` is 0.
    NoDump,
    /// `PR_SET_MDWE`: memory is never writable and executable.
    Mdwe,
    /// `RLIMIT_FSIZE` is 0: no byte can be written to a regular file.
    NoFileWrites,
    /// Landlock rules for paths (and TCP ports where the kernel knows them).
    Landlock,
    /// The system-call filter, on every thread.
    Seccomp,
}

impl Layer {
    /// The layer's name in metrics, logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capabilities => "capabilities",
            Self::User => "user",
            Self::NoNewPrivileges => "no_new_privs",
            Self::NoDump => "no_dump",
            Self::Mdwe => "mdwe",
            Self::NoFileWrites => "no_file_writes",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }
}

/// Whether a layer is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerState {
    /// It is on, completely.
    On,
    /// It is on as far as this kernel can; the text says what is missing.
    Partial(String),
    /// It is off; the text says why.
    Off(String),
    /// This role does not use the layer.
    NotUsed,
}

/// The layers of one process, as known at its seal.
#[derive(Debug, Clone, Default)]
pub struct Lockdown {
    /// Each layer once, in the order in which they were put on.
    pub layers: Vec<(Layer, LayerState)>,
    /// The Landlock ABI of the running kernel; `None` without Landlock.
    pub landlock_abi: Option<u8>,
    /// SHA-256 (hex) of the installed system-call filters' instructions.
    pub filter_sha256: Option<String>,
}

impl Lockdown {
    /// The state of `layer`; `NotUsed` if it was never mentioned.
    pub fn state(&self, layer: Layer) -> &LayerState {
        self.layers.iter().find(|(l, _)| *l == layer).map_or(&LayerState::NotUsed, |(_, state)| state)
    }

    /// The first layer that is off, and why: what a production profile refuses.
    pub fn off(&self) -> Option<(Layer, &str)> {
        self.layers.iter().find_map(|(layer, state)| match state {
            LayerState::Off(why) => Some((*layer, why.as_str())),
            LayerState::On | LayerState::Partial(_) | LayerState::NotUsed => None,
        })
    }

    /// Layers that are off or partial.
    pub fn missing(&self) -> Vec<(Layer, &str)> {
        self.layers
            .iter()
            .filter_map(|(layer, state)| match state {
                LayerState::Partial(why) | LayerState::Off(why) => Some((*layer, why.as_str())),
                LayerState::On | LayerState::NotUsed => None,
            })
            .collect()
    }

    pub(crate) fn set(&mut self, layer: Layer, state: LayerState) {
        self.layers.retain(|(l, _)| *l != layer);
        self.layers.push((layer, state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_kernel_lacks_is_missing_and_not_off() {
        let mut lockdown = Lockdown::default();
        lockdown.set(Layer::Seccomp, LayerState::On);
        lockdown.set(Layer::NoFileWrites, LayerState::NotUsed);
        lockdown.set(Layer::Landlock, LayerState::Partial("ABI 2".into()));
        assert_eq!((lockdown.missing(), lockdown.off()), (vec![(Layer::Landlock, "ABI 2")], None));
        lockdown.set(Layer::User, LayerState::Off("root".into()));
        assert_eq!(lockdown.off(), Some((Layer::User, "root")));
    }
}
