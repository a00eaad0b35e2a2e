//! Values of configuration keys.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use super::{EndpointConf, Table};
use crate::KeyError;
use crate::limits::our_choice::{MAX_MTU, MIN_MTU};

/// Why a value is refused. Never quotes a key.
pub(super) struct Bad(pub(super) String);

impl From<KeyError> for Bad {
    fn from(error: KeyError) -> Bad {
        Bad(error.to_string())
    }
}

/// A decimal number within bounds.
pub(super) fn number<T>(value: &str, lowest: T, highest: T) -> Result<T, Bad>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    digits(value)
        .filter(|number| (&lowest..=&highest).contains(&number))
        .ok_or_else(|| Bad(format!("{} is no number from {lowest} to {highest}", quoted(value))))
}

/// Seconds, or `off`.
pub(super) fn number_or_off(value: &str) -> Result<u16, Bad> {
    if value.eq_ignore_ascii_case("off") {
        return Ok(0);
    }
    digits(value).ok_or_else(|| Bad(format!("{} is neither off nor a number from 1 to 65535", quoted(value))))
}

pub(super) fn mtu(value: &str) -> Result<u16, Bad> {
    number(value, MIN_MTU, MAX_MTU)
}

/// Hexadecimal with `0x`, decimal, or `off`.
pub(super) fn fwmark(value: &str) -> Result<u32, Bad> {
    if value.eq_ignore_ascii_case("off") {
        return Ok(0);
    }
    let hexadecimal = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None => digits(value),
    }
    .ok_or_else(|| Bad(format!("{} is neither off nor a 32-bit number", quoted(value))))
}

pub(super) fn table(value: &str) -> Result<Table, Bad> {
    match value.to_ascii_lowercase().as_str() {
        "auto" => Ok(Table::Auto),
        "off" => Ok(Table::Off),
        digits_or_not => digits(digits_or_not)
            .filter(|number| *number > 0)
            .map(Table::Number)
            .ok_or_else(|| Bad(format!("{} is neither off, auto nor a table's number", quoted(value)))),
    }
}

/// Comma-separated; an empty list is one.
pub(super) fn prefixes(value: &str) -> Result<Vec<IpNet>, Bad> {
    list(value).map(prefix).collect()
}

pub(super) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// An address without length stands for itself alone.
fn prefix(text: &str) -> Result<IpNet, Bad> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    text.parse().map_err(|_| Bad(format!("{} is no address with prefix length", quoted(text))))
}

/// `address:port`, `[v6]:port` or `name:port`.
pub(super) fn endpoint(value: &str) -> Result<EndpointConf, Bad> {
    if let Ok(address) = value.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(Bad("port 0 cannot be sent to".into())),
            _ => Ok(EndpointConf::Address(address)),
        };
    }
    let refuse = || Bad(format!("{} is no HOST:PORT", quoted(value)));
    let (host, port) = value.rsplit_once(':').ok_or_else(refuse)?;
    let port = digits(port).filter(|port| *port > 0).ok_or_else(refuse)?;
    if !is_host_name(host) {
        return Err(refuse());
    }
    Ok(EndpointConf::Name { host: host.to_owned(), port })
}

/// RFC 1123 §2.1, with the underscore that container networks use. All digits and dots would be a
/// mistyped address.
fn is_host_name(host: &str) -> bool {
    let labels_fit = host.trim_end_matches('.').split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    });
    labels_fit && host.len() <= 253 && !host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// Rust's own parser would let a sign pass.
fn digits<T: FromStr>(value: &str) -> Option<T> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok()
}

fn quoted(value: &str) -> String {
    let shown: String = value.chars().take(60).collect();
    format!("{shown:?}")
}
