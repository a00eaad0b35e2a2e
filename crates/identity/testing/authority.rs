//! A certificate authority for tests, its clients, and its list of revocations.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub(crate) pem: String,
}

/// A client's certificate in DER and PEM, and its key.
#[allow(dead_code, reason = "each test takes what it needs")]
pub(crate) struct Client {
    pub(crate) der: Vec<u8>,
    pub(crate) pem: String,
    pub(crate) key: KeyPair,
}

#[allow(dead_code, reason = "each test takes what it needs")]
impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { params, key, pem }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// For these e-mail addresses, with a serial number, valid until this year.
    pub(crate) fn client(&self, emails: &[&str], serial: u64, until: i32) -> Client {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("client {serial}"));
        params.subject_alt_names =
            emails.iter().map(|email| SanType::Rfc822Name((*email).try_into().unwrap())).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        Client { der: certificate.der().to_vec(), pem: certificate.pem(), key }
    }

    /// For a server at this address.
    pub(crate) fn server(&self, address: std::net::IpAddr) -> Client {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "server");
        params.subject_alt_names = vec![SanType::IpAddress(address)];
        params.subject_alt_names.push(SanType::DnsName("localhost".try_into().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        // As long as those of today's authorities.
        let (now, day) =
            (std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap(), std::time::Duration::from_secs(86_400));
        params.not_before = date_time_ymd(1970, 1, 1) + now - day;
        params.not_after = date_time_ymd(1970, 1, 1) + now + 60 * day;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        Client { der: certificate.der().to_vec(), pem: certificate.pem(), key }
    }

    /// A list of what was revoked, good until this year.
    pub(crate) fn revoke(&self, serials: &[u64], until: i32) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2023, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).unwrap().pem().unwrap()
    }
}
