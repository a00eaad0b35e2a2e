//! `culvert ls`: a cohort's files, page after page.

use clap::Args;
use http::Method;
use http_body_util::{BodyExt, Empty};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use store_proto::{Attribute, FileMeta, FileType, Listing};

use super::ServerArguments;
use crate::console::{Console, printable};
use crate::failure::Failure;
use crate::http_client::{self, Credential, Moved, expect_success, unless_interrupted, watched};
use crate::limits::PAGE_BYTES_AT_MOST;
use crate::target::RemotePrefix;

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// What to list: COHORT, or COHORT/PREFIX
    #[arg(value_name = "COHORT[/PREFIX]")]
    place: String,
    /// Only files of this type
    #[arg(long, value_name = "TYPE")]
    file_type: Option<FileType>,
    /// Only files with this attribute; several times: with all of them
    #[arg(long = "attribute", value_name = "NAME=VALUE")]
    attributes: Vec<Attribute>,
    #[command(flatten)]
    server: ServerArguments,
}

pub(crate) fn run(arguments: &ListArguments, console: Console) -> Result<(), Failure> {
    let place = RemotePrefix::parse(&arguments.place)?;
    let credential = arguments.server.credential(console)?;
    http_client::runtime()?.block_on(unless_interrupted(list(arguments, &place, &credential, console)))
}

async fn list(
    arguments: &ListArguments,
    place: &RemotePrefix,
    credential: &Credential,
    console: Console,
) -> Result<(), Failure> {
    let mut cursor = None;
    loop {
        let page =
            page(&arguments.server, place, credential, &arguments.narrowed(), cursor.as_deref()).await?;
        // Pages come in the order of paths; the prefix is ours to apply.
        for file in page.files.iter().filter(|file| file.path.as_str().starts_with(&place.prefix)) {
            console.report(file, line)?;
        }
        match page.next_cursor {
            None => return Ok(()),
            // A server that repeats itself would keep us here for ever.
            Some(next) if cursor.as_ref() == Some(&next) => {
                return Err(Failure::failed("the server's listing does not advance"));
            }
            Some(next) => cursor = Some(next),
        }
    }
}

impl ListArguments {
    /// The part of the query that says which files.
    fn narrowed(&self) -> Vec<String> {
        let file_type = self.file_type.iter().map(|file_type| format!("type={file_type}"));
        let attributes = self.attributes.iter().map(|attribute| format!("attribute={attribute}"));
        file_type.chain(attributes).collect()
    }
}

pub(super) async fn page(
    arguments: &ServerArguments,
    place: &RemotePrefix,
    credential: &Credential,
    narrowed: &[String],
    cursor: Option<&str>,
) -> Result<Listing, Failure> {
    let server = &arguments.server();
    let mut resource = format!("{}/v1/cohorts/{}/files", server.base_path, place.cohort);
    let cursor = cursor.map(|cursor| format!("cursor={}", utf8_percent_encode(cursor, NON_ALPHANUMERIC)));
    let query: Vec<&str> = narrowed.iter().chain(&cursor).map(String::as_str).collect();
    if !query.is_empty() {
        resource = format!("{resource}?{}", query.join("&"));
    }
    let request = http_client::request(Method::GET, server, credential, &resource)
        .body(Empty::new().map_err(|never| match never {}))
        .map_err(|error| Failure::failed(format!("make the request: {error}")))?;
    let exchange = async {
        let response = expect_success(http_client::send(server, request).await?).await?;
        http_client::json(response.into_body(), PAGE_BYTES_AT_MOST).await
    };
    watched(exchange, &Moved::default(), arguments.patience(), |_| {}).await
}

fn line(file: &FileMeta) -> String {
    format!("{:>15}  {:<20}  {}", file.size, printable(&file.created_at), file.path)
}
