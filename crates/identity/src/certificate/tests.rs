//! Chains that are taken, and those that are not.

use super::*;
use crate::authority::Authority;

/// 2026.
const NOW: u64 = 1_790_000_000;

fn chain(der: &[u8]) -> ClientChain {
    ClientChain::new(vec![der.to_vec()]).unwrap()
}

fn map(rows: &[(&str, &str)]) -> CertificateMap {
    let raw: Vec<RawCertificate> = rows
        .iter()
        .map(|(name, user)| RawCertificate { name: Some((*name).into()), user: Some((*user).into()) })
        .collect();
    CertificateMap::understand(&raw, &mut |key, what| panic!("{key}: {what}"))
}

#[test]
fn an_authoritys_client_has_the_names_in_its_certificate() {
    let authority = Authority::new("ward");
    let authorities = Authorities::parse(&authority.pem, None).unwrap();
    let ada = authority.client(&["ada@example.org"], 7, 2040);
    let names = authorities.verify(&chain(&ada.der), NOW).unwrap();
    assert_eq!(names, ["subject:CN=client 7", "email:ada@example.org"]);
    let map = map(&[("email:ada@example.org", "ada"), ("subject:CN=client 8", "bob")]);
    assert_eq!(map.user(&names).unwrap().as_str(), "ada");
    let bob = authority.client(&[], 8, 2040);
    assert_eq!(map.user(&authorities.verify(&chain(&bob.der), NOW).unwrap()).unwrap().as_str(), "bob");
    let both = authority.client(&["ada@example.org"], 8, 2040);
    let both = authorities.verify(&chain(&both.der), NOW).unwrap();
    assert_eq!(map.user(&both), Err(CertificateError::Nobody), "two users are nobody");
    assert_eq!(map.user(&[]), Err(CertificateError::Nobody));
}

#[test]
fn others_certificates_and_old_ones_are_refused() {
    let (authority, other) = (Authority::new("ward"), Authority::new("ward"));
    let authorities = Authorities::parse(&authority.pem, None).unwrap();
    let verify = |der: &[u8], now_s| authorities.verify(&chain(der), now_s).err();
    let foreign = other.client(&["ada@example.org"], 7, 2040);
    assert_eq!(verify(&foreign.der, NOW), Some(CertificateError::Invalid));
    let old = authority.client(&["ada@example.org"], 7, 2025);
    assert_eq!(verify(&old.der, NOW), Some(CertificateError::Invalid));
    assert_eq!(verify(&old.der, NOW - 100_000_000), None, "it was good once");
    assert_eq!(verify(b"junk", NOW), Some(CertificateError::Invalid));
    let mut altered = authority.client(&["ada@example.org"], 7, 2040).der;
    let at = altered.windows(3).position(|window| window == b"ada").unwrap();
    altered[at] = b'b';
    assert_eq!(verify(&altered, NOW), Some(CertificateError::Invalid));
}

#[test]
fn what_was_revoked_is_refused_and_an_old_list_refuses_everybody() {
    let authority = Authority::new("ward");
    let (ada, bob) = (authority.client(&["ada@x.org"], 7, 2040), authority.client(&["bob@x.org"], 8, 2040));
    let with = |list: &str| Authorities::parse(&authority.pem, Some(list)).unwrap();
    let fresh = with(&authority.revoke(&[7], 2040));
    assert_eq!(fresh.verify(&chain(&ada.der), NOW).err(), Some(CertificateError::Revoked));
    assert!(fresh.verify(&chain(&bob.der), NOW).is_ok());
    let old = with(&authority.revoke(&[], 2025));
    assert_eq!(old.verify(&chain(&bob.der), NOW).err(), Some(CertificateError::Revoked));
    let of_another = with(&Authority::new("other").revoke(&[], 2040));
    assert_eq!(of_another.verify(&chain(&bob.der), NOW).err(), Some(CertificateError::Revoked));
}

#[test]
fn files_without_what_they_should_hold_say_so() {
    let authority = Authority::new("ward");
    assert_eq!(Authorities::parse("", None).err(), Some(AuthoritiesError::Pem("certificate")));
    let no_list = Authorities::parse(&authority.pem, Some(&authority.pem)).unwrap_err();
    assert!(no_list.to_string().contains("X509 CRL"), "{no_list}");
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(Authorities::parse(junk, None), Err(AuthoritiesError::Malformed { number: 1, .. })));
}

#[test]
fn a_mapping_names_its_mistake() {
    for (name, user, expected) in [
        ("ada@example.org", "ada", "certificate_map[0].name: \"ada@example.org\" does not begin"),
        ("email:", "ada", "certificate_map[0].name: \"email:\""),
        ("email:a", "a b", "certificate_map[0].user: a user's name"),
    ] {
        let raw = RawCertificate { name: Some(name.into()), user: Some(user.into()) };
        let mut found = Vec::new();
        CertificateMap::understand(&[raw], &mut |key, what| found.push(format!("{key}: {what}")));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{expected}: {found:?}");
    }
}
