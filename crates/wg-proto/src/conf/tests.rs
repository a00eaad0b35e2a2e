use proptest::prelude::*;

use super::*;

const KEY_A: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const KEY_B: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

#[test]
fn the_seeds_own_file_is_understood() {
    let conf = parse_ok(
        "[Interface]\n\
         PrivateKey = A\n\
         Address = 10.100.0.10/24\n\
         ListenPort = 51820\n\
         \n\
         [Peer]\n\
         # friendly_name = services1\n\
         PublicKey = B\n\
         PresharedKey = A\n\
         AllowedIPs = 10.100.0.11/32\n\
         Endpoint = wireguard-services:51820\n\
         PersistentKeepalive = 25\n",
    );
    assert!(matches!(conf.private_key, KeySource::Inline(_)));
    assert_eq!(conf.addresses, ["10.100.0.10/24".parse().unwrap()]);
    assert_eq!((conf.listen_port, conf.mtu, conf.table, conf.fwmark), (Some(51820), None, Table::Auto, 0));
    let [peer] = &conf.peers[..] else { panic!("one peer") };
    assert_eq!(peer.friendly_name.as_deref(), Some("services1"));
    assert_eq!(peer.allowed_ips, ["10.100.0.11/32".parse().unwrap()]);
    assert_eq!(peer.persistent_keepalive, 25);
    let endpoint = EndpointConf::Name { host: "wireguard-services".into(), port: 51820 };
    assert_eq!(peer.endpoint, Some(endpoint));
}

#[test]
fn keys_of_a_rotation_that_is_under_way_stand_in_comments() {
    let conf = parse_ok(
        "[Interface]\nPrivateKey = A\n# next_private_key = B\n\
         [Peer]\nPublicKey = B\nPresharedKey = B\n#Next_Preshared_Key=A\n",
    );
    let update = conf.to_update();
    assert_eq!(*update.next_private_key.unwrap().reveal_base64(), *secret(KEY_B).reveal_base64());
    assert_eq!(*update.peers[0].next_preshared_key.as_ref().unwrap().reveal_base64(), *KEY_A);
    // In a file with the key alone: its second line.
    for (text, next) in [
        (format!("{KEY_A}\n# next = {KEY_B}\n"), true),
        (format!("{KEY_A}\n"), false),
        (format!("\n{KEY_A}"), false),
    ] {
        let mut conf = parse_ok("[Interface]\nPrivateKeyFile = /k\n");
        conf.read_keys(|_| Ok::<_, std::io::Error>(text.clone().into())).unwrap();
        let update = conf.to_update();
        assert!(matches!(update.private_key, Change::Set(key) if key.same_as(&secret(KEY_A))));
        assert_eq!(update.next_private_key.is_some_and(|key| key.same_as(&secret(KEY_B))), next, "{text:?}");
    }
}

#[test]
fn a_rotations_comment_that_is_no_key_is_named_and_not_repeated() {
    let errors = parse_text(
        "[Interface]\nPrivateKey = A\n# next_private_key = pasted\n# next_preshared_key = B\n\
         [Peer]\nPublicKey = B\n# next_preshared_key =\n# next_private_key = B\n",
    );
    let errors = errors.err().unwrap();
    let found: Vec<(usize, &str)> = errors.0.iter().map(|error| (error.line, error.key.as_str())).collect();
    let (own, preshared) = ("next_private_key", "next_preshared_key");
    assert_eq!(found, [(3, own), (4, preshared), (7, preshared), (8, own)]);
    assert!(!errors.to_string().contains("pasted"), "{errors}");
    let mut conf = parse_ok("[Interface]\nPrivateKeyFile = /k\n");
    let junk = format!("{KEY_A}\n# next = pasted\n");
    let error = conf.read_keys(|_| Ok::<_, std::io::Error>(junk.clone().into())).unwrap_err().to_string();
    assert!(error.contains("PrivateKeyFile") && !error.contains("pasted"), "{error}");
}

fn secret(text: &str) -> SecretKey {
    SecretKey::from_base64(text).unwrap()
}

#[test]
fn keys_are_case_insensitive_and_lists_repeat() {
    let conf = parse_ok(
        "  [INTERFACE]  # ours\n\
         privatekey=A # secret\n\
         ADDRESS = 10.0.0.1/24, fd00::1/64\n\
         address = 10.0.1.1\n\
         dns = 1.1.1.1, example.org\n\
         mtu = 1340\n\
         table = 1234\n\
         fwmark = 0xCA6C\n\
         [peer]\n\
         publickey = B\n\
         allowedips = 10.1.2.3/8, ::/0,\n\
         ALLOWEDIPS = 192.168.1.1\n\
         AllowedIPs =\n\
         endpoint = [fd00::2]:1\n\
         persistentkeepalive = off\n",
    );
    let addresses: Vec<String> = conf.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1/24", "fd00::1/64", "10.0.1.1/32"], "host bits are kept");
    assert_eq!((conf.mtu, conf.table, conf.fwmark), (Some(1340), Table::Number(1234), 0xca6c));
    assert_eq!(conf.dns, ["1.1.1.1", "example.org"]);
    let prefixes: Vec<String> = conf.peers[0].allowed_ips.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.0.0.0/8", "::/0", "192.168.1.1/32"], "host bits are cut");
    assert_eq!(conf.peers[0].endpoint, Some(EndpointConf::Address("[fd00::2]:1".parse().unwrap())));
}

#[test]
fn a_friendly_name_stands_above_its_peer_or_in_it() {
    let names = |text: &str| -> Vec<Option<String>> {
        let text = format!("[Interface]\nPrivateKey = A\n{text}");
        let peers = parse_ok(&text).peers;
        peers.iter().map(|peer| peer.friendly_name.as_deref().map(str::to_owned)).collect()
    };
    let both = [Some("one".to_owned()), Some("two".to_owned())];
    for text in [
        // above, with and without blank lines
        "\n# friendly_name = one\n[Peer]\nPublicKey = B\n\n# friendly_name=two\n[Peer]\nPublicKey = A\n",
        "#friendly_name=one\n[Peer]\nPublicKey = B\n# friendly_name=two\n[Peer]\nPublicKey = A\n",
        // first in the section
        "[Peer]\n# friendly_name = one\nPublicKey = B\n[Peer]\n# Friendly_Name = two\nPublicKey = A\n",
        // last in the section
        "[Peer]\nPublicKey = B\n# friendly_name = one\n\n[Peer]\nPublicKey = A\n# friendly_name = two",
        "[Peer]\nPublicKey = B\n# friendly_name = one\n[Peer]\nPublicKey = A\n# friendly_name = two",
        // behind the key
        "[Peer] # friendly_name = one\nPublicKey = B\n[Peer]\nPublicKey = A # friendly_name = two\n",
        // one of each
        "[Peer]\nPublicKey = B\n# friendly_name = one\n\n# friendly_name = two\n[Peer]\nPublicKey = A\n",
    ] {
        assert_eq!(names(text), both, "{text}");
    }
    assert_eq!(
        names("[Peer]\nPublicKey = B\n\n# friendly_name=two\n[Peer]\nPublicKey = A\n"),
        [None, Some("two".to_owned())]
    );
}

#[test]
fn mistakes_are_named_by_line_and_key() {
    for (text, expected) in [
        ("", &[(1, "[Interface]", "missing")][..]),
        ("ListenPort = 1\n[Interface]\nPrivateKey = A", &[(1, "ListenPort", "before the first section")]),
        ("[Interface]\nListenPort = 1", &[(1, "PrivateKey", "missing")]),
        ("[Interface]\nPrivateKey = A\n[Interface]", &[(3, "[Interface]", "given twice, first in line 1")]),
        ("[Interface]\nPrivateKey = A\n[Pear]\nx = 1", &[(3, "[Pear]", "no such section")]),
        ("[Interface]\nPrivateKey = A\nListenPort", &[(3, "(line)", "expected KEY = VALUE")]),
        ("[Interface]\nPrivateKey = A\nPublicKey = B", &[(3, "PublicKey", "no such key in [Interface]")]),
        ("[Interface]\nPrivateKey = abc", &[(2, "PrivateKey", "44 characters of base64")]),
        ("[Interface]\nPrivateKey = A\nPrivateKeyFile = /k", &[(3, "PrivateKeyFile", "exclude")]),
        ("[Interface]\nPrivateKeyFile = key", &[(2, "PrivateKeyFile", "absolute path")]),
        ("[Interface]\nPrivateKeyFile = credential:a/b", &[(2, "PrivateKeyFile", "name of a credential")]),
        ("[Interface]\nPrivateKeyFile = @", &[(2, "PrivateKeyFile", "name of a credential")]),
        ("[Interface]\nPrivateKey = A\nListenPort = 65536", &[(3, "ListenPort", "0 to 65535")]),
        ("[Interface]\nPrivateKey = A\nListenPort = +1", &[(3, "ListenPort", "\"+1\"")]),
        ("[Interface]\nPrivateKey = A\nMTU = 100", &[(3, "MTU", "576 to 65440")]),
        (
            "[Interface]\nPrivateKey = A\nMTU = 1400\nMTU = 1300",
            &[(4, "MTU", "given twice, first in line 3")],
        ),
        ("[Interface]\nPrivateKey = A\nFwMark = 0xg", &[(3, "FwMark", "neither off nor")]),
        ("[Interface]\nPrivateKey = A\nTable = main", &[(3, "Table", "neither off, auto nor")]),
        ("[Interface]\nPrivateKey = A\nAddress = 10.0.0.1/33", &[(3, "Address", "10.0.0.1/33")]),
        ("[Interface]\nPrivateKey = A\nPostUp = iptables", &[(3, "PostUp", "hooks are refused")]),
        ("[Interface]\nPrivateKey = A\npredown = x", &[(3, "PreDown", "hooks are refused")]),
        ("[Interface]\nPrivateKey = A\nSaveConfig = true", &[(3, "SaveConfig", "refused")]),
        ("[Interface]\nPrivateKey = A\n[Peer]\nAllowedIPs = ::/0", &[(3, "PublicKey", "missing")]),
        ("[Interface]\nPrivateKey = A\n[Peer]\nPublicKey = x", &[(4, "PublicKey", "base64")]),
        ("PEER\nPresharedKey = 0", &[(5, "PresharedKey", "base64")]),
        ("PEER\nPresharedKey = A\nPresharedKeyFile = /k", &[(6, "PresharedKeyFile", "exclude")]),
        ("PEER\nAllowedIPs = 10.0.0.0/8, 10.0.0", &[(5, "AllowedIPs", "\"10.0.0\"")]),
        ("PEER\nEndpoint = 10.0.0.1", &[(5, "Endpoint", "HOST:PORT")]),
        ("PEER\nEndpoint = 10.0.0.256:1", &[(5, "Endpoint", "HOST:PORT")]),
        ("PEER\nEndpoint = host:0", &[(5, "Endpoint", "HOST:PORT")]),
        ("PEER\nEndpoint = -x-:1", &[(5, "Endpoint", "HOST:PORT")]),
        ("PEER\nPersistentKeepalive = 65536", &[(5, "PersistentKeepalive", "off nor a number")]),
        ("PEER\nPersistentKeepalive = on", &[(5, "PersistentKeepalive", "off nor a number")]),
        ("PEER\n[Peer]\nPublicKey = B", &[(5, "PublicKey", "line 3 has the same key")]),
        (
            "PEER\nAllowedIPs = 10.0.0.0/8\n[Peer]\nPublicKey = A\nAllowedIPs = 10.0.0.1/8",
            &[(6, "AllowedIPs", "10.0.0.0/8 is also given to the [Peer] in line 3")],
        ),
        ("PEER\n# friendly_name =", &[(5, "friendly_name", "1 to 64 bytes")]),
        ("PEER\n# friendly_name = a\n# friendly_name = b", &[(6, "friendly_name", "given twice")]),
        // all of them at once, in the order of their lines
        (
            "[Interface]\nMTU = x\nFoo = 1\n[Peer]\nEndpoint = y\n[Peer]\nPublicKey = z",
            &[
                (1, "PrivateKey", "missing"),
                (2, "MTU", "\"x\""),
                (3, "Foo", "no such key"),
                (4, "PublicKey", "missing"),
                (5, "Endpoint", "HOST:PORT"),
                (7, "PublicKey", "base64"),
            ],
        ),
    ] {
        let text = text.replace("PEER", "[Interface]\nPrivateKey = A\n[Peer]\nPublicKey = B");
        let ConfErrors(errors) = parse_text(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), expected.len(), "{text}: {shown:#?}");
        for (error, (line, key, said)) in errors.iter().zip(expected) {
            assert_eq!((error.line, error.key.as_str()), (*line, *key), "{text}: {shown:#?}");
            assert!(error.message.contains(said), "{text}: {shown:#?}");
            assert!(error.to_string().starts_with(&format!("wg0.conf:{line}: {key}: ")), "{error}");
        }
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    for text in [format!("[Interface]\n{KEY_A}\n"), format!("[Interface]\nPrivateKey = {KEY_A}x\n")] {
        let shown = parse("wg0.conf", &text).err().unwrap().to_string();
        assert!(!shown.contains(&KEY_A[..12]), "{shown}");
    }
}

#[test]
fn keys_kept_elsewhere_are_fetched_and_their_failures_located() {
    let text = "[Interface]\nPrivateKeyFile = /k/own\n[Peer]\nPublicKey = B\nPresharedKey = @psk\n";
    let mut conf = parse_ok(text);
    conf.read_keys(|place| match place {
        KeyPlace::File(path) => {
            assert_eq!(path, "/k/own");
            Ok::<_, &str>(zeroize::Zeroizing::new(format!("{KEY_A}\n")))
        }
        KeyPlace::Credential(name) => {
            assert_eq!(name, "psk");
            Ok(zeroize::Zeroizing::new(KEY_B.into()))
        }
    })
    .unwrap();
    let update = conf.to_update();
    assert!(matches!(update.private_key, Change::Set(_)));
    assert!(matches!(update.peers[0].preshared_key, Change::Set(_)));

    let mut conf = parse_ok(text);
    let errors = conf
        .read_keys(|place| match place {
            KeyPlace::File(_) => Err("No such file or directory"),
            KeyPlace::Credential(_) => Ok(zeroize::Zeroizing::new("short".into())),
        })
        .unwrap_err();
    assert_eq!(
        errors.to_string(),
        "wg0.conf:2: PrivateKeyFile: /k/own: No such file or directory\n\
         wg0.conf:5: PresharedKeyFile: credential psk: a key is 44 characters of base64"
    );
}

#[test]
fn a_sync_removes_only_who_is_gone() {
    let conf = parse_ok("[Interface]\nPrivateKey = A\n[Peer]\nPublicKey = B\nEndpoint = host:1\n");
    let (gone, stays) = (PublicKey::from_bytes([9; 32]), PublicKey::from_base64(KEY_B).unwrap());
    let update = conf.to_sync_update(&[gone, stays]);
    assert!(!update.replace_peers);
    let asked: Vec<_> = update.peers.iter().map(|peer| (peer.public_key, peer.remove)).collect();
    assert_eq!(asked, [(gone, true), (stays, false)]);
    assert!(update.peers[1].replace_allowed_ips);
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "(?s).{0,400}") {
        let _ = parse("x", &text);
    }

    #[test]
    fn lines_in_any_order_are_parsed_or_refused(lines in proptest::collection::vec(line(), 0..30)) {
        if let Err(ConfErrors(errors)) = parse_text(&lines.join("\n")) {
            prop_assert!(!errors.is_empty());
            prop_assert!(errors.is_sorted_by_key(|error| error.line));
        }
    }
}

fn line() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "[Interface]",
        "[Peer]",
        "",
        "# friendly_name = x",
        "# next_private_key = A",
        "# next_preshared_key = B",
        "PrivateKey = A",
        "PrivateKeyFile = @x",
        "PublicKey = A",
        "PublicKey = B",
        "AllowedIPs = 10.0.0.0/8",
        "Address = 10.0.0.1",
        "Endpoint = a:1 # friendly_name = y",
        "MTU = 1",
        "PostUp = x",
        "=",
    ])
}

fn parse_text(text: &str) -> Result<TunnelConf, ConfErrors> {
    let text = text.replace("= A", &format!("= {KEY_A}")).replace("=A", &format!("={KEY_A}"));
    parse("wg0.conf", &text.replace("= B", &format!("= {KEY_B}")))
}

fn parse_ok(text: &str) -> TunnelConf {
    parse_text(text).unwrap_or_else(|errors| panic!("{errors}"))
}
