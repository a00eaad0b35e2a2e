//! Lines to sections to a [`TunnelConf`], collecting every mistake.

use std::collections::HashMap;
use std::sync::Arc;

use super::values::{self, Bad};
use super::{
    ConfError, ConfErrors, EndpointConf, KeyPlace, KeySource, NEXT_PRESHARED_KEY, NEXT_PRIVATE_KEY, PeerConf,
    Table, TunnelConf,
};
use crate::limits::our_choice::MAX_FRIENDLY_NAME_BYTES;
use crate::{PresharedKey, PublicKey, SecretKey};

/// Reads a configuration file's text. `file` is what messages call it.
pub fn parse(file: &str, text: &str) -> Result<TunnelConf, ConfErrors> {
    let mut parser = Parser::new(file);
    for (index, raw) in text.lines().enumerate() {
        parser.line(index + 1, raw);
    }
    parser.finish()
}

/// What an `[Interface]` section has said so far.
#[derive(Default)]
struct Interface {
    private_key: Option<KeySource<SecretKey>>,
    next_private_key: Option<SecretKey>,
    listen_port: Option<u16>,
    fwmark: u32,
    addresses: Vec<ipnet::IpNet>,
    dns: Vec<String>,
    mtu: Option<u16>,
    table: Table,
}

/// What a `[Peer]` section has said so far.
struct PeerDraft {
    line: usize,
    public_key: Option<PublicKey>,
    /// Whether there was a line for it: a wrong key is not also a missing one.
    public_key_given: bool,
    preshared_key: Option<KeySource<PresharedKey>>,
    next_preshared_key: Option<PresharedKey>,
    allowed_ips: Vec<ipnet::IpNet>,
    endpoint: Option<EndpointConf>,
    persistent_keepalive: u16,
    friendly_name: Option<Arc<str>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    /// Before the first header, or under one that is unknown.
    None,
    Interface,
    Peer,
}

/// A friendly name that may belong to the section above or to the one below.
struct PendingName {
    name: Arc<str>,
    line: usize,
    /// No blank line between it and the section above.
    touches_above: bool,
}

struct Parser<'a> {
    file: &'a str,
    errors: Vec<ConfError>,
    section: Section,
    interface: Interface,
    interface_line: Option<usize>,
    /// Whether there was a line for the private key, right or wrong.
    private_key_given: bool,
    peers: Vec<PeerDraft>,
    /// Keys seen in the present section, with their line.
    seen: HashMap<&'static str, usize>,
    pending: Option<PendingName>,
    after_blank: bool,
}

impl<'a> Parser<'a> {
    fn new(file: &'a str) -> Parser<'a> {
        Parser {
            file,
            errors: Vec::new(),
            section: Section::None,
            interface: Interface::default(),
            interface_line: None,
            private_key_given: false,
            peers: Vec::new(),
            seen: HashMap::new(),
            pending: None,
            after_blank: true,
        }
    }

    fn line(&mut self, number: usize, raw: &str) {
        let (content, comment) = match raw.split_once('#') {
            Some((content, comment)) => (content.trim(), Some(comment)),
            None => (raw.trim(), None),
        };
        if content.is_empty() && comment.is_none() {
            self.after_blank = true;
            return;
        }
        if content.starts_with('[') {
            self.header(number, content);
        } else if !content.is_empty() {
            // What follows the name is in the same section, so the name is this section's.
            self.settle_name();
            self.assignment(number, content);
        }
        if let Some(name) = comment.and_then(friendly_name) {
            self.name(number, name, content.is_empty());
        }
        if let Some(value) = comment.and_then(|comment| in_comment(comment, NEXT_PRIVATE_KEY)) {
            self.next_key(number, Section::Interface, NEXT_PRIVATE_KEY, value);
        }
        if let Some(value) = comment.and_then(|comment| in_comment(comment, NEXT_PRESHARED_KEY)) {
            self.next_key(number, Section::Peer, NEXT_PRESHARED_KEY, value);
        }
        self.after_blank = false;
    }

    /// The key that an interrupted rotation was to put in place of the one here.
    fn next_key(&mut self, number: usize, of: Section, name: &'static str, value: &str) {
        if self.section != of {
            return self.error(number, name, "stands in the wrong section");
        }
        let result = match (of, self.peers.last_mut()) {
            (Section::Peer, Some(peer)) => {
                PresharedKey::from_base64(value).map(|key| peer.next_preshared_key = Some(key))
            }
            (Section::Interface | Section::Peer | Section::None, _) => {
                SecretKey::from_base64(value).map(|key| self.interface.next_private_key = Some(key))
            }
        };
        if let Err(error) = result {
            self.error(number, name, error.to_string());
        }
    }

    fn header(&mut self, number: usize, content: &str) {
        let next = match content.to_ascii_lowercase().as_str() {
            "[interface]" => Section::Interface,
            "[peer]" => Section::Peer,
            _ => Section::None,
        };
        let above_takes_it = next != Section::Peer || self.above_takes_pending();
        if above_takes_it {
            self.settle_name();
        }
        self.section = next;
        self.seen.clear();
        match next {
            Section::None => self.error(number, content, "no such section: expected [Interface] or [Peer]"),
            Section::Interface => match self.interface_line {
                Some(first) => {
                    self.error(number, "[Interface]", format!("given twice, first in line {first}"))
                }
                None => self.interface_line = Some(number),
            },
            Section::Peer => {
                self.peers.push(PeerDraft {
                    line: number,
                    public_key: None,
                    public_key_given: false,
                    preshared_key: None,
                    next_preshared_key: None,
                    allowed_ips: Vec::new(),
                    endpoint: None,
                    persistent_keepalive: 0,
                    friendly_name: None,
                });
                self.settle_name();
            }
        }
    }

    /// Above a `[Peer]`, a name may be the last line of the peer before or the first of this one.
    fn above_takes_pending(&self) -> bool {
        let Some(pending) = &self.pending else { return false };
        let above_is_unnamed = self.section == Section::Peer
            && self.peers.last().is_some_and(|peer| peer.friendly_name.is_none());
        above_is_unnamed && pending.touches_above
    }

    fn name(&mut self, number: usize, name: &str, alone_in_line: bool) {
        if name.is_empty() || name.len() > MAX_FRIENDLY_NAME_BYTES || name.chars().any(char::is_control) {
            let message = format!("expected 1 to {MAX_FRIENDLY_NAME_BYTES} bytes of text");
            return self.error(number, "friendly_name", message);
        }
        self.settle_name();
        self.pending =
            Some(PendingName { name: name.into(), line: number, touches_above: !self.after_blank });
        if !alone_in_line {
            self.settle_name();
        }
    }

    /// Gives a waiting name to the present section.
    fn settle_name(&mut self) {
        let Some(PendingName { name, line, .. }) = self.pending.take() else { return };
        match (self.section, self.peers.last_mut()) {
            (Section::Peer, Some(peer)) if peer.friendly_name.is_none() => peer.friendly_name = Some(name),
            (Section::Peer, _) => self.error(line, "friendly_name", "given twice for this peer"),
            // A name for the interface does no harm, and means nothing.
            (Section::None | Section::Interface, _) => {}
        }
    }

    fn assignment(&mut self, number: usize, content: &str) {
        let Some((key, value)) = content.split_once('=') else {
            return self.error(number, UNREADABLE, "expected KEY = VALUE");
        };
        let (key, value) = (key.trim(), value.trim());
        let lower = key.to_ascii_lowercase();
        let known = match self.section {
            Section::None => {
                if self.interface_line.is_none() && self.peers.is_empty() {
                    self.error(number, key, "stands before the first section");
                }
                return;
            }
            Section::Interface => INTERFACE_KEYS,
            Section::Peer => PEER_KEYS,
        };
        if let Some((hook, why)) = REFUSED_KEYS.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)) {
            return self.error(number, hook, *why);
        }
        let Some((name, repeats)) = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(&lower)) else {
            let section = if self.section == Section::Peer { "[Peer]" } else { "[Interface]" };
            return self.error(number, key, format!("no such key in {section}"));
        };
        if let Some(first) = self.seen.insert(name, number).filter(|_| !repeats) {
            return self.error(number, name, format!("given twice, first in line {first}"));
        }
        let result = match self.section {
            Section::Peer => self.peer_value(number, name, value),
            Section::Interface | Section::None => self.interface_value(number, name, value),
        };
        if let Err(Bad(message)) = result {
            self.error(number, name, message);
        }
    }

    fn interface_value(&mut self, line: usize, key: &str, value: &str) -> Result<(), Bad> {
        let interface = &mut self.interface;
        match key {
            "PrivateKey" | "PrivateKeyFile" => {
                if std::mem::replace(&mut self.private_key_given, true) {
                    return Err(Bad("PrivateKey and PrivateKeyFile exclude each other".into()));
                }
                interface.private_key = Some(match key_place(key, value)? {
                    Some(place) => KeySource::Elsewhere { place, line },
                    None => KeySource::Inline(SecretKey::from_base64(value)?),
                });
            }
            "ListenPort" => interface.listen_port = Some(values::number(value, 0, u16::MAX)?),
            "FwMark" => interface.fwmark = values::fwmark(value)?,
            "Address" => interface.addresses.extend(values::prefixes(value)?),
            "DNS" => interface.dns.extend(values::list(value).map(str::to_owned)),
            "MTU" => interface.mtu = Some(values::mtu(value)?),
            "Table" => interface.table = values::table(value)?,
            other => unreachable!("{other} is not in INTERFACE_KEYS"),
        }
        Ok(())
    }

    fn peer_value(&mut self, line: usize, key: &str, value: &str) -> Result<(), Bad> {
        let Some(peer) = self.peers.last_mut() else { return Ok(()) };
        match key {
            "PublicKey" => {
                peer.public_key_given = true;
                peer.public_key = Some(PublicKey::from_base64(value)?);
            }
            "PresharedKey" | "PresharedKeyFile" => {
                let other = if key == "PresharedKey" { "PresharedKeyFile" } else { "PresharedKey" };
                if self.seen.contains_key(other) {
                    return Err(Bad("PresharedKey and PresharedKeyFile exclude each other".into()));
                }
                peer.preshared_key = Some(match key_place(key, value)? {
                    Some(place) => KeySource::Elsewhere { place, line },
                    None => KeySource::Inline(PresharedKey::from_base64(value)?),
                });
            }
            "AllowedIPs" => {
                peer.allowed_ips.extend(values::prefixes(value)?.iter().map(ipnet::IpNet::trunc));
            }
            "Endpoint" => peer.endpoint = Some(values::endpoint(value)?),
            "PersistentKeepalive" => peer.persistent_keepalive = values::number_or_off(value)?,
            other => unreachable!("{other} is not in PEER_KEYS"),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<TunnelConf, ConfErrors> {
        self.settle_name();
        match self.interface_line {
            None => self.error(1, "[Interface]", "the section is missing"),
            Some(line) if !self.private_key_given => {
                self.error(line, "PrivateKey", "missing: give PrivateKey or PrivateKeyFile");
            }
            Some(_) => {}
        }
        let mut lines_of_keys: HashMap<PublicKey, usize> = HashMap::new();
        let mut lines_of_prefixes: HashMap<ipnet::IpNet, usize> = HashMap::new();
        let mut peers = Vec::new();
        for draft in std::mem::take(&mut self.peers) {
            let Some(public_key) = draft.public_key else {
                if !draft.public_key_given {
                    self.error(draft.line, "PublicKey", "missing in this [Peer]");
                }
                continue;
            };
            if let Some(first) = lines_of_keys.insert(public_key, draft.line) {
                let message = format!("the [Peer] in line {first} has the same key");
                self.error(draft.line, "PublicKey", message);
            }
            for prefix in &draft.allowed_ips {
                if let Some(first) =
                    lines_of_prefixes.insert(*prefix, draft.line).filter(|at| *at != draft.line)
                {
                    let message = format!("{prefix} is also given to the [Peer] in line {first}");
                    self.error(draft.line, "AllowedIPs", message);
                }
            }
            peers.push(PeerConf {
                line: draft.line,
                public_key,
                preshared_key: draft.preshared_key,
                next_preshared_key: draft.next_preshared_key,
                allowed_ips: draft.allowed_ips,
                endpoint: draft.endpoint,
                persistent_keepalive: draft.persistent_keepalive,
                friendly_name: draft.friendly_name,
            });
        }
        let Interface { private_key, next_private_key, listen_port, fwmark, addresses, dns, mtu, table } =
            self.interface;
        match private_key {
            Some(private_key) if self.errors.is_empty() => Ok(TunnelConf {
                file: self.file.to_owned(),
                private_key,
                next_private_key,
                listen_port,
                fwmark,
                addresses,
                dns,
                mtu,
                table,
                peers,
            }),
            Some(_) | None => {
                self.errors.sort_by_key(|error| error.line);
                Err(ConfErrors(self.errors))
            }
        }
    }

    fn error(&mut self, line: usize, key: &str, message: impl Into<String>) {
        // What stands for a key may be anything, a pasted secret included: show only what looks like one.
        let fit = |c: char| c.is_ascii_alphanumeric() || "_[]".contains(c);
        let key = if key.len() <= 24 && key.chars().all(fit) { key } else { UNREADABLE };
        let (file, key) = (self.file.to_owned(), key.to_owned());
        self.errors.push(ConfError { file, line, key, message: message.into() });
    }
}

/// Stands for a key that cannot be shown.
const UNREADABLE: &str = "(line)";

/// Each with whether it may be repeated.
const INTERFACE_KEYS: &[(&str, bool)] = &[
    ("PrivateKey", false),
    ("PrivateKeyFile", false),
    ("ListenPort", false),
    ("FwMark", false),
    ("Address", true),
    ("DNS", true),
    ("MTU", false),
    ("Table", false),
];

const PEER_KEYS: &[(&str, bool)] = &[
    ("PublicKey", false),
    ("PresharedKey", false),
    ("PresharedKeyFile", false),
    ("AllowedIPs", true),
    ("Endpoint", false),
    ("PersistentKeepalive", false),
];

const HOOK_REFUSED: &str = "hooks are refused: this daemon runs no commands; \
    use a unit of the service manager that is ordered before or after it";

const REFUSED_KEYS: &[(&str, &str)] = &[
    ("PreUp", HOOK_REFUSED),
    ("PostUp", HOOK_REFUSED),
    ("PreDown", HOOK_REFUSED),
    ("PostDown", HOOK_REFUSED),
    ("SaveConfig", "refused: this daemon never writes its configuration; use `wg showconf`"),
];

/// `…File = PATH`, `…File = @NAME`, and `@NAME` in place of the key itself; `credential:NAME` is the same as `@NAME`.
fn key_place(key: &str, value: &str) -> Result<Option<KeyPlace>, Bad> {
    if let Some(name) = value.strip_prefix('@').or_else(|| value.strip_prefix("credential:")) {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(Bad("expected @ (or credential:) and the name of a credential".into()));
        }
        return Ok(Some(KeyPlace::Credential(name.into())));
    }
    if !key.ends_with("File") {
        return Ok(None);
    }
    if !value.starts_with('/') {
        return Err(Bad(
            "expected an absolute path, or @ (or credential:) and the name of a credential".into()
        ));
    }
    Ok(Some(KeyPlace::File(value.into())))
}

fn friendly_name(comment: &str) -> Option<&str> {
    in_comment(comment, "friendly_name")
}

/// The value that a comment gives to this name.
pub(super) fn in_comment<'a>(comment: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = comment.split_once('=')?;
    key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
}
