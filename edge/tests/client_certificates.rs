//! Clients with certificates: proven in the handshake, passed to storaged as they came.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

#[path = "../../crates/identity/testing/authority.rs"]
mod authority;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering::SeqCst;

use authority::{Authority, Client};
use common::program::{Program, write};
use common::{Fake, signer, token};
use store_proto::{CapabilityClaims, CapabilityMethod, ClientChain, FileId, Proof};
use tokio::process::Command;

fn put_client(program: &Program, name: &str, client: &Client) {
    write(&program.file(&format!("{name}.pem")), &client.pem);
    let key = program.file(&format!("{name}.key"));
    write(&key, &client.key.serialize_pem());
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Whether it ended well, and with which status.
async fn curl(program: &Program, client: Option<&str>, more: &[&str]) -> (bool, String) {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--max-time",
        "20",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-T",
        "/etc/hostname",
    ]);
    curl.arg("--cacert").arg(program.file("chain.pem")).args(more);
    if let Some(name) = client {
        curl.arg("--cert").arg(program.file(&format!("{name}.pem")));
        curl.arg("--key").arg(program.file(&format!("{name}.key")));
    }
    curl.arg(format!("https://{}/v1/cohorts/alpha/files/a.bin", program.public));
    let output = curl.output().await.expect("curl is installed");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn start(fake: &Fake, authority: &Authority, more: &str) -> (Program, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (ca, crl) = (folder.path().join("ca.pem"), folder.path().join("crl.pem"));
    write(&ca, &authority.pem);
    write(&crl, &authority.revoke(&[9], 2090));
    let lines = format!("client_ca_file = {ca:?}\nclient_crl_file = {crl:?}\n{more}");
    (Program::start_tls(fake, &lines).await, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_shown_to_storaged_as_it_came_and_a_token_goes_before_it() {
    let fake = Fake::start().await;
    let authority = Authority::new("ward");
    let (program, _folder) = start(&fake, &authority, "").await;
    let ada = authority.client(&["ada@example.org"], 7, 2090);
    put_client(&program, "ada", &ada);
    let shown = || fake.state.last_context.lock().unwrap().take().unwrap().proof;
    for protocol in ["--http1.1", "--http2"] {
        assert_eq!(curl(&program, Some("ada"), &[protocol]).await, (true, "201".into()));
        assert!(matches!(shown(), Proof::Certificate(chain) if chain.leaf() == ada.der), "{protocol}");
    }
    let header = format!("Authorization: Bearer {}", token().expose());
    assert_eq!(curl(&program, Some("ada"), &["-H", &header]).await, (true, "201".into()));
    assert!(matches!(shown(), Proof::Token(_)));
    assert_eq!(curl(&program, None, &["-H", &header]).await, (true, "201".into()), "one may come without");
    assert_eq!(curl(&program, None, &[]).await, (true, "401".into()));
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_link_storaged_hears_which_certificate_was_proven() {
    let fake = Fake::start().await;
    fake.state.file_size.store(10, SeqCst);
    let authority = Authority::new("ward");
    let (program, _folder) = start(&fake, &authority, "").await;
    let ada = authority.client(&["ada@example.org"], 7, 2090);
    put_client(&program, "ada", &ada);
    let link = signer().sign(CapabilityClaims {
        id: FileId::from_bytes([2; 16]),
        method: CapabilityMethod::Get,
        file_id: FileId::from_bytes([1; 16]),
        expires_s: u64::MAX,
        range: None,
        network: None,
        certificate: None,
    });
    let opened = async |client: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "20", "-o", "/dev/null", "--cacert"]);
        curl.arg(program.file("chain.pem")).args(client.iter().map(|word| match *word {
            "--cert" | "--key" => (*word).into(),
            name => program.file(name).into_os_string(),
        }));
        curl.arg(format!("https://{}/p/{}", program.public, link.expose()));
        assert!(curl.status().await.expect("curl is installed").success());
        let context = fake.state.last_context.lock().unwrap().take().unwrap();
        assert!(matches!(context.proof, Proof::Capability(_)));
        context.certificate
    };
    let thumbprint = ClientChain::new(vec![ada.der.clone()]).unwrap().thumbprint();
    assert_eq!(opened(&["--cert", "ada.pem", "--key", "ada.key"]).await, Some(thumbprint));
    assert_eq!(opened(&[]).await, None);
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_old_or_revoked_certificate_ends_in_the_handshake() {
    let fake = Fake::start().await;
    let authority = Authority::new("ward");
    let (program, _folder) = start(&fake, &authority, "client_certificates = \"required\"\n").await;
    put_client(&program, "foreign", &Authority::new("ward").client(&["ada@example.org"], 7, 2090));
    put_client(&program, "old", &authority.client(&["ada@example.org"], 7, 2025));
    put_client(&program, "revoked", &authority.client(&["ada@example.org"], 9, 2090));
    put_client(&program, "ada", &authority.client(&["ada@example.org"], 7, 2090));
    for bad in [Some("foreign"), Some("old"), Some("revoked"), None] {
        let (well, code) = curl(&program, bad, &[]).await;
        assert!(!well && code == "000", "{bad:?}: {code}");
    }
    assert!(fake.state.last_context.lock().unwrap().is_none(), "storaged was asked");
    assert_eq!(curl(&program, Some("ada"), &[]).await, (true, "201".into()));
    assert_eq!(program.stop().await, 0);
}
