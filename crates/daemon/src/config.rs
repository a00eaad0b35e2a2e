//! Configuration files: TOML, unknown keys refused, every message naming file, line and key.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// The largest configuration file that is read.
pub const MAX_CONFIG_BYTES: u64 = 4 * 1024 * 1024;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Everybody may write it.
    #[error("{}: mode {mode:o} lets everybody write it; `chmod o-w FILE`", path.display())]
    Writable {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// The file is too large.
    #[error("{}: larger than {MAX_CONFIG_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    /// It is not TOML, or not what is expected.
    #[error("{0}")]
    Syntax(String),
    /// It can be read, but some values make no sense together.
    #[error("{}", .0.join("\n"))]
    Values(Vec<String>),
}

/// Reads `path` as `Raw` (which should `deny_unknown_fields`).
pub fn load<Raw: DeserializeOwned>(path: &Path) -> Result<Raw, ConfigError> {
    parse(&path.display().to_string(), &read_text(path)?)
}

/// Reads a configuration file's text.
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    let file =
        std::fs::File::open(path).map_err(|error| ConfigError::Read { path: path.to_path_buf(), error })?;
    read_open(path, file)
}

/// Reads the text of a configuration file that is already open, as handed over on reload.
pub fn read_open(path: &Path, file: impl std::io::Read) -> Result<String, ConfigError> {
    let mut text = String::new();
    let length =
        std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_CONFIG_BYTES + 1), &mut text)
            .map_err(|error| ConfigError::Read { path: path.to_path_buf(), error })?;
    if length as u64 > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge(path.to_path_buf()));
    }
    Ok(text)
}

/// Reads an open file of at most `most` bytes that is no secret and that decides who is let in: one that everybody may
/// write is refused.
pub fn read_trusted(path: &Path, file: std::fs::File, most: u64) -> Result<String, ConfigError> {
    let unreadable = |error| ConfigError::Read { path: path.to_path_buf(), error };
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o002 != 0 {
        return Err(ConfigError::Writable { path: path.to_path_buf(), mode });
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(file, most + 1), &mut text).map_err(unreadable)?;
    if text.len() as u64 > most {
        return Err(ConfigError::Syntax(format!("{}: larger than {most} bytes", path.display())));
    }
    Ok(text)
}

/// Reads `text` as `Raw`; messages begin with `NAME:LINE:COLUMN:`.
pub fn parse<Raw: DeserializeOwned>(name: &str, text: &str) -> Result<Raw, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let (line, column) = error.span().map_or((1, 1), |span| position(text, span.start));
        let message = error.message().replace('\n', " ");
        ConfigError::Syntax(format!("{name}:{line}:{column}: {}", message.trim()))
    })
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Collects what is wrong with a configuration's values, to report all of it at once.
#[derive(Debug)]
pub struct Problems {
    name: String,
    found: Vec<String>,
}

impl Problems {
    /// Starts with none; `name` is the file's.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), found: Vec::new() }
    }

    /// Notes that the value at `key` is wrong.
    pub fn add(&mut self, key: &str, what: impl std::fmt::Display) {
        self.found.push(format!("{}: {key}: {what}", self.name));
    }

    /// Takes the value out of `result`, or notes its error under `key`.
    pub fn take<T, E: std::fmt::Display>(&mut self, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(key, error)).ok()
    }

    /// Whether nothing was found so far.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All that was found, or `Ok`.
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.found.is_empty() { Ok(()) } else { Err(ConfigError::Values(self.found)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[expect(dead_code, reason = "only its parsing is looked at")]
        port: u16,
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = parse::<Example>("edge.toml", "port = 1\nprot = 2\n").unwrap_err().to_string();
        assert!(error.starts_with("edge.toml:2:1:") && error.contains("prot"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_its_place() {
        let error = parse::<Example>("edge.toml", "\nport = 70000\n").unwrap_err().to_string();
        assert!(error.starts_with("edge.toml:2:8:"), "{error}");
    }

    #[test]
    fn a_file_that_decides_who_is_let_in_is_not_everybodys_to_write() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jwks.json");
        std::fs::write(&path, "text").unwrap();
        let read = |most| read_trusted(&path, std::fs::File::open(&path).unwrap(), most);
        assert_eq!(read(4).unwrap(), "text");
        assert!(read(3).unwrap_err().to_string().contains("larger than 3 bytes"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read(4).unwrap_err().to_string().contains("mode 666"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Example>(Path::new("/no/such/edge.toml")).unwrap_err().to_string();
        assert!(error.contains("/no/such/edge.toml"), "{error}");
    }

    #[test]
    fn problems_are_reported_together() {
        let mut problems = Problems::new("edge.toml");
        problems.add("listen", "not an address");
        assert!(problems.take("mtu", "x".parse::<u16>()).is_none());
        let text = problems.finish().unwrap_err().to_string();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            text.contains("edge.toml: listen: not an address") && text.contains("edge.toml: mtu: "),
            "{text}"
        );
    }
}
