//! Clients with certificates, as an edge passes them on that has looked at nothing.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

#[path = "../../crates/identity/testing/authority.rs"]
mod authority;

use std::path::Path;
use std::sync::Arc;

use authority::Authority;
use http::{Method, StatusCode};
use storaged::ledger::Action;
use storaged::ledger::access::Wish;
use store_proto::{ClientChain, Proof, UserName};
use support::{Asking, Lab};

fn config(text: &str, folder: &Path, authority: &Authority, until: i32) -> String {
    let (ca, crl) = (folder.join("ca.pem"), folder.join("crl.pem"));
    std::fs::write(&ca, &authority.pem).unwrap();
    std::fs::write(&crl, authority.revoke(&[9], until)).unwrap();
    let map = |name: &str, user: &str| format!("[[certificate_map]]\nname = \"{name}\"\nuser = \"{user}\"\n");
    format!(
        "client_ca_file = {ca:?}\nclient_crl_file = {crl:?}\n{text}\n{}{}",
        map("email:ada@example.org", "ada"),
        map("email:vic@example.org", "vic"),
    )
}

async fn start(until: i32) -> (Lab, Authority) {
    let authority = Authority::new("ward");
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let path = folder.path().to_owned();
    let lab = Lab::start_in(folder, None, &|text| config(&text, &path, &authority, until)).await;
    (lab, authority)
}

fn shows<'a>(asking: Asking<'a>, der: &[u8]) -> Asking<'a> {
    asking.with_proof(Proof::Certificate(ClientChain::new(vec![der.to_vec()]).unwrap()))
}

fn listing(lab: &Lab) -> Asking<'_> {
    lab.request(Method::GET, "/internal/v1/cohorts/c1/files")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_stands_for_its_user_with_that_users_rights() {
    let (lab, authority) = start(2090).await;
    let ada = authority.client(&["ada@example.org"], 1, 2090);
    let told = shows(lab.upload("a", "x"), &ada.der).send().await;
    assert_eq!(told.status, StatusCode::CREATED, "{told:?}");
    let record = lab.records().into_iter().rfind(|record| record.action == Action::NasRawCreated);
    assert_eq!(record.unwrap().origin.user.unwrap().as_str(), "ada");
    let vic = authority.client(&["vic@example.org"], 2, 2090);
    assert_eq!(shows(lab.upload("b", "x"), &vic.der).send().await.problem(), "cohort-forbidden");
    assert_eq!(shows(listing(&lab), &vic.der).send().await.status, StatusCode::OK);
    lab.change(Wish::DisableUser { user: UserName::parse("ada").unwrap() }).await;
    assert_eq!(shows(listing(&lab), &ada.der).send().await.problem(), "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_old_revoked_and_unmapped_certificates_are_refused_here_too() {
    let (lab, authority) = start(2090).await;
    for (der, reason) in [
        (Authority::new("ward").client(&["ada@example.org"], 1, 2090).der, "certificate"),
        (authority.client(&["ada@example.org"], 1, 2025).der, "certificate"),
        (b"junk".to_vec(), "certificate"),
        (authority.client(&["ada@example.org"], 9, 2090).der, "certificate_revoked"),
        (authority.client(&["eve@example.org"], 1, 2090).der, "certificate_user"),
        (authority.client(&["ada@example.org", "vic@example.org"], 1, 2090).der, "certificate_user"),
    ] {
        assert_eq!(shows(listing(&lab), &der).send().await.problem(), "unauthenticated", "{reason}");
        assert_eq!(lab.records().pop().unwrap().detail.as_deref(), Some(reason));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_revocations_that_is_too_old_refuses_everybody() {
    let (lab, authority) = start(2025).await;
    let ada = authority.client(&["ada@example.org"], 1, 2090);
    assert_eq!(shows(listing(&lab), &ada.der).send().await.problem(), "unauthenticated");
    assert_eq!(lab.records().pop().unwrap().detail.as_deref(), Some("certificate_revoked"));
}
