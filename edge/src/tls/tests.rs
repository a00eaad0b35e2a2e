use std::io::Write;

use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

/// In the middle of 2026, when all but the named certificates are valid.
const NOW: u64 = 1_782_000_000;

struct Pair {
    folder: TempDir,
}

fn params(until: i32) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["edge.example".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params
}

impl Pair {
    fn made(until: i32) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params(until).self_signed(&key).unwrap();
        Self::of(&certificate.pem(), &key.serialize_pem())
    }

    fn of(chain: &str, key: &str) -> Pair {
        let folder = tempfile::tempdir().unwrap();
        let pair = Pair { folder };
        pair.put("chain.pem", chain, 0o644);
        pair.put("key.pem", key, 0o600);
        pair
    }

    fn put(&self, name: &str, text: &str, mode: u32) {
        let path = self.folder.path().join(name);
        File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn read(&self) -> Result<Tls, String> {
        let open = |name: &str| Named::open(self.folder.path().join(name));
        open("chain.pem")
            .and_then(|chain| Tls::read(chain, open("key.pem")?, None, MinVersion::Tls13, NOW))
            .map_err(|error| error.to_string())
    }

    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let error = self.read().unwrap_err();
        for word in words {
            assert!(error.contains(word), "{word:?} in {error}");
        }
    }
}

#[test]
fn a_pair_that_belongs_together_serves_and_its_end_is_known() {
    let tls = Pair::made(2027).read().unwrap();
    assert_eq!(tls.not_after_s, 1_798_761_600);
    assert_eq!(tls.config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(tls.config.send_tls13_tickets, 0);
}

#[test]
fn a_key_of_another_certificate_is_refused_with_both_files_named() {
    let pair = Pair::of(&Pair::made(2027).text("chain.pem"), &Pair::made(2027).text("key.pem"));
    pair.refused(&["key.pem", "chain.pem", "is not the key of"]);
}

#[test]
fn a_key_that_everyone_can_read_is_refused() {
    let pair = Pair::made(2027);
    pair.put("key.pem", &pair.text("key.pem"), 0o644);
    pair.refused(&["key.pem", "0644", "chmod"]);
}

#[test]
fn a_certificate_outside_its_time_is_refused_with_the_date() {
    Pair::made(2026).refused(&["chain.pem", "certificate 1", "ran out at 2026-01-01"]);
    let key = KeyPair::generate().unwrap();
    let mut late = params(2030);
    late.not_before = date_time_ymd(2029, 1, 1);
    let pair = Pair::of(&late.self_signed(&key).unwrap().pem(), &key.serialize_pem());
    pair.refused(&["valid from 2029-01-01"]);
}

#[test]
fn a_chain_in_the_wrong_order_is_refused_and_the_earliest_end_counts() {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = params(2027);
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "a CA");
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let mut own = params(2029);
    own.distinguished_name.push(rcgen::DnType::CommonName, "an edge");
    let certificate = own.signed_by(&key, &issuer).unwrap();
    let key = key.serialize_pem();
    let (first, second) = (certificate.pem(), ca_certificate.pem());
    let tls = Pair::of(&format!("{first}{second}"), &key).read().unwrap();
    assert_eq!(tls.not_after_s, 1_798_761_600, "the CA's");
    Pair::of(&format!("{second}{first}"), &key).refused(&["certificate 2", "is not the issuer"]);
}

#[test]
fn files_that_hold_something_else_are_named_and_not_quoted() {
    let pair = Pair::made(2027);
    pair.put("chain.pem", "nothing", 0o644);
    pair.refused(&["chain.pem", "no certificate"]);
    let pair = Pair::made(2027);
    pair.put(
        "key.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        0o600,
    );
    pair.refused(&["key.pem", "encrypted"]);
    pair.put("key.pem", "-----BEGIN PRIVATE KEY-----\ns3cr3t!\n-----END PRIVATE KEY-----\n", 0o600);
    let error = pair.read().unwrap_err();
    assert!(error.contains("key.pem") && !error.contains("s3cr3t"), "{error}");
    pair.put("key.pem", &"x".repeat(TLS_FILE_BYTES + 1), 0o600);
    pair.refused(&["key.pem", "larger than"]);
}
