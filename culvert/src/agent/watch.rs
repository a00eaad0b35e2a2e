//! Whether a daemon of this host is ready, by its status listener.
//!
//! Invariant: the names of conditions that reach an alert are those of the daemon's own list, cut to a bound: whoever
//! answers in its place can make words up, and not many of them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty, Limited};

use super::config::Watch;
use crate::http_client;

/// The daemons have half a dozen conditions.
const BYTES_AT_MOST: usize = 4096;
/// How many are read.
pub const CONDITIONS_AT_MOST: usize = 16;
/// The longest name.
pub const NAME_AT_MOST: usize = 32;
/// A daemon of this host answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// The condition that stands for a daemon which does not answer.
pub(super) const ANSWERS: &str = "answers";

/// Each condition, and whether it holds.
pub type Conditions = BTreeMap<String, bool>;

/// Asks `/readyz?verbose`.
pub(super) async fn look(watch: &Watch) -> Conditions {
    let told = tokio::time::timeout(PATIENCE, ask(watch)).await.ok().flatten();
    let answers = told.is_some();
    let mut conditions = told.as_deref().map(read).unwrap_or_default();
    conditions.insert(ANSWERS.to_owned(), answers);
    conditions
}

async fn ask(watch: &Watch) -> Option<String> {
    let request = Request::builder()
        .method(Method::GET)
        .uri("/readyz?verbose")
        .header(HOST, &watch.server.authority)
        .body(Empty::<Bytes>::new().map_err(|never| match never {}))
        .ok()?;
    let response = http_client::send(&watch.server, request).await.ok()?;
    let body = Limited::new(response.into_body(), BYTES_AT_MOST).collect().await.ok()?.to_bytes();
    String::from_utf8(body.to_vec()).ok()
}

/// Lines such as `yes tunnel` and `no  ledger`: each condition, and whether it holds.
pub fn read(text: &str) -> Conditions {
    let line = |line: &str| {
        let (holds, name) = line.split_once(' ')?;
        let holds = match holds {
            "yes" => true,
            "no" => false,
            _ => return None,
        };
        let name = name.trim();
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        let is_name = (1..=NAME_AT_MOST).contains(&name.len()) && name.bytes().all(is_plain);
        is_name.then(|| (name.to_owned(), holds))
    };
    text.lines().filter_map(line).take(CONDITIONS_AT_MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_own_words_are_understood_and_made_up_ones_are_not() {
        let told = read("not ready\nyes serving\nno  tunnel\nno  <script>\nmaybe x\nno  \n");
        assert_eq!(told, BTreeMap::from([("serving".to_owned(), true), ("tunnel".to_owned(), false)]));
        let many: String = (b'a'..=b'z').map(|letter| format!("no  {}\n", char::from(letter))).collect();
        assert_eq!(read(&many).len(), CONDITIONS_AT_MOST);
    }
}
