use super::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn a_whole_file_is_understood() {
    let config = understand(&example(), &Environment::default()).unwrap();
    assert_eq!(config.fixed.role, ServerRole::Services);
    assert_eq!(config.fixed.bind_address, "10.100.0.11:8001".parse().unwrap());
    assert_eq!(config.rules.allowed_hosts, ["10.100.0.11:8001"]);
    assert_eq!(config.rules.max_file_bytes, 1000);
    assert_eq!(config.rules.body_idle, limits::BODY_IDLE);
    assert!(config.rules.internal_keys[0].matches(KEY.as_bytes()));
}

#[test]
fn wrong_values_are_refused_by_key_and_value() {
    let table: &[(&str, &str, &[&str])] = &[
        ("role = \"services\"", "", &["role:", "no default"]),
        ("role = \"services\"", "role = \"web\"", &["role:", "\"web\"", "edge"]),
        ("role = \"services\"", "role = \"db\"", &["role:", "\"db\""]),
        ("role = \"services\"", "role = \"Services\"", &["role:", "\"Services\""]),
        ("profile = \"lab\"", "profile = \"dev\"", &["profile:", "\"dev\""]),
        ("profile = \"lab\"", "", &["profile:", "missing"]),
        ("10.100.0.11:8001", "0.0.0.0:8001", &["bind_address:", "0.0.0.0:8001", "every interface"]),
        ("10.100.0.11:8001", "[::]:8001", &["bind_address:", "every interface"]),
        ("10.100.0.11:8001", "127.0.0.1:8001", &["bind_address:", "127.0.0.1:8001", "loopback"]),
        ("10.100.0.11:8001", "192.0.2.1:8001", &["bind_address:", "192.0.2.1:8001", "outside tunnel_prefix"]),
        ("10.100.0.11:8001", "10.100.0.11:0", &["bind_address:", "no port"]),
        ("10.100.0.11:8001", "services:8001", &["bind_address:", "\"services:8001\""]),
        ("10.100.0.0/24", "10.100.0.0/33", &["tunnel_prefix:", "10.100.0.0/33"]),
        ("internal_api_key_file = \"key\"", "", &["internal_api_key_file:", "missing"]),
        (
            "internal_api_key_file = \"key\"",
            "internal_api_key_file = \"none\"",
            &["internal_api_key_file:", "none"],
        ),
        ("root_key_file = \"/etc/culvert/root.key\"", "", &["root_key_file:", "missing"]),
        ("\"/var/lib/x\"", "\"var/lib/x\"", &["state_dir:", "\"var/lib/x\"", "absolute"]),
        ("[[volume]]\nname = \"main\"\npath = \"/srv/main\"", "", &["volume:", "at least one"]),
        ("max_file_bytes = 1000", "max_file_bytes = 1000\ntransfers = 0", &["limits.transfers:", "1 to"]),
    ];
    for (from, to, expected) in table {
        let text = example().replacen(from, to, 1);
        assert_ne!(text, example(), "{from:?} is not in the example");
        let error = understand(&text, &Environment::default()).unwrap_err().to_string();
        for part in *expected {
            assert!(error.contains(part), "{from:?} → {to:?}: {error:?} lacks {part:?}");
        }
        assert!(error.contains("storaged.toml"), "{error}");
    }
}

#[test]
fn people_in_the_file_are_refused_with_the_command_that_makes_them() {
    let text = example()
        + "[[user]]\nname = \"ada\"\ntoken_sha256 = \"cvt_secret\"\n[[cohort]]\nname = \"c1\"\n[[edge]]\nname = \"web1\"\n";
    let error = understand(&text, &Environment::default()).unwrap_err().to_string();
    for part in ["user:", "culvert user add", "cohort:", "culvert cohort add", "edge:", "culvert edge add"] {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
    assert!(!error.contains("cvt_secret"), "{error}");
}

#[test]
fn unknown_keys_are_named_with_their_line() {
    for text in ["rolle = \"services\"\n".to_owned() + &example(), example() + "\ncolour = 1\n"] {
        let error = understand(&text, &Environment::default()).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{error}");
        assert!(error.starts_with("storaged.toml:"), "{error}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = example().replace("role = \"services\"", "").replace("10.100.0.11:8001", "nowhere");
    let error = understand(&text, &Environment::default()).unwrap_err().to_string();
    assert!(error.contains("role:") && error.contains("bind_address:"), "{error}");
}

#[test]
fn testing_may_be_on_loopback_and_nowhere_else() {
    let testing = example().replace("role = \"services\"", "role = \"testing\"");
    let on = |address| understand(&testing.replace("10.100.0.11:8001", address), &Environment::default());
    on("127.0.0.1:8001").unwrap();
    on("[::1]:8001").unwrap();
    on("0.0.0.0:8001").unwrap_err();
    on("192.0.2.1:8001").unwrap_err();
}

#[test]
fn the_environment_wins_over_the_file() {
    let environment = Environment {
        role: Some("testing".into()),
        bind_address: Some("127.0.0.1:9".into()),
        allowed_hosts: Some("10.100.0.10, Store".into()),
        internal_api_key: Some(SecretString::new("fedcba9876543210".into())),
    };
    let config = understand(&example(), &environment).unwrap();
    assert_eq!(config.fixed.role, ServerRole::Testing);
    assert_eq!(config.fixed.bind_address.port(), 9);
    assert_eq!(config.rules.allowed_hosts, ["10.100.0.10", "store"]);
    assert!(config.rules.internal_keys[0].matches(b"fedcba9876543210"));
    let refused = Environment { bind_address: Some("0.0.0.0:1".into()), ..Environment::default() };
    understand(&example(), &refused).unwrap_err();
}

#[test]
fn a_reload_names_what_needs_a_new_start() {
    let old: Raw = daemon::config::parse("storaged.toml", &example()).unwrap();
    let text = example().replace(":8001", ":8002").replace("max_file_bytes = 1000", "max_file_bytes = 5");
    let new: Raw = daemon::config::parse("storaged.toml", &text).unwrap();
    let (rules, later) =
        Config::understand_reload("storaged.toml", &old, &new, &Environment::default(), &mut Keys).unwrap();
    assert_eq!(rules.max_file_bytes, 5);
    assert_eq!(later, ["bind_address"]);
}

struct Keys;

impl KeySource for Keys {
    fn read(&mut self, reference: &str) -> Result<SecretString, String> {
        match reference {
            "key" => Ok(SecretString::new(KEY.into())),
            other => Err(format!("{other}: no such file")),
        }
    }

    fn read_public(&mut self, reference: &str, _most: u64) -> Result<String, String> {
        match reference {
            "jwks" => {
                Ok(r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#.into())
            }
            "empty" => Ok(r#"{"keys":[]}"#.into()),
            other => Err(format!("{other}: no such file")),
        }
    }
}

const PROVIDER: &str = r#"
[[issuer]]
name = "clinic"
url = "https://idp.example.org/realms/clinic"
audiences = ["culvert"]
jwks_file = "jwks"

[[group_map]]
issuer = "clinic"
claim = "groups"
value = "trial-7"
cohort = "c1"
role = "user"
"#;

#[test]
fn identity_providers_are_understood_and_described() {
    let config = understand(&(example() + PROVIDER), &Environment::default()).unwrap();
    let summary = config.rules.providers.summary().unwrap();
    assert!(
        summary.starts_with(
            "identity providers: clinic=https://idp.example.org/realms/clinic (1 keys); 1 group mappings; 0 authorities"
        )
    );
    let other = (example() + PROVIDER).replace("trial-7", "trial-8");
    let other = understand(&other, &Environment::default()).unwrap().rules.providers.summary().unwrap();
    assert_ne!(summary, other, "another mapping is another configuration");
    let described = describe(&config);
    assert!(
        described.contains("value = \"trial-7\"") && described.contains("jwks_file = \"jwks\""),
        "{described}"
    );
    assert!(understand(&example(), &Environment::default()).unwrap().rules.providers.summary().is_none());
}

#[test]
fn a_provider_without_usable_keys_is_named_with_its_file() {
    for (file, part) in [("empty", "empty has no key that can be used"), ("gone", "gone: no such file")] {
        let text = (example() + PROVIDER).replace("\"jwks\"", &format!("{file:?}"));
        let message = understand(&text, &Environment::default()).unwrap_err().to_string();
        assert!(message.contains("issuer \"clinic\": jwks_file") && message.contains(part), "{message}");
    }
    let text = (example() + PROVIDER).replace("issuer = \"clinic\"", "issuer = \"lab\"");
    let message = understand(&text, &Environment::default()).unwrap_err().to_string();
    assert!(message.contains("group_map[0].issuer: \"lab\" is no [[issuer]]"), "{message}");
}

fn understand(text: &str, environment: &Environment) -> Result<Config, ConfigError> {
    let raw: Raw = daemon::config::parse("storaged.toml", text)?;
    Config::understand("storaged.toml", &raw, environment, &mut Keys)
}

fn example() -> String {
    r#"role = "services"
profile = "lab"
bind_address = "10.100.0.11:8001"
tunnel_interface = "wg0"
tunnel_prefix = "10.100.0.0/24"
internal_api_key_file = "key"
root_key_file = "/etc/culvert/root.key"
state_dir = "/var/lib/x"

[[volume]]
name = "main"
path = "/srv/main"

[limits]
max_file_bytes = 1000
"#
    .to_owned()
}

#[test]
fn every_key_is_documented() {
    use crate::documented;
    let refusal = |text: &str| daemon::config::parse::<Raw>("x", text).unwrap_err().to_string();
    let mut keys = documented::keys(&refusal("zz = 1\n"), "");
    for table in ["limits", "volume", "issuer", "group_map", "certificate_map"] {
        let text = match table {
            "limits" => "[limits]\nzz = 1\n".to_owned(),
            several => format!("[[{several}]]\nzz = 1\n"),
        };
        keys.retain(|key| key != table);
        keys.extend(documented::keys(&refusal(&text), &format!("{table}.")));
    }
    // Known only to be refused with advice.
    keys.retain(|key| !["edge", "cohort", "user"].contains(&key.as_str()));
    documented::compare(documented::table(documented::section("storaged"), "key in"), keys);
}
