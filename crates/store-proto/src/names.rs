//! The short names of the domain: cohort, edge, user, file type, file id, request id.
//!
//! **Invariant:** every name is printable ASCII without `/`, so it can stand in a header, a URL
//! segment and a log field without being escaped.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{hex, limits};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct NameError {
    what: &'static str,
    rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes `text` if it is such a name.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&[u8]) -> bool = $check;
                if check(text.as_bytes()) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError { what: $what, rule: $rule })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name!(
    /// A group of files and of the people who may touch them.
    Cohort,
    "a cohort",
    "1 to 63 characters of a-z, 0-9, `_` and `-`, beginning with a letter or digit",
    |text| (1..=limits::MAX_COHORT_BYTES).contains(&text.len())
        && is_lower_alphanumeric(text[0])
        && text.iter().all(|&c| is_lower_alphanumeric(c) || matches!(c, b'_' | b'-'))
);

name!(
    /// An edge, by the friendly name of its WireGuard peer.
    EdgeName,
    "an edge's name",
    "1 to 64 characters of A-Z, a-z, 0-9, `_`, `.` and `-`, beginning with a letter or digit",
    |text| (1..=limits::MAX_EDGE_NAME_BYTES).contains(&text.len())
        && text[0].is_ascii_alphanumeric()
        && text.iter().all(|&c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
);

name!(
    /// Who a proof stands for.
    UserName,
    "a user's name",
    "1 to 128 characters of A-Z, a-z, 0-9, `_`, `.`, `-`, `+`, `@` and `:`, beginning with a letter or digit",
    |text| (1..=limits::MAX_USER_NAME_BYTES).contains(&text.len())
        && text[0].is_ascii_alphanumeric()
        && text
            .iter()
            .all(|&c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-' | b'+' | b'@' | b':'))
);

name!(
    /// What kind of data a file holds, such as `raw_csv`.
    FileType,
    "a file type",
    "1 to 64 characters of a-z, 0-9, `_`, `.` and `-`, beginning with a letter or digit",
    |text| (1..=limits::MAX_FILE_TYPE_BYTES).contains(&text.len())
        && is_lower_alphanumeric(text[0])
        && text.iter().all(|&c| is_lower_alphanumeric(c) || matches!(c, b'_' | b'.' | b'-'))
);

name!(
    /// The end of a file's name that says what it is, without its dot, such as `csv` or `tar.gz`.
    Extension,
    "an extension",
    "1 to 32 characters of a-z, 0-9, `_`, `-` and, between them, `.`, without the dot in front",
    |text| (1..=limits::MAX_EXTENSION_BYTES).contains(&text.len())
        && text.split(|&c| c == b'.').all(|part| !part.is_empty()
            && part.iter().all(|&c| is_lower_alphanumeric(c) || matches!(c, b'_' | b'-')))
);

impl UserName {
    /// What the names of daemons begin with that ask for themselves.
    const INTERNAL: &str = "internal:";

    /// An edge, where it asks for itself and not for a user.
    pub fn internal(edge: &EdgeName) -> UserName {
        // Shorter than a user's name may be, and of characters that it may have.
        UserName(format!("{}{}", Self::INTERNAL, edge.as_str()))
    }

    /// Whether it is the name of a daemon: nobody else may be called so.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with(Self::INTERNAL)
    }
}

impl Extension {
    /// Whether a file's name has it, in whatever case, behind something else.
    pub fn is_of(&self, file_name: &str) -> bool {
        let end = file_name.len().checked_sub(self.0.len() + 1).filter(|end| *end > 0);
        end.and_then(|end| file_name.as_bytes().get(end..))
            .is_some_and(|end| end[0] == b'.' && end[1..].eq_ignore_ascii_case(self.0.as_bytes()))
    }
}

name!(
    /// What a client calls a request that it may have to send again.
    IdempotencyKey,
    "an idempotency key",
    "1 to 128 printable ASCII characters without quotes and backslashes",
    |text| (1..=limits::MAX_IDEMPOTENCY_KEY_BYTES).contains(&text.len())
        && text.iter().all(|&c| matches!(c, b' '..=b'~') && !matches!(c, b'"' | b'\\'))
);

impl IdempotencyKey {
    /// Takes the header field: a string in quotes, as the draft of the IETF says, or the same without them.
    pub fn from_field(field: &str) -> Result<Self, NameError> {
        let quoted = field.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        Self::parse(quoted.unwrap_or(field))
    }

    /// The header field, as the draft says.
    pub fn to_field(&self) -> String {
        format!("\"{}\"", self.as_str())
    }
}

name!(
    /// Joins what edge, wgd and storaged log about one request.
    RequestId,
    "a request id",
    "1 to 64 characters of A-Z, a-z, 0-9, `_`, `.`, `-` and `:`",
    |text| (1..=limits::MAX_REQUEST_ID_BYTES).contains(&text.len())
        && text.iter().all(|&c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-' | b':'))
);

fn is_lower_alphanumeric(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// A stored file, an upload or a link: 16 bytes, of which 12 at least are random, written as 32 lower-case hexadecimal digits.
///
/// No name, path or time is in it, so it may stand in logs and on the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileId([u8; 16]);

impl FileId {
    /// An id of 16 bytes, which the caller drew at random.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Takes 32 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        hex::decode(text)
            .map(Self)
            .ok_or(NameError { what: "a file id", rule: "32 lower-case hexadecimal digits" })
    }

    /// The 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// What all ids that one store makes begin with: its own id's first bytes. Of the 16 bytes 12 are left to chance.
    pub fn mark(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }

    /// The mark as text.
    pub fn mark_text(mark: [u8; 4]) -> String {
        hex::encode(&mark)
    }

    /// The same id, as this store makes it.
    #[must_use]
    pub fn made_by(mut self, store: FileId) -> Self {
        self.0[..4].copy_from_slice(&store.mark());
        self
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl FromStr for FileId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for FileId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<FileId> for String {
    fn from(id: FileId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cohort_can_stand_in_a_url_segment() {
        for good in ["a", "5", "cohort_5", "a-b", &"a".repeat(63)] {
            assert!(Cohort::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", "_a", "a/b", "a b", "..", "a.b", "ä", "a\n", &"a".repeat(64)] {
            assert!(Cohort::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_id_cannot_split_a_header() {
        for bad in ["", "a b", "a\r\nb", "a\"b", "{}", &"a".repeat(65)] {
            assert!(RequestId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(RequestId::parse("01996c2e-7c1a-7000-8000-000000000000").is_ok());
    }

    #[test]
    fn an_idempotency_key_is_the_same_with_and_without_quotes() {
        let key = IdempotencyKey::from_field("\"8e03978e 40d5\"").unwrap();
        assert_eq!(IdempotencyKey::from_field("8e03978e 40d5"), Ok(key.clone()));
        assert_eq!(key.to_field(), "\"8e03978e 40d5\"");
        for bad in ["", "\"\"", "\"", "a\"b", "\"a\\\"b\"", "a\tb", "ä", &"a".repeat(129)] {
            assert!(IdempotencyKey::from_field(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_id_has_one_spelling() {
        let id = FileId::from_bytes([0xab; 16]);
        assert_eq!(FileId::parse(&id.to_string()), Ok(id));
        assert!(FileId::parse(&id.to_string().to_uppercase()).is_err());
        assert!(FileId::parse("../../etc/passwd").is_err());
    }

    #[test]
    fn an_id_begins_as_its_stores_does() {
        let store = FileId::from_bytes([7; 16]);
        let id = FileId::from_bytes([0xab; 16]).made_by(store);
        assert_eq!((id.mark(), &id.as_bytes()[4..]), (store.mark(), &[0xab; 12][..]));
    }

    #[test]
    fn an_extension_is_the_end_of_a_name_in_any_case() {
        let is_of = |extension: &str, name| Extension::parse(extension).unwrap().is_of(name);
        for (extension, name) in
            [("csv", "a.csv"), ("csv", "A.CsV"), ("gz", "a.tar.gz"), ("tar.gz", "ä.tar.gz")]
        {
            assert!(is_of(extension, name), "{name}");
        }
        for (extension, name) in
            [("csv", "csv"), ("csv", ".csv"), ("csv", "acsv"), ("csv", "a.csv.exe"), ("gz", "a.ägz")]
        {
            assert!(!is_of(extension, name), "{name}");
        }
        for text in ["", ".csv", "csv.", "tar..gz", "CSV", "a/b", "ä"] {
            assert!(Extension::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn serde_refuses_what_parse_refuses() {
        assert!(serde_json::from_str::<Cohort>("\"../x\"").is_err());
        assert!(serde_json::from_str::<UserName>("\"a b\"").is_err());
        assert!(serde_json::from_str::<EdgeName>("\"web1\"").is_ok());
        assert!(serde_json::from_str::<FileType>("\"raw_csv\"").is_ok());
    }
}
