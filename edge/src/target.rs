//! The request target: which resource a path names.
//!
//! The path is percent-decoded exactly once, here, segment by segment, and an encoded slash is
//! refused: what storaged sees as a segment is what the client wrote as one. `LogicalPath` refuses
//! the rest, such as a name that would turn into dots or slashes if it were decoded again.

use percent_encoding::percent_decode_str;
use store_proto::{Capability, Cohort, FileId, LogicalPath};

use crate::refusal::Refusal;

/// A resource of the public API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/`
    Page,
    /// `/v1/cohorts/{c}/files`
    Files(Cohort),
    /// `/v1/cohorts/{c}/files/{path…}`
    File(Cohort, LogicalPath),
    /// `/v1/cohorts/{c}/versions/{path…}`
    Versions(Cohort, LogicalPath),
    /// `/v1/cohorts/{c}/uploads`
    Uploads(Cohort),
    /// `/v1/policy`
    Policy,
    /// `/v1/uploads`
    MyUploads,
    /// `/v1/uploads/{id}`
    Upload(FileId),
    /// `/v1/files/{id}`
    Stored(FileId),
    /// `/v1/files/{id}/receipt`
    Receipt(FileId),
    /// `/v1/files/{id}/presign`
    Presign(FileId),
    /// `/v1/presign/{id}`
    Presigned(FileId),
    /// `/p/{capability}`
    Link(Box<Capability>),
}

impl Target {
    /// Parses the target's path (as on the wire, still encoded).
    pub fn parse(path: &str) -> Result<Target, Refusal> {
        if let Some(text) = path.strip_prefix("/p/") {
            // Nobody else's link is told from a page that is not there.
            return Capability::parse(text)
                .map(|link| Target::Link(Box::new(link)))
                .map_err(|_| Refusal::NoRoute);
        }
        if path == "/" {
            return Ok(Target::Page);
        }
        if path == "/v1/policy" {
            return Ok(Target::Policy);
        }
        let id = |text: &str| FileId::parse(text).map_err(|_| Refusal::NoRoute);
        if let Some(text) = path.strip_prefix("/v1/presign/") {
            return id(text).map(Target::Presigned);
        }
        if let Some(text) = path.strip_prefix("/v1/files/") {
            return match text.split_once('/') {
                None => id(text).map(Target::Stored),
                Some((text, "presign")) => id(text).map(Target::Presign),
                Some((text, "receipt")) => id(text).map(Target::Receipt),
                Some(_) => Err(Refusal::NoRoute),
            };
        }
        if let Some(text) = path.strip_prefix("/v1/uploads") {
            return match text.strip_prefix('/') {
                None if text.is_empty() => Ok(Target::MyUploads),
                None => Err(Refusal::NoRoute),
                Some(text) => id(text).map(Target::Upload),
            };
        }
        let rest = path.strip_prefix("/v1/cohorts/").ok_or(Refusal::NoRoute)?;
        let (cohort, rest) = rest.split_once('/').ok_or(Refusal::NoRoute)?;
        let (kind, file) = rest.split_once('/').map_or((rest, None), |(kind, file)| (kind, Some(file)));
        if !matches!((kind, file), ("files" | "uploads", None) | ("files" | "versions", Some(_))) {
            return Err(Refusal::NoRoute);
        }
        let cohort = decode(cohort).map_err(|rule| Refusal::CohortName(rule.to_owned()))?;
        let cohort = Cohort::parse(&cohort).map_err(|error| Refusal::CohortName(error.to_string()))?;
        let Some(file) = file else {
            return Ok(if kind == "uploads" { Target::Uploads(cohort) } else { Target::Files(cohort) });
        };
        let bad = |rule: &str| Refusal::Path(rule.to_owned());
        let segments = file.split('/').map(decode).collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let path =
            LogicalPath::parse(&segments.join("/")).map_err(|error| Refusal::Path(error.to_string()))?;
        Ok(if kind == "versions" { Target::Versions(cohort, path) } else { Target::File(cohort, path) })
    }
}

fn decode(segment: &str) -> Result<String, &'static str> {
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        let digits = rest.as_bytes().get(at + 1..at + 3).ok_or("a percent sign lacks its two digits")?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err("a percent sign lacks its two digits");
        }
        rest = &rest[at + 3..];
    }
    let decoded = percent_decode_str(segment).decode_utf8().map_err(|_| "it is not UTF-8")?;
    if decoded.contains('/') {
        return Err("a slash within a name is encoded");
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &str) {
        let seen = match Target::parse(path) {
            Ok(Target::Files(cohort)) => format!("list {}", cohort.as_str()),
            Ok(Target::File(cohort, path)) => format!("file {} {}", cohort.as_str(), path.as_str()),
            Ok(Target::Versions(cohort, path)) => format!("versions {} {}", cohort.as_str(), path.as_str()),
            Ok(Target::Uploads(cohort)) => format!("uploads {}", cohort.as_str()),
            Ok(Target::Policy) => "policy".to_owned(),
            Ok(Target::Page) => "page".to_owned(),
            Ok(Target::MyUploads) => "my uploads".to_owned(),
            Ok(Target::Upload(id)) => format!("upload {id}"),
            Ok(Target::Stored(id)) => format!("stored {id}"),
            Ok(Target::Receipt(id)) => format!("receipt {id}"),
            Ok(Target::Presign(id)) => format!("presign {id}"),
            Ok(Target::Presigned(id)) => format!("presigned {id}"),
            Ok(Target::Link(link)) => format!("link to {}", link.unverified_file_id()),
            Err(refusal) => refusal.kind().name().to_owned(),
        };
        assert_eq!(seen, expected, "{path}");
    }

    #[test]
    fn only_the_documented_resources_exist() {
        check("/v1/cohorts/alpha/files", "list alpha");
        check("/v1/cohorts/alpha/files/a.csv", "file alpha a.csv");
        check("/v1/cohorts/alpha/files/2026/b%20c.csv", "file alpha 2026/b c.csv");
        check("/v1/cohorts/alpha/files/%C3%BC.csv", "file alpha ü.csv");
        check("/v1/cohorts/alpha/files/100%25.csv", "file alpha 100%.csv");
        let id = "01".repeat(16);
        check(&format!("/v1/files/{id}/presign"), &format!("presign {id}"));
        check(&format!("/v1/presign/{id}"), &format!("presigned {id}"));
        check(&format!("/v1/files/{id}"), &format!("stored {id}"));
        check(&format!("/v1/files/{id}/receipt"), &format!("receipt {id}"));
        check("/v1/cohorts/alpha/versions/a/b.csv", "versions alpha a/b.csv");
        check("/v1/cohorts/alpha/files/versions", "file alpha versions");
        check("/v1/cohorts/alpha/uploads", "uploads alpha");
        check("/v1/uploads", "my uploads");
        check("/v1/policy", "policy");
        check("/", "page");
        check(&format!("/v1/uploads/{id}"), &format!("upload {id}"));
        for path in [
            "/p/",
            "/p/cvc_",
            "/p/cvt_AAAA",
            "/v1/presign/",
            "/v1/presign/../x",
            "/v1/files/",
            "/v1/files//presign",
            "/v1/files/0101/presign/x",
            "/v1/uploads/",
            "/v1/uploads/x",
            "/v1/uploadsx",
            "/v1/cohorts/alpha/uploads/x",
            "/v1/cohorts/alpha/versions",
            "/v1/files/x/presign",
            "//",
            "/index.html",
            "",
            "*",
            "/v1",
            "/v1/cohorts",
            "/v1/cohorts/alpha",
            "/v1/cohorts/alpha/",
            "/v1/cohorts/alpha/filesx",
            "/v1/cohorts/alpha/file/a",
            "/v2/cohorts/alpha/files/a",
            "//v1/cohorts/alpha/files/a",
            "/metrics",
            "/healthz",
            "/internal/storage/health",
            "/V1/cohorts/alpha/files",
        ] {
            check(path, "not-found");
        }
    }

    #[test]
    fn traversal_and_tricks_are_refused() {
        for file in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "./a",
            "a/.",
            "%2e%2e/a",
            "a/%2E%2e/b",
            "%2e",
            ".%2e/a",
            "a%2fb",
            "a%2Fb",
            "..%2fa",
            "%2fetc/passwd",
            "a%5cb",
            "..%5ca",
            "a\\b",
            "%00",
            "a%00b",
            "a%0ab",
            "a%0d%0aX-Evil:%20b",
            "a%7f",
            "%252e%252e/a",
            "a%252fb",
            "a%255cb",
            "%",
            "a%",
            "a%2",
            "a%zz",
            "%u002e",
            "%ff",
            "%c0%ae%c0%ae/a",
            "%c0%af",
            "%e0%80%ae",
            "%ed%a0%80",
            "e%CC%81",
        ] {
            check(&format!("/v1/cohorts/alpha/files/{file}"), "invalid-path");
        }
        let long = "a".repeat(256);
        check(&format!("/v1/cohorts/alpha/files/{long}"), "invalid-path");
        let deep = ["abcdefghi"; 110].join("/");
        check(&format!("/v1/cohorts/alpha/files/{deep}"), "invalid-path");
    }

    #[test]
    fn cohorts_are_named_by_lower_case_tokens() {
        for cohort in ["..", "%2e%2e", "Alpha", "a%2fb", "a b", "-a", "", "ü", "a%00"] {
            check(&format!("/v1/cohorts/{cohort}/files"), "bad-request");
        }
    }

    #[test]
    fn a_refused_path_is_not_repeated() {
        let secret = "patient-4711";
        let refusal = Target::parse(&format!("/v1/cohorts/alpha/files/{secret}/../x")).unwrap_err();
        assert!(!format!("{refusal} {refusal:?}").contains(secret));
    }
}
