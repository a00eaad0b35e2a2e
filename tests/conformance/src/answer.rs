//! The answer to `get=1`, its lines in their order.

use anyhow::{Context as _, Result, ensure};

/// Every line as key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    lines: Vec<(String, String)>,
}

/// One peer's part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    lines: &'a [(String, String)],
}

impl Answer {
    /// Reads an answer that has to be a success.
    pub(crate) fn parse(text: &str) -> Result<Answer> {
        let body = text.strip_suffix("errno=0\n\n").with_context(|| {
            let tail: String = text.chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect();
            format!("get ends with {tail:?}")
        })?;
        let mut lines = Vec::new();
        for line in body.lines() {
            let (key, value) = line.split_once('=').with_context(|| format!("a line without `=`: {line}"))?;
            ensure!(!value.contains('='), "wgctrl-go splits at each `=` and refuses {line}");
            lines.push((key.to_owned(), value.to_owned()));
        }
        Ok(Answer { lines })
    }

    /// All lines.
    pub(crate) fn lines(&self) -> &[(String, String)] {
        &self.lines
    }

    /// Its keys in their order.
    pub(crate) fn keys(&self) -> Vec<&str> {
        self.lines.iter().map(|(key, _)| key.as_str()).collect()
    }

    fn first_peer(&self) -> usize {
        self.lines.iter().position(|(key, _)| key == "public_key").unwrap_or(self.lines.len())
    }

    /// A value of the device's.
    pub(crate) fn device(&self, key: &str) -> Option<&str> {
        value(&self.lines[..self.first_peer()], key)
    }

    /// Its peers.
    pub(crate) fn peers(&self) -> Vec<Peer<'_>> {
        let mut starts: Vec<usize> = self
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.0 == "public_key")
            .map(|(at, _)| at)
            .collect();
        starts.push(self.lines.len());
        starts.windows(2).map(|pair| Peer { lines: &self.lines[pair[0]..pair[1]] }).collect()
    }

    /// The peer with this public key.
    pub(crate) fn peer(&self, public_key: &str) -> Result<Peer<'_>> {
        let found = self.peers().into_iter().find(|peer| peer.value("public_key") == Some(public_key));
        found.with_context(|| format!("no peer {public_key}"))
    }

    /// Public keys of the peers, sorted: their order is nobody's promise.
    pub(crate) fn public_keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self
            .lines
            .iter()
            .filter(|(key, _)| key == "public_key")
            .map(|(_, value)| value.as_str())
            .collect();
        keys.sort_unstable();
        keys
    }
}

impl<'a> Peer<'a> {
    /// A value of the peer's.
    pub(crate) fn value(self, key: &str) -> Option<&'a str> {
        value(self.lines, key)
    }

    /// A number of the peer's.
    pub(crate) fn number(self, key: &str) -> Result<u64> {
        let text = self.value(key).with_context(|| format!("no {key}"))?;
        text.parse().with_context(|| format!("read {key}={text}"))
    }

    /// Its keys in their order.
    pub(crate) fn keys(self) -> Vec<&'a str> {
        self.lines.iter().map(|(key, _)| key.as_str()).collect()
    }

    /// Its prefixes, sorted.
    pub(crate) fn allowed_ips(self) -> Vec<&'a str> {
        let mut found: Vec<&str> = self
            .lines
            .iter()
            .filter(|(key, _)| key == "allowed_ip")
            .map(|(_, value)| value.as_str())
            .collect();
        found.sort_unstable();
        found
    }
}

fn value<'a>(lines: &'a [(String, String)], key: &str) -> Option<&'a str> {
    lines.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_and_peers_are_told_apart() {
        let text = "listen_port=1\npublic_key=aa\nallowed_ip=b\nallowed_ip=a\npublic_key=bb\nerrno=0\n\n";
        let answer = Answer::parse(text).unwrap();
        assert_eq!(answer.device("listen_port"), Some("1"));
        assert_eq!(answer.device("allowed_ip"), None);
        assert_eq!(answer.peer("aa").unwrap().allowed_ips(), ["a", "b"]);
        assert!(answer.peer("bb").unwrap().allowed_ips().is_empty());
        assert!(answer.peer("cc").is_err());
    }

    #[test]
    fn a_failed_answer_is_no_answer() {
        assert!(Answer::parse("listen_port=1\nerrno=5\n\n").is_err());
        assert!(Answer::parse("a=b=c\nerrno=0\n\n").is_err());
    }
}
