//! `Upload-Metadata`, as tus writes it: `key BASE64,key2 BASE64,…`.
//!
//! **Invariant:** what is read from it went through the types that every other name goes through; what it says beside
//! that is read for its form alone. The text as a whole goes to storaged, which tells it to whoever sent it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use store_proto::{Attributes, FileType, LogicalPath};

use crate::limits::{METADATA_BYTES, METADATA_PAIRS};

/// The keys that may name the file, the surest first: what the client's own form calls it comes last.
const NAMES: [&str; 3] = ["path", "filename", "name"];
/// The keys of the file's type and of its attributes: the names of the headers that say it elsewhere.
const FILE_TYPE: &str = "culvert-file-type";
const ATTRIBUTES: &str = "culvert-attribute";

/// What it says of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UploadMetadata {
    /// Its name in the cohort.
    pub path: Option<LogicalPath>,
    /// What kind of data it is.
    pub file_type: Option<FileType>,
    /// What is said of it beside that.
    pub attributes: Attributes,
}

impl UploadMetadata {
    /// Reads the header's value. The error is a rule, without what broke it.
    pub fn parse(value: &str) -> Result<UploadMetadata, String> {
        if value.len() > METADATA_BYTES {
            return Err(format!("it may have {METADATA_BYTES} bytes"));
        }
        let mut pairs: Vec<(&str, Vec<u8>)> = Vec::new();
        for pair in value.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, encoded) = pair.split_once(' ').unwrap_or((pair, ""));
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("a key is printable ASCII without spaces and commas".to_owned());
            }
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err("a key stands there twice".to_owned());
            }
            if pairs.len() == METADATA_PAIRS {
                return Err(format!("it may have {METADATA_PAIRS} keys"));
            }
            let decoded = STANDARD.decode(encoded.trim()).map_err(|_| "a value is not base64".to_owned())?;
            pairs.push((key, decoded));
        }
        // Only what is taken has to be text.
        let value = |wanted: &str| match pairs.iter().find(|(key, _)| *key == wanted) {
            None => Ok(None),
            Some((_, value)) => {
                std::str::from_utf8(value).map(Some).map_err(|_| "a value is not UTF-8".to_owned())
            }
        };
        let mut name = None;
        for key in NAMES {
            name = name.or(value(key)?);
        }
        let path = name.map(LogicalPath::parse).transpose().map_err(|error| error.to_string())?;
        let file_type = value(FILE_TYPE)?.map(FileType::parse).transpose();
        let attributes = Attributes::parse_lists(value(ATTRIBUTES)?).map_err(|error| error.to_string())?;
        Ok(UploadMetadata { path, file_type: file_type.map_err(|error| error.to_string())?, attributes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> String {
        format!("{key} {}", STANDARD.encode(value))
    }

    #[test]
    fn the_surest_name_is_taken() {
        let read = |pairs: &[(&str, &str)]| {
            let text: Vec<_> = pairs.iter().map(|(key, value)| pair(key, value)).collect();
            let read = UploadMetadata::parse(&text.join(",")).unwrap();
            (read.path.map(String::from), read.file_type.map(String::from))
        };
        assert_eq!(read(&[("filename", "ü b.csv"), ("filetype", "text/csv")]).0.unwrap(), "ü b.csv");
        assert_eq!(read(&[("name", "x"), ("filename", "y"), ("path", "2026/z")]).0.unwrap(), "2026/z");
        assert_eq!(read(&[("name", "x"), ("culvert-file-type", "raw_csv")]).1.unwrap(), "raw_csv");
        let attributes = pair("culvert-attribute", "protocol-year=2026, site=x");
        let read = UploadMetadata::parse(&attributes).unwrap().attributes;
        assert_eq!(read.to_list(), "protocol-year=2026,site=x");
        assert_eq!(UploadMetadata::parse(""), Ok(UploadMetadata::default()));
        assert_eq!(UploadMetadata::parse("is_confidential"), Ok(UploadMetadata::default()));
    }

    #[test]
    fn what_is_not_tus_is_refused_without_being_repeated() {
        let twice = format!("{},{}", pair("a", "1"), pair("a", "2"));
        let many: Vec<_> = (0..=METADATA_PAIRS).map(|n| pair(&n.to_string(), "x")).collect();
        let long = pair("filename", &"patient-4711".repeat(1000));
        for bad in [
            "filename !!!!",
            "filename YQ",
            "filename /w==",
            "fïlename YQ==",
            &twice,
            &many.join(","),
            &long,
            &pair("path", "../patient-4711"),
            &pair("filename", "/patient-4711"),
            &pair("filename", ""),
            &pair("culvert-file-type", "Patient-4711"),
            &pair("culvert-attribute", "patient-4711"),
        ] {
            let error = UploadMetadata::parse(bad).unwrap_err();
            assert!(!error.contains("4711"), "{error}");
        }
    }
}
