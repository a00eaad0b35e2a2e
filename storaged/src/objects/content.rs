//! Whether a file's first bytes are what its name's end says (requirement A-143).
//!
//! **Invariant:** a name whose end is in the table is never that of a file with another beginning, where the rule holds; of
//! other ends nothing is claimed. Only the first segment is looked at: what a whole file is worth says a scanner.

/// What the first bytes must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// One of these, so far from the beginning.
    Magic(usize, &'static [&'static [u8]]),
    /// No byte of value 0, unless a mark at the beginning says that it is UTF-16.
    Text,
}

/// It is something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the first bytes are not those of what its name ends with")]
pub struct OtherContent;

const ZIP: Opening = Opening::Magic(0, &[b"PK\x03\x04", b"PK\x05\x06"]);
const GZIP: Opening = Opening::Magic(0, &[b"\x1f\x8b"]);
const JPEG: Opening = Opening::Magic(0, &[b"\xff\xd8\xff"]);
const TIFF: Opening = Opening::Magic(0, &[b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]);
const HDF5: Opening = Opening::Magic(0, &[b"\x89HDF\r\n\x1a\n"]);
const SQLITE: Opening = Opening::Magic(0, &[b"SQLite format 3\0"]);

/// Ends of names, in lower case, and what they say.
const TABLE: &[(&str, Opening)] = &[
    ("7z", Opening::Magic(0, &[b"7z\xbc\xaf\x27\x1c"])),
    ("arrow", Opening::Magic(0, &[b"ARROW1"])),
    ("avro", Opening::Magic(0, &[b"Obj\x01"])),
    ("bam", GZIP),
    ("bz2", Opening::Magic(0, &[b"BZh"])),
    ("csv", Opening::Text),
    ("dcm", Opening::Magic(128, &[b"DICM"])),
    ("docx", ZIP),
    ("duckdb", Opening::Magic(8, &[b"DUCK"])),
    ("feather", Opening::Magic(0, &[b"ARROW1", b"FEA1"])),
    ("gif", Opening::Magic(0, &[b"GIF87a", b"GIF89a"])),
    ("gz", GZIP),
    ("h5", HDF5),
    ("hdf5", HDF5),
    ("jpeg", JPEG),
    ("jpg", JPEG),
    ("json", Opening::Text),
    ("jsonl", Opening::Text),
    ("md", Opening::Text),
    ("ndjson", Opening::Text),
    ("ods", ZIP),
    ("odt", ZIP),
    ("parquet", Opening::Magic(0, &[b"PAR1", b"PARE"])),
    ("pdf", Opening::Magic(0, &[b"%PDF-"])),
    ("png", Opening::Magic(0, &[b"\x89PNG\r\n\x1a\n"])),
    ("pptx", ZIP),
    ("sqlite", SQLITE),
    ("sqlite3", SQLITE),
    ("tgz", GZIP),
    ("tif", TIFF),
    ("tiff", TIFF),
    ("tsv", Opening::Text),
    ("txt", Opening::Text),
    ("vcf", Opening::Text),
    ("xlsx", ZIP),
    ("xml", Opening::Text),
    ("xz", Opening::Magic(0, &[b"\xfd7zXZ\0"])),
    ("yaml", Opening::Text),
    ("yml", Opening::Text),
    ("zip", ZIP),
    ("zst", Opening::Magic(0, &[b"\x28\xb5\x2f\xfd"])),
];

/// The marks of UTF-16, the one order of bytes and the other.
const UTF_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

impl Opening {
    /// What a file's name says of its first bytes; none: nothing.
    pub fn of(file_name: &str) -> Option<Opening> {
        let (before, end) = file_name.rsplit_once('.')?;
        if before.is_empty() {
            return None;
        }
        TABLE.iter().find(|(known, _)| end.eq_ignore_ascii_case(known)).map(|(_, opening)| *opening)
    }

    /// Looks at the first segment, or at all there is of a shorter file.
    pub fn check(self, first: &[u8]) -> Result<(), OtherContent> {
        let fits = match self {
            Opening::Magic(at, known) => {
                let from = first.get(at..).unwrap_or_default();
                known.iter().any(|magic| from.starts_with(magic))
            }
            Opening::Text => UTF_16.iter().any(|mark| first.starts_with(mark)) || !first.contains(&0),
        };
        if fits { Ok(()) } else { Err(OtherContent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_has_no_end_twice() {
        assert!(TABLE.is_sorted_by(|(one, _), (next, _)| one < next));
    }

    #[test]
    fn the_first_bytes_are_compared_with_the_end_of_the_name() {
        let fits = |name: &str, first: &[u8]| Opening::of(name).is_none_or(|it| it.check(first).is_ok());
        let mut dicom = vec![0; 128];
        dicom.extend_from_slice(b"DICM");
        let good: [(&str, &[u8]); 12] = [
            ("scan.PDF", b"%PDF-1.7\n"),
            ("a.b.gz", b"\x1f\x8b\x08"),
            ("visits.csv", b"id,day\n1,2\n"),
            ("latin.csv", b"caf\xe9;1\n"),
            ("utf16.csv", b"\xff\xfei\0d\0"),
            ("empty.txt", b""),
            ("db.duckdb", b"12345678DUCK\x40"),
            ("slice.dcm", &dicom),
            ("book.xlsx", b"PK\x03\x04\x14"),
            ("no-end", b"\0\0"),
            (".csv", b"\0\0"),
            ("what.unknown", b"\0"),
        ];
        for (name, first) in good {
            assert!(fits(name, first), "{name}");
        }
        let bad: [(&str, &[u8]); 8] = [
            ("scan.pdf", b"MZ\x90\0"),
            ("scan.pdf", b""),
            ("visits.csv", b"PK\x03\x04\0"),
            ("visits.csv", b"\x7fELF\x02\x01\x01\0"),
            ("slice.dcm", b"DICM"),
            ("db.duckdb", b"DUCK"),
            ("p.parquet", b"PAR"),
            ("a.tar.gz", b"plain"),
        ];
        for (name, first) in bad {
            assert!(!fits(name, first), "{name}");
        }
    }
}
