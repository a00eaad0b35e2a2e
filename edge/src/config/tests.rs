//! Good and bad configuration files.

use super::*;

const GOOD: &str = r#"
name = "web1"
role = "web"
plain_http = true
services_url = "http://10.100.0.11:8001"
internal_api_key_file = "/etc/culvert/internal.key"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse("edge.toml", text, &Environment::default())
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_small_file_gets_the_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.upstreams.all[0].address, "10.100.0.11:8001".parse().unwrap());
    assert_eq!(config.listen, "0.0.0.0:8000".parse().unwrap());
    assert_eq!(config.profile, Profile::Production);
    assert_eq!(config.metrics_listen, Some("127.0.0.1:9587".parse().unwrap()));
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn the_printed_configuration_reads_as_the_same() {
    let text = format!(
        "{GOOD}\nrun_as = \"0:0\"\nprofile = \"lab\"\nadmin_socket = \"\"\n[limits]\nmax_body_bytes = 5\nidle_timeout = \"2m\"\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(parse(&config.to_string()).unwrap(), config);
}

#[test]
fn all_mistakes_are_reported_at_once_with_key_and_value() {
    let message = message(
        r#"
        role = "services"
        profile = "prod"
        listen = "8000"
        services_url = "http://192.0.2.1:8001"
        tunnel_prefix = "10.100.0.0/24"
        metrics_listen = "x"
        [limits]
        idle_timeout = "soon"
        max_connections = 0
    "#,
    );
    for part in [
        "edge.toml: name: is missing",
        "edge.toml: role: edge cannot be \"services\"",
        "profile: \"prod\"",
        "listen: \"8000\"",
        "tls_certificate_file: is missing",
        "services_url: \"http://192.0.2.1:8001\" lies outside the tunnel (10.100.0.0/24)",
        "internal_api_key_file: is missing",
        "metrics_listen: \"x\"",
        "limits.idle_timeout: \"soon\"",
        "limits.max_connections: 0",
    ] {
        assert!(message.contains(part), "{part:?} in:\n{message}");
    }
}

#[test]
fn storaged_is_a_literal_address_inside_the_tunnel() {
    for url in [
        "http://storaged:8001",
        "http://10.100.1.11:8001",
        "http://127.0.0.1:8001",
        "http://10.100.0.11",
        "http://10.100.0.11:0",
        "http://10.100.0.11:8001/x",
        "http://user@10.100.0.11:8001",
        "http://[::1]:8001",
        "https://10.100.0.11:8001",
        "10.100.0.11:8001",
        "",
    ] {
        let text = GOOD.replace("http://10.100.0.11:8001", url);
        assert!(message(&text).contains("services_url"), "{url}");
    }
}

#[test]
fn testing_may_use_loopback_and_web_may_not() {
    let text = GOOD.replace("10.100.0.11:8001", "127.0.0.1:9").replace("\"web\"", "\"testing\"");
    assert!(parse(&text).is_ok());
    assert!(parse(&text.replace("127.0.0.1", "192.0.2.1")).is_err());
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let message = message(&format!("{GOOD}listn = \"x\"\n"));
    assert!(message.starts_with("edge.toml:7:1:") && message.contains("listn"), "{message}");
}

#[test]
fn the_environment_goes_before_the_file() {
    let environment = Environment {
        server_role: Some("testing".into()),
        services_url: Some("http://127.0.0.1:7".into()),
        internal_api_key: Some(SecretString::new("0123456789abcdef".into())),
    };
    let text = "name = \"web1\"\nplain_http = true\nrole = \"web\"\n";
    let config = Config::parse("edge.toml", text, &environment).unwrap();
    assert_eq!(config.role, ServerRole::Testing);
    assert_eq!(config.upstreams.ports(), [7]);
    assert!(!config.to_string().contains("0123456789abcdef"));
}

#[test]
fn the_public_side_has_tls_unless_plain_http_is_said_in_words() {
    let pair = "tls_certificate_file = \"chain.pem\"\ntls_key_file = \"credential:tls\"\n";
    let with = |lines: &str| GOOD.replace("plain_http = true\n", lines);
    let config = parse(&with(pair)).unwrap();
    let Encryption::Tls(files) = &config.encryption else { panic!("{:?}", config.encryption) };
    assert_eq!(files.oldest, crate::tls::MinVersion::Tls13);
    assert!(config.to_string().contains(pair), "{config}");
    assert!(parse(&with(&format!("{pair}tls_min_version = \"1.2\"\n"))).is_ok());
    for (lines, part) in [
        (format!("{pair}plain_http = true\n"), "plain_http: cannot be true"),
        (format!("{pair}tls_min_version = \"1.1\"\n"), "tls_min_version: \"1.1\""),
        (format!("{pair}client_crl_file = \"c\"\n"), "client_crl_file: needs client_ca_file"),
        (
            format!("{pair}client_ca_file = \"c\"\nclient_certificates = \"yes\"\n"),
            "client_certificates: \"yes\" is neither",
        ),
        ("plain_http = true\nclient_ca_file = \"c\"\n".into(), "client_ca_file: means nothing"),
        ("tls_key_file = \"k\"\n".into(), "tls_certificate_file: is missing"),
        ("tls_certificate_file = \"c\"\n".into(), "tls_key_file: is missing"),
        ("plain_http = true\ntls_min_version = \"1.2\"\n".into(), "tls_min_version: means nothing"),
        ("plain_http = true\nproxy_protocol_from = [\"lb\"]\n".into(), "proxy_protocol_from: \"lb\""),
    ] {
        let message = message(&with(&lines));
        assert!(message.contains(part), "{part:?} in:\n{message}");
    }
    let clients =
        "client_ca_file = \"ca.pem\"\nclient_crl_file = \"crl.pem\"\nclient_certificates = \"required\"\n";
    let asked = parse(&with(&format!("{pair}{clients}"))).unwrap();
    assert!(asked.to_string().contains(clients), "{asked}");
    assert_eq!(config.needs_restart(&asked), Vec::<&str>::new(), "a reload brings it");
    let plain = parse(GOOD).unwrap();
    assert_eq!(plain.needs_restart(&config), ["plain_http"]);
}

#[test]
fn a_reload_names_what_only_a_restart_can_change() {
    let old = parse(GOOD).unwrap();
    let new = parse(&format!("{}\n[limits]\nidle_timeout = \"1s\"\n", GOOD.replace("web1", "web2"))).unwrap();
    assert_eq!(old.needs_restart(&new), ["name"]);
}

#[test]
fn an_identity_provider_reads_as_printed_and_its_mistakes_are_named() {
    let provider = "[[issuer]]\nname = \"clinic\"\nurl = \"https://idp.example.org\"\naudiences = [\"culvert\"]\n\
                    jwks_file = \"credential:clinic\"\n";
    let config = parse(&format!("{GOOD}{provider}")).unwrap();
    assert_eq!(parse(&config.to_string()).unwrap(), config);
    assert_eq!(parse(GOOD).unwrap().needs_restart(&config), Vec::<&str>::new(), "a reload brings it");
    let message = message(&format!("{GOOD}{}", provider.replace("https", "http")));
    assert!(message.contains("edge.toml: issuer[0].url: \"http://idp.example.org\""), "{message}");
}

#[test]
fn every_key_is_documented() {
    use crate::documented;
    let refusal = |text| Config::parse("x", text, &Environment::default()).unwrap_err().to_string();
    let mut keys = documented::keys(&refusal("zz = 1\n"), "");
    keys.retain(|key| !["limits", "issuer", "upstream"].contains(&key.as_str()));
    keys.extend(documented::keys(&refusal("[limits]\nzz = 1\n"), "limits."));
    keys.extend(documented::keys(&refusal("[[issuer]]\nzz = 1\n"), "issuer."));
    keys.extend(documented::keys(&refusal("[[upstream]]\nzz = 1\n"), "upstream."));
    documented::compare(documented::table(documented::section("edge"), "key in"), keys);
}

#[test]
fn several_storageds_have_cohorts_of_their_own() {
    let top = GOOD.replace("services_url = \"http://10.100.0.11:8001\"\n", "");
    let upstream = |name: &str, host: u8, cohorts: &str| {
        format!(
            "[[upstream]]\nname = \"{name}\"\nurl = \"http://10.100.0.{host}:8001\"\ncohorts = [{cohorts}]\n"
        )
    };
    let north = upstream("north", 11, "\"c5\", \"c6\"");
    let config = parse(&format!("{top}{north}{}", upstream("south", 12, "\"c7\""))).unwrap();
    assert_eq!(config.upstreams.all.len(), 2);
    assert_eq!(parse(&config.to_string()).unwrap(), config);
    let moved = parse(&format!("{top}{north}{}", upstream("south", 12, ""))).unwrap();
    assert_eq!(config.needs_restart(&moved), ["upstream"]);
    for (text, part) in [
        (format!("{GOOD}{north}"), "services_url: stands beside [[upstream]]"),
        (format!("{top}{north}{}", upstream("north", 12, "")), "upstream[1].name: \"north\" stands twice"),
        (format!("{top}{north}{}", upstream("south", 11, "")), "upstream[1].url: is that of \"north\" too"),
        (
            format!("{top}{north}{}", upstream("south", 12, "\"c6\"")),
            "upstream[1].cohorts: \"c6\" is of \"north\" already",
        ),
        (format!("{top}{}", upstream("north", 11, "\"C5\"")), "upstream[0].cohorts: "),
        (format!("{top}{}", north.replace("10.100.0.11", "192.0.2.1")), "upstream[0].url: "),
        (format!("{top}[[upstream]]\n"), "upstream[0].name: is missing"),
        (
            format!("{top}{north}checkpoint_floor_file = \"f\"\n"),
            "upstream[0].checkpoint_floor_file: needs log_key",
        ),
        (top.clone(), "services_url: is missing"),
    ] {
        let message = message(&text);
        assert!(message.contains(part), "{part:?} in:\n{message}");
    }
}
