use store_proto::Token;

use super::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn a_whole_file_is_understood() {
    let config = understand(&example(), &Environment::default()).unwrap();
    assert_eq!(config.fixed.role, ServerRole::Services);
    assert_eq!(config.fixed.bind_address, "10.100.0.11:8001".parse().unwrap());
    assert_eq!(config.policy.allowed_hosts, ["10.100.0.11:8001"]);
    assert_eq!(config.policy.cohorts[0].max_file_bytes, 1000);
    assert_eq!(config.policy.users[0].role, Role::User);
    assert_eq!(config.policy.body_idle, limits::BODY_IDLE);
    assert!(config.policy.is_internal_key(KEY.as_bytes()));
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
        ("cohorts = [\"c1\"]\ntoken", "cohorts = [\"c9\"]\ntoken", &["user[0].cohorts[0]:", "\"c9\""]),
        (
            "name = \"web1\"\ncohorts = [\"c1\"]",
            "name = \"web1\"\ncohorts = [\"c8\"]",
            &["edge[0].cohorts[0]:", "\"c8\""],
        ),
        ("role = \"user\"", "role = \"root\"", &["user[0].role:", "\"root\""]),
        ("name = \"ada\"", "name = \"a da\"", &["user[0].name:", "\"a da\""]),
        ("name = \"c1\"", "name = \"../c1\"", &["cohort[0].name:", "\"../c1\""]),
        (
            "max_file_bytes = 1000",
            "max_file_bytes = 1000\n[limits]\ntransfers = 0",
            &["limits.transfers:", "1 to"],
        ),
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
fn a_bad_token_digest_is_refused_and_not_repeated() {
    let text = example();
    let start = text.find("token_sha256 = \"").unwrap() + "token_sha256 = \"".len();
    let text = format!("{}cvt_secret{}", &text[..start], &text[start + 64..]);
    let error = understand(&text, &Environment::default()).unwrap_err().to_string();
    assert!(error.contains("user[0].token_sha256:") && !error.contains("cvt_secret"), "{error}");
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
    assert_eq!(config.policy.allowed_hosts, ["10.100.0.10", "store"]);
    assert!(config.policy.is_internal_key(b"fedcba9876543210"));
    let refused = Environment { bind_address: Some("0.0.0.0:1".into()), ..Environment::default() };
    understand(&example(), &refused).unwrap_err();
}

#[test]
fn a_reload_names_what_needs_a_new_start() {
    let old: Raw = daemon::config::parse("storaged.toml", &example()).unwrap();
    let text = example().replace(":8001", ":8002").replace("max_file_bytes = 1000", "max_file_bytes = 5");
    let new: Raw = daemon::config::parse("storaged.toml", &text).unwrap();
    let (policy, later) =
        Config::understand_reload("storaged.toml", &old, &new, &Environment::default(), &mut Keys).unwrap();
    assert_eq!(policy.cohorts[0].max_file_bytes, 5);
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
}

fn understand(text: &str, environment: &Environment) -> Result<Config, ConfigError> {
    let raw: Raw = daemon::config::parse("storaged.toml", text)?;
    Config::understand("storaged.toml", &raw, environment, &mut Keys)
}

fn example() -> String {
    format!(
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

[[edge]]
name = "web1"
cohorts = ["c1"]

[[user]]
name = "ada"
role = "user"
cohorts = ["c1"]
token_sha256 = "{}"

[[cohort]]
name = "c1"
max_file_bytes = 1000
"#,
        Token::from_bytes([1; 32]).digest()
    )
}

#[test]
fn every_key_is_documented() {
    use crate::documented;
    let refusal = |text: &str| daemon::config::parse::<Raw>("x", text).unwrap_err().to_string();
    let mut keys = documented::keys(&refusal("zz = 1\n"), "");
    for (table, text) in [
        ("limits", "[limits]\nzz = 1\n"),
        ("volume", "[[volume]]\nzz = 1\n"),
        ("edge", "[[edge]]\nzz = 1\n"),
        ("cohort", "[[cohort]]\nzz = 1\n"),
        ("user", "[[user]]\nzz = 1\n"),
    ] {
        keys.retain(|key| key != table);
        keys.extend(documented::keys(&refusal(text), &format!("{table}.")));
    }
    documented::compare(documented::table(documented::section("storaged"), "key in"), keys);
}
