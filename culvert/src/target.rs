//! What a command line names: a server, and a place in a cohort.

use std::path::PathBuf;
use std::str::FromStr;

use store_proto::{Cohort, LogicalPath};

use crate::failure::Failure;

/// The base address of an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// As DNS or the socket wants it (an IPv6 address without brackets).
    pub(crate) host: String,
    pub(crate) port: u16,
    /// As the Host header wants it.
    pub(crate) authority: String,
    /// What stands before `/v1`, without a slash at its end.
    pub(crate) base_path: String,
    /// Whether it is spoken to under TLS.
    pub(crate) tls: bool,
    /// Who vouches for it; none: the machine's authorities.
    pub(crate) ca_file: Option<PathBuf>,
    /// What is shown to it.
    pub(crate) certificate: Option<CertificateFiles>,
}

/// A client's certificate: the files of its chain and of its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    /// The client's own first.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Server {
    /// How it was named on the command line.
    pub(crate) fn base_url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.base_path)
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: http::Uri = text.parse().map_err(|error| format!("not a URL: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("a server is written https://HOST[:PORT]".to_owned()),
        };
        let authority = uri.authority().ok_or("a server is written https://HOST[:PORT]")?;
        if authority.as_str().contains('@') {
            return Err("no user or password in the URL; the token has options of its own".to_owned());
        }
        if uri.query().is_some() {
            return Err("a server's URL has no query".to_owned());
        }
        Ok(Self {
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            base_path: uri.path().trim_end_matches('/').to_owned(),
            tls,
            ca_file: None,
            certificate: None,
        })
    }
}

/// `COHORT/PATH`: one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    pub(crate) cohort: Cohort,
    pub(crate) path: LogicalPath,
}

impl RemoteFile {
    /// Where to put a file; a place that ends with `/` gets the file's own name.
    pub(crate) fn for_upload(text: &str, file_name: Option<&str>) -> Result<Self, Failure> {
        match (text.ends_with('/'), file_name) {
            (true, Some(name)) => Self::parse(&format!("{text}{name}")),
            (true, None) => Err(Failure::usage(format!("{text}: name the file too: COHORT/PATH"))),
            (false, _) => Self::parse(text),
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let (cohort, path) = text
            .split_once('/')
            .ok_or_else(|| Failure::usage(format!("{text}: a remote file is written COHORT/PATH")))?;
        let path = LogicalPath::parse(path).map_err(|error| Failure::usage(format!("{text}: {error}")))?;
        Ok(Self { cohort: parse_cohort(cohort)?, path })
    }

    /// The path of its resource on the server.
    pub(crate) fn resource(&self, server: &Server) -> String {
        format!("{}/v1/cohorts/{}/files/{}", server.base_path, self.cohort, self.path.to_percent_encoded())
    }
}

impl std::fmt::Display for RemoteFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.cohort, self.path.as_str())
    }
}

/// `COHORT` or `COHORT/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemotePrefix {
    pub(crate) cohort: Cohort,
    /// What paths begin with; empty: all.
    pub(crate) prefix: String,
}

impl RemotePrefix {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let (cohort, prefix) = text.split_once('/').unwrap_or((text, ""));
        Ok(Self { cohort: parse_cohort(cohort)?, prefix: prefix.to_owned() })
    }
}

fn parse_cohort(text: &str) -> Result<Cohort, Failure> {
    Cohort::parse(text).map_err(|error| Failure::usage(format!("cohort {text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_taken_apart() {
        let server: Server = "http://[::1]:8000/base/".parse().unwrap();
        assert_eq!((server.host.as_str(), server.port), ("::1", 8000));
        assert_eq!((server.authority.as_str(), server.base_path.as_str()), ("[::1]:8000", "/base"));
        assert_eq!("http://web1".parse::<Server>().unwrap().port, 80);
        let server: Server = "https://web1/base".parse().unwrap();
        assert_eq!((server.port, server.tls, server.base_url().as_str()), (443, true, "https://web1/base"));
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for bad in ["web1:8000", "ftp://web1", "http://user:word@web1", "http://web1/?a=b", ""] {
            assert!(bad.parse::<Server>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_remote_file_has_a_cohort_and_a_clean_path() {
        let file = RemoteFile::parse("c5/scans/a b.csv").unwrap();
        let server: Server = "http://web1:8000".parse().unwrap();
        assert_eq!(file.resource(&server), "/v1/cohorts/c5/files/scans/a%20b.csv");
        for bad in ["c5", "c5/", "/x", "C5/x", "c5/../x", "c5//x", "c5/a\\b"] {
            let failure = RemoteFile::parse(bad).unwrap_err();
            assert_eq!(failure.exit(), crate::failure::Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn a_directory_takes_the_files_own_name() {
        let file = RemoteFile::for_upload("c5/in/", Some("a.csv")).unwrap();
        assert_eq!(file.to_string(), "c5/in/a.csv");
        assert_eq!(RemoteFile::for_upload("c5/", Some("a.csv")).unwrap().to_string(), "c5/a.csv");
        assert!(RemoteFile::for_upload("c5/in/", None).is_err());
    }
}
