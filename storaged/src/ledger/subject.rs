//! What a record is about beside a file (requirement A-090), as a URI.
//!
//! **Invariant:** a thing has one URI, in every record about it: the trail of an upload, a link, a hold or a cleanup is
//! what names it.

use std::fmt;

use store_proto::FileId;

/// A thing that outlives one record and is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// An upload that resumes.
    Upload(FileId),
    /// A link.
    Link(FileId),
    /// A hold, by the index of its record.
    Hold(u64),
    /// Something that must go, by the index of the record that asked for it.
    Cleanup(u64),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Upload(id) => write!(f, "urn:culvert:upload:{id}"),
            Subject::Link(id) => write!(f, "urn:culvert:link:{id}"),
            Subject::Hold(index) => write!(f, "urn:culvert:hold:{index}"),
            Subject::Cleanup(index) => write!(f, "urn:culvert:cleanup:{index}"),
        }
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> String {
        subject.to_string()
    }
}
