//! The body of a `set=1` request.

use ipnet::IpNet;

use super::{UapiError, errno};
use crate::key::{KeyError, bytes_from_hex};
use crate::limits::our_choice::MAX_UAPI_LINE_BYTES;
use crate::{AllowedIpChange, Change, DeviceUpdate, PeerUpdate, PresharedKey, PublicKey, SecretKey};

/// Reads everything behind the line `set=1`, up to the first empty line or the end.
pub fn parse_set(body: &str) -> Result<DeviceUpdate, UapiError> {
    let mut update = DeviceUpdate::default();
    for (number, line) in body.lines().enumerate() {
        if line.is_empty() {
            break;
        }
        parse_line(line, &mut update).map_err(|Bad { errno, message }| UapiError {
            line: number + 1,
            message,
            errno,
        })?;
    }
    Ok(update)
}

struct Bad {
    errno: i32,
    message: String,
}

fn invalid(key: &str, what: &str) -> Bad {
    Bad { errno: errno::EINVAL, message: format!("{key}: {what}") }
}

fn parse_line(line: &str, update: &mut DeviceUpdate) -> Result<(), Bad> {
    if line.len() > MAX_UAPI_LINE_BYTES {
        return Err(Bad { errno: errno::EINVAL, message: "the line is too long".into() });
    }
    let Some((key, value)) = line.split_once('=') else {
        return Err(Bad { errno: errno::EPROTO, message: "no `=` in the line".into() });
    };
    if key == "public_key" {
        let public_key = PublicKey::from_hex(value).map_err(|error| invalid(key, &error.to_string()))?;
        update.peers.push(PeerUpdate::of(public_key));
        return Ok(());
    }
    match update.peers.last_mut() {
        None => parse_device_line(key, value, update),
        Some(peer) => parse_peer_line(key, value, peer),
    }
}

fn parse_device_line(key: &str, value: &str, update: &mut DeviceUpdate) -> Result<(), Bad> {
    match key {
        "private_key" => update.private_key = secret(key, value, SecretKey::from_bytes)?,
        "listen_port" => update.listen_port = Some(number(key, value)?),
        "fwmark" => update.fwmark = Some(number(key, value)?),
        "replace_peers" => update.replace_peers = only_true(key, value)?,
        _ => return Err(unknown(key, "device")),
    }
    Ok(())
}

fn parse_peer_line(key: &str, value: &str, peer: &mut PeerUpdate) -> Result<(), Bad> {
    match key {
        "remove" => peer.remove = only_true(key, value)?,
        "update_only" => peer.update_only = only_true(key, value)?,
        "preshared_key" => peer.preshared_key = secret(key, value, PresharedKey::from_bytes)?,
        "endpoint" => {
            let endpoint = value.parse().map_err(|_| invalid(key, "expected ADDRESS:PORT"))?;
            peer.endpoint = Some(endpoint);
        }
        "persistent_keepalive_interval" => peer.persistent_keepalive = Some(number(key, value)?),
        "replace_allowed_ips" => {
            peer.replace_allowed_ips = only_true(key, value)?;
            // In a stream of orders this one undoes what came before it.
            peer.allowed_ips.clear();
        }
        "allowed_ip" => peer.allowed_ips.push(allowed_ip(key, value)?),
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err(invalid(key, "only version 1 is known")),
        _ => return Err(unknown(key, "peer")),
    }
    Ok(())
}

fn secret<T>(
    key: &str,
    value: &str,
    make: impl Fn(&[u8; 32]) -> Result<T, KeyError>,
) -> Result<Change<T>, Bad> {
    let made = bytes_from_hex(value).and_then(|bytes| make(&bytes));
    match made {
        Ok(secret) => Ok(Change::Set(secret)),
        Err(KeyError::Zero) => Ok(Change::Clear),
        Err(error @ (KeyError::Hex | KeyError::Base64)) => Err(invalid(key, &error.to_string())),
    }
}

/// Decimal digits alone: Rust's own parser would let a sign pass.
fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, Bad> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid(key, "expected a decimal number"));
    }
    value.parse().map_err(|_| invalid(key, "the number is out of range"))
}

fn only_true(key: &str, value: &str) -> Result<bool, Bad> {
    match value {
        "true" => Ok(true),
        _ => Err(invalid(key, "only `true` is allowed")),
    }
}

fn allowed_ip(key: &str, value: &str) -> Result<AllowedIpChange, Bad> {
    let parse = |text: &str| -> Result<IpNet, Bad> {
        text.parse::<IpNet>()
            .map(|prefix| prefix.trunc())
            .map_err(|_| invalid(key, "expected ADDRESS/LENGTH"))
    };
    match value.strip_prefix('-') {
        Some(rest) => Ok(AllowedIpChange::Remove(parse(rest)?)),
        None => Ok(AllowedIpChange::Add(parse(value)?)),
    }
}

fn unknown(key: &str, level: &str) -> Bad {
    // The key is whatever stood before the first `=`, a secret with a typo included: show only what looks like
    // one of the protocol's keys.
    let fit = key.len() <= 32 && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let key = if fit { key } else { "(line)" };
    Bad { errno: errno::EINVAL, message: format!("{key}: no such {level} key") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";

    #[test]
    fn the_example_of_the_specification_is_understood() {
        let update = parse(&format!(
            "private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a\n\
             fwmark=0\nlisten_port=12912\nreplace_peers=true\n\
             public_key={KEY}\npreshared_key={}\nreplace_allowed_ips=true\nallowed_ip=192.168.4.4/32\n\
             endpoint=[abcd:23::33%2]:51820\n\
             public_key={}\nremove=true\npersistent_keepalive_interval=111\nupdate_only=true\n\
             protocol_version=1\nallowed_ip=-10.1.2.3/8\n\n",
            "18".repeat(32),
            "58".repeat(32),
        ))
        .unwrap();
        assert!(matches!(update.private_key, Change::Set(_)));
        assert_eq!((update.fwmark, update.listen_port, update.replace_peers), (Some(0), Some(12912), true));
        let [first, second] = &update.peers[..] else { panic!("two peers") };
        assert_eq!(first.public_key.to_hex(), KEY);
        assert!(matches!(first.preshared_key, Change::Set(_)) && first.replace_allowed_ips);
        assert_eq!(first.allowed_ips, [AllowedIpChange::Add("192.168.4.4/32".parse().unwrap())]);
        assert_eq!(first.endpoint.unwrap().port(), 51820);
        assert!(second.remove && second.update_only);
        assert_eq!(second.persistent_keepalive, Some(111));
        assert_eq!(second.allowed_ips, [AllowedIpChange::Remove("10.0.0.0/8".parse().unwrap())]);
    }

    #[test]
    fn zeros_clear_a_secret() {
        let zeros = "0".repeat(64);
        let update =
            parse(&format!("private_key={zeros}\npublic_key={KEY}\npreshared_key={zeros}\n")).unwrap();
        assert!(matches!(update.private_key, Change::Clear));
        assert!(matches!(update.peers[0].preshared_key, Change::Clear));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_number() {
        for (body, line, number, said) in [
            ("listen_port", 1, 71, "no `=`"),
            ("listen_port=1\nfoo=1", 2, 22, "foo: no such device key"),
            ("private_key=00", 1, 22, "private_key: "),
            ("private_key=zz", 1, 22, "private_key: "),
            ("listen_port=65536", 1, 22, "listen_port: the number is out of range"),
            ("listen_port=+1", 1, 22, "listen_port: expected a decimal number"),
            ("listen_port=", 1, 22, "listen_port: "),
            ("fwmark=0x10", 1, 22, "fwmark: "),
            ("fwmark=4294967296", 1, 22, "fwmark: "),
            ("replace_peers=false", 1, 22, "replace_peers: only `true`"),
            ("remove=true", 1, 22, "remove: no such device key"),
            ("public_key=abc", 1, 22, "public_key: "),
            ("PEER\nlisten_port=1", 2, 22, "listen_port: no such peer key"),
            ("PEER\nremove=yes", 2, 22, "remove: "),
            ("PEER\nupdate_only=1", 2, 22, "update_only: "),
            ("PEER\nreplace_allowed_ips=0", 2, 22, "replace_allowed_ips: "),
            ("PEER\nendpoint=example.org:1", 2, 22, "endpoint: "),
            ("PEER\nendpoint=1.2.3.4", 2, 22, "endpoint: "),
            ("PEER\npersistent_keepalive_interval=65536", 2, 22, "persistent_keepalive_interval: "),
            ("PEER\npersistent_keepalive_interval=off", 2, 22, "persistent_keepalive_interval: "),
            ("PEER\nallowed_ip=1.2.3.4", 2, 22, "allowed_ip: "),
            ("PEER\nallowed_ip=1.2.3.4/33", 2, 22, "allowed_ip: "),
            ("PEER\nallowed_ip=+1.2.3.4/32", 2, 22, "allowed_ip: "),
            ("PEER\nprotocol_version=2", 2, 22, "protocol_version: "),
            ("PEER\npreshared_key=1", 2, 22, "preshared_key: "),
            ("PEER\n=x", 2, 22, ": no such peer key"),
        ] {
            let body = body.replace("PEER", &format!("public_key={KEY}"));
            let error = parse(&body).err().unwrap_or_else(|| panic!("accepted: {body}"));
            assert_eq!((error.line, error.errno), (line, number), "{body}: {error}");
            assert!(error.message.contains(said), "{body}: {error}");
        }
    }

    #[test]
    fn ten_thousand_lines_are_read_as_one_request() {
        let mut body = format!("public_key={KEY}\nreplace_allowed_ips=true\n");
        for index in 0..10_000_u32 {
            body += &format!("allowed_ip=10.{}.{}.0/24\n", index >> 8, index & 0xff);
        }
        assert_eq!(parse(&body).unwrap().peers[0].allowed_ips.len(), 10_000);
        body += "allowed_ip=10.0.0.0\n";
        assert_eq!(parse(&body).err().unwrap().line, 10_003);
    }

    #[test]
    fn nothing_behind_the_empty_line_is_read() {
        assert!(parse("listen_port=1\n\ngarbage").is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(body in "(?s).{0,300}") {
            let _ = parse_set(&body);
        }

        #[test]
        fn any_value_of_a_known_key_is_parsed_or_refused(
            key in prop_oneof![Just("private_key"), Just("fwmark"), Just("endpoint"), Just("allowed_ip")],
            value in "[0-9a-f:./%\\[\\]-]{0,70}",
        ) {
            let _ = parse_set(&format!("{key}={value}\n"));
            let _ = parse_set(&format!("public_key={KEY}\n{key}={value}\n"));
        }
    }

    fn parse(body: &str) -> Result<DeviceUpdate, UapiError> {
        parse_set(body)
    }
}
