//! The keys of identity providers: fetched from the addresses of the configuration, kept in files that `edge` and
//! `storaged` are handed at their next reload.
//!
//! Invariant: a file in the directory is a whole set of public keys that the daemons take, or is not there; what a
//! provider answers otherwise leaves the old one as it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty, Limited};
use identity::limits::JWKS_BYTES;
use identity::{Keys, KeysError};

use super::config::Issuer;
use crate::failure::Failure;
use crate::http_client;

/// Everybody may read public keys.
const MODE: u32 = 0o644;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetched {
    /// They are in the file now.
    Changed,
    Same,
}

/// Asks, and writes down what is new.
pub(super) async fn fetch(issuer: &Issuer, directory: &Path) -> Result<Fetched, Failure> {
    let server = &issuer.server;
    let path = if server.base_path.is_empty() { "/" } else { &server.base_path };
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(HOST, &server.authority)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .body(Empty::<Bytes>::new().map_err(|never| match never {}))
        .map_err(|error| Failure::usage(error.to_string()))?;
    let response = http_client::send(server, request).await?;
    let status = response.status();
    if status != http::StatusCode::OK {
        return Err(Failure::failed(format!("{} answers {status}", server.authority)));
    }
    let most = usize::try_from(JWKS_BYTES).unwrap_or(usize::MAX);
    let body = Limited::new(response.into_body(), most).collect().await;
    let body = body.map_err(|error| Failure::failed(format!("{}: {error}", server.authority)))?.to_bytes();
    let text = std::str::from_utf8(&body)
        .map_err(|_| Failure::failed(format!("{}: the answer is no text", server.authority)))?;
    keep(&file_of(directory, &issuer.name), text)
        .map_err(|error| Failure::failed(format!("{}: {error}", server.authority)))
}

/// Where a provider's keys are.
fn file_of(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.jwks"))
}

#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("what it answers {0}")]
    Keys(#[from] KeysError),
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
}

fn keep(path: &Path, text: &str) -> Result<Fetched, KeepError> {
    Keys::parse(text)?;
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(Fetched::Same);
    }
    write(path, text).map_err(|error| KeepError::File(path.to_path_buf(), error))?;
    Ok(Fetched::Changed)
}

/// Beside the old one, on the disk, and then in its place.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("partial");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P-256, of RFC 7517's appendix A.1.
    fn keys(id: &str) -> String {
        format!(
            "{{\"keys\":[{{\"kty\":\"EC\",\"crv\":\"P-256\",\"use\":\"sig\",\"kid\":\"{id}\",\
             \"x\":\"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\",\
             \"y\":\"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\"}}]}}"
        )
    }

    #[test]
    fn new_keys_take_the_place_of_the_old_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = file_of(folder.path(), "corp");
        assert_eq!(keep(&path, &keys("one")).unwrap(), Fetched::Changed);
        assert_eq!(keep(&path, &keys("one")).unwrap(), Fetched::Same);
        // A try that was killed.
        fs::write(path.with_extension("partial"), "half").unwrap();
        assert_eq!(keep(&path, &keys("two")).unwrap(), Fetched::Changed);
        assert!(fs::read_to_string(&path).unwrap().contains("two"));
        let secret = keys("three").replace("\"use\"", "\"d\":\"AAAA\",\"use\"");
        for wrong in ["", "<html>sign in</html>", "{\"keys\":[]}", &secret] {
            assert!(keep(&path, wrong).is_err(), "{wrong}");
        }
        assert!(fs::read_to_string(&path).unwrap().contains("two"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
