//! `docs/openapi.json` says what edge serves: the same resources, with the same methods, and nothing that is not defined.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;

use edge::plan::{Plan, Policy, plan};
use edge::refusal::Refusal;
use edge::target::Target;
use http::Request;
use serde_json::Value;
use store_proto::{CapabilityClaims, CapabilityMethod, CapabilitySigner, FileId, ProblemKind};

const METHODS: [&str; 7] = ["get", "head", "put", "post", "patch", "delete", "options"];

fn document() -> Value {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A path of the document, with a value for each of its parameters.
fn sample(path: &str) -> String {
    let link = CapabilitySigner::from_seed(&[4; 32]).sign(CapabilityClaims {
        id: FileId::from_bytes([2; 16]),
        method: CapabilityMethod::Get,
        file_id: FileId::from_bytes([1; 16]),
        expires_s: 1,
        range: None,
        network: None,
        certificate: None,
    });
    path.replace("{cohort}", "alpha")
        .replace("{path}", "a.bin")
        .replace("{id}", &"01".repeat(16))
        .replace("{link}", link.expose())
}

fn kind(target: &Target) -> &'static str {
    match target {
        Target::Page => "page",
        Target::Files(_) => "files",
        Target::File(..) => "file",
        Target::Versions(..) => "versions",
        Target::Uploads(_) => "uploads",
        Target::Policy => "policy",
        Target::MyUploads => "my uploads",
        Target::Upload(_) => "upload",
        Target::Stored(_) => "stored",
        Target::Receipt(_) => "receipt",
        Target::Presign(_) => "presign",
        Target::Presigned(_) => "presigned",
        Target::Link(_) => "link",
    }
}

/// As many as `kind` has arms.
const KINDS: usize = 13;

#[test]
fn each_resource_stands_in_the_document_with_the_methods_that_it_serves() {
    let document = document();
    let policy = Policy { max_body_bytes: None, tunnel_up: true, draining: false };
    let mut kinds = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let target = sample(path);
        assert!(kinds.insert(kind(&Target::parse(&target).unwrap())), "{path} stands there twice");
        for method in METHODS {
            let request =
                Request::builder().method(method.to_uppercase().as_str()).uri(&target).header("host", "e");
            let (head, ()) = request.body(()).unwrap().into_parts();
            let refused = plan(&head, None, &policy);
            let served = !matches!(refused, Plan::Refuse(Refusal::Method { .. } | Refusal::NoRoute));
            assert_eq!(served, item.get(method).is_some(), "{method} {path}");
        }
    }
    assert_eq!(kinds.len(), KINDS, "{kinds:?}");
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_can_be_refused() {
    fn walk(value: &Value, document: &Value) {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let place = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(place).is_some(), "{reference}");
        }
        match value {
            Value::Object(all) => all.values().for_each(|value| walk(value, document)),
            Value::Array(all) => all.iter().for_each(|value| walk(value, document)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = document();
    walk(&document, &document);
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(
                names.insert(operation["operationId"].as_str().unwrap()),
                "{method} {path}: a name that is another's"
            );
            assert!(operation["responses"]["default"].is_object(), "{method} {path} has no problem");
        }
    }
    let pattern =
        document["components"]["schemas"]["Problem"]["properties"]["type"]["pattern"].as_str().unwrap();
    assert_eq!(pattern, "^urn:culvert:problem:[a-z-]+$");
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    assert!(ProblemKind::ALL.iter().all(|kind| is_name(kind.name())));
}
