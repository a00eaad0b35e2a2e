//! `POST /v1/cohorts/{c}/files`: a form's file becomes a file of the store.
//!
//! **Invariant:** storaged is asked twice: whether the cohort is open to the user, before a byte is read, and whether the
//! name may be written, when the form's fields have said which it is.

use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use store_proto::{Permission, PermissionRequest};
use tokio::time::timeout;

use crate::answer::Payload;
use crate::form::FormBody;
use crate::plan::{Form, Reception};
use crate::refusal::Refusal;
use crate::store::{Asker, stored_before};
use crate::stream::Inbound;

pub(crate) async fn receive(
    asker: &Asker<'_>,
    form: Form,
    body: Incoming,
    idle: Duration,
) -> Result<Response<Payload>, Refusal> {
    let Form { cohort, boundary, file_type, attributes, key, digest, max_bytes } = form;
    asker.permission(&PermissionRequest::List { cohort: cohort.clone() }).await?;
    let opened = timeout(idle, FormBody::open(body, &boundary)).await;
    let (fields, body) = opened.map_err(|_| Refusal::SlowBody { after: idle })??;
    let path = fields.path()?;
    let file_type = match file_type {
        Some(file_type) => Some(file_type),
        None => fields.file_type()?,
    };
    let attributes = if attributes.is_empty() { fields.attributes()? } else { attributes };
    let question = PermissionRequest::Upload {
        cohort: cohort.clone(),
        path: path.clone(),
        size: None,
        replaces: None,
        file_type: file_type.clone(),
        attributes: attributes.clone(),
        sha256: digest,
        key: key.clone(),
    };
    let location = format!("/v1/cohorts/{cohort}/files/{}", path.to_percent_encoded());
    let permission = match asker.permission(&question).await? {
        Permission::Upload(permission) => permission,
        Permission::Stored(before) => return Ok(stored_before(*before, &location)),
        Permission::Download(_) | Permission::List {} => return Err(Refusal::StoreAnswer),
    };
    let max_bytes = permission.max_bytes.min(max_bytes.unwrap_or(u64::MAX));
    let reception = Reception {
        cohort,
        path,
        file_type,
        attributes,
        key,
        digest,
        replaces: None,
        trailing: false,
        length: None,
        max_bytes,
    };
    asker.upload(reception, Inbound::Form(Box::new(body)), &location).await
}
