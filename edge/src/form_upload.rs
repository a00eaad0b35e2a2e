//! `POST /v1/cohorts/{c}/files`: a form's file becomes a file of the store.
//!
//! **Invariant:** storaged is asked twice: whether the cohort is open to the user, before a byte is read, and whether the
//! name may be written, when the form's fields have said which it is.

use std::time::Duration;

use http::Response;
use store_proto::{Permission, PermissionRequest};
use tokio::time::timeout;

use crate::answer::Payload;
use crate::client_body::{ClientBody, Waits};
use crate::form::FormBody;
use crate::plan::{Form, Reception};
use crate::refusal::Refusal;
use crate::store::Asker;
use crate::stream::Inbound;

pub(crate) async fn receive(
    asker: &Asker<'_>,
    form: Form,
    body: ClientBody,
    idle: Duration,
) -> Result<Response<Payload>, Refusal> {
    let Form { cohort, boundary, mut announced, max_bytes } = form;
    asker.permission(&PermissionRequest::List { cohort: cohort.clone() }).await?;
    let opened = timeout(idle, FormBody::open(body, &boundary)).await;
    let (fields, body) = opened.map_err(|_| Refusal::SlowBody { after: idle })??;
    let path = fields.path()?;
    if announced.file_type.is_none() {
        announced.file_type = fields.file_type()?;
    }
    if announced.attributes.is_empty() {
        announced.attributes = fields.attributes()?;
    }
    let location = format!("/v1/cohorts/{cohort}/files/{}", path.to_percent_encoded());
    let reception = Reception::new(cohort, path, announced, max_bytes);
    let reception = match asker.permission(&reception.question()).await? {
        Permission::Upload(permission) => reception.granted(&permission)?,
        Permission::Stored(before) => {
            let body = Inbound::Form(Box::new(body));
            return Ok(asker.came_before(*before, body, Waits::No, &location).await);
        }
        Permission::Download(_) | Permission::List {} => return Err(Refusal::StoreAnswer),
    };
    asker.upload(reception, Inbound::Form(Box::new(body)), &location).await
}
