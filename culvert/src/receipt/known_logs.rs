//! The logs whose keys this user has seen: one key a line, in `~/.config/culvert/known_logs`.
//!
//! Invariant: a log that is known keeps its key; another one is an error that names the file, as in `known_hosts`.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use receipt::LogKey;

use crate::failure::Failure;
use crate::limits::KNOWN_LOGS_BYTES_AT_MOST;

/// Says where the file is, for programs that must not share it.
const VARIABLE: &str = "CULVERT_KNOWN_LOGS";

/// The file, if there is a place for it.
#[derive(Debug, Clone)]
pub(crate) struct KnownLogs(Option<PathBuf>);

impl KnownLogs {
    pub(crate) fn of_this_user() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let configuration =
            || variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
        Self(variable(VARIABLE).or_else(|| Some(configuration()?.join("culvert/known_logs"))))
    }

    /// The key of the log `name`, if it was remembered.
    pub(crate) fn key_of(&self, name: &str) -> Result<Option<LogKey>, Failure> {
        Ok(self.read()?.into_iter().find(|key| key.name() == name))
    }

    /// Remembers a log that is not known yet; says whether it was new.
    pub(crate) fn remember(&self, key: &LogKey) -> Result<bool, Failure> {
        let Some(path) = &self.0 else { return Ok(false) };
        if let Some(known) = self.key_of(key.name())? {
            if known == *key {
                return Ok(false);
            }
            return Err(Failure::failed(format!(
                "THE LOG HAS ANOTHER KEY than before: {} holds {known}, the server's receipt names {key}. Somebody \
                 else may be answering. If the log's key was changed on purpose, take the old line out",
                path.display()
            )));
        }
        let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", path.display()));
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
        // One write: lines of two commands at a time do not mix.
        file.write_all(format!("{key}\n").as_bytes()).map_err(failed)?;
        Ok(true)
    }

    fn read(&self) -> Result<Vec<LogKey>, Failure> {
        let Some(path) = &self.0 else { return Ok(Vec::new()) };
        let wrong = |what: &dyn std::fmt::Display| Failure::usage(format!("{}: {what}", path.display()));
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(wrong(&error)),
        };
        let mut text = String::new();
        file.take(KNOWN_LOGS_BYTES_AT_MOST).read_to_string(&mut text).map_err(|error| wrong(&error))?;
        let lines = text.lines().zip(1..).filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
        let keys = lines.map(|(line, number)| {
            LogKey::parse(line).map_err(|error| wrong(&format_args!("line {number}: {error}")))
        });
        keys.collect()
    }
}

#[cfg(test)]
mod tests {
    use receipt::LogSigner;

    use super::*;

    fn key(name: &str, seed: u8) -> LogKey {
        LogSigner::from_seed(name, &[seed; 32]).unwrap().log_key()
    }

    #[test]
    fn a_log_is_remembered_with_its_first_key() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownLogs(Some(directory.path().join("new/known_logs")));
        assert_eq!(known.key_of("culvert/aa").unwrap(), None);
        assert!(known.remember(&key("culvert/aa", 1)).unwrap());
        assert!(known.remember(&key("culvert/bb", 2)).unwrap());
        assert!(!known.remember(&key("culvert/aa", 1)).unwrap(), "known already");
        assert_eq!(known.key_of("culvert/aa").unwrap(), Some(key("culvert/aa", 1)));
        let refused = known.remember(&key("culvert/aa", 3)).unwrap_err();
        assert!(refused.message().contains("ANOTHER KEY"), "{}", refused.message());
    }

    #[test]
    fn a_spoiled_line_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("known_logs");
        fs::write(&path, format!("# mine\n\n{}\nnonsense\n", key("culvert/aa", 1))).unwrap();
        let error = KnownLogs(Some(path)).key_of("culvert/aa").unwrap_err();
        assert!(error.message().contains("known_logs: line 4: "), "{}", error.message());
    }

    #[test]
    fn without_a_home_nothing_is_known() {
        assert_eq!(KnownLogs(None).key_of("culvert/aa").unwrap(), None);
        assert!(!KnownLogs(None).remember(&key("culvert/aa", 1)).unwrap());
    }
}
