//! What is to be done with a request: the one place where edge decides.
//!
//! [`plan`] is called with the head alone, answers [`Plan::Ask`], and is called again with what
//! storaged granted. It reads no clock and no socket; the shell (`request`, `stream`) executes what
//! it says and decides nothing. Every refusal that the head alone justifies comes before the
//! question, so that it costs no round trip.

mod reception;
mod resumable;

use http::header::{HOST, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Version};
use percent_encoding::percent_decode_str;
use store_proto::headers::CULVERT_REASON;
use store_proto::limits::MAX_ATTRIBUTES;
use store_proto::{
    Attribute, Capability, Cohort, FileId, FileMeta, FileSelector, FileType, LogicalPath, Permission,
    PermissionRequest, Proof, StoredBefore,
};

use crate::bearer::proof;
use crate::conditional::{if_match_holds, if_none_match_names, if_range_holds};
use crate::dialect::meant_method;
use crate::limits::CURSOR_BYTES;
use crate::page;
use crate::range::{ByteRange, Selection, select};
use crate::refusal::Refusal;
use crate::target::Target;

use reception::{form, key, upload_head};

pub use reception::{Announced, Form, Reception};
pub use resumable::{Addition, Beginning, Stretch};

/// What edge itself has to say about any request at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The largest body, whatever storaged allows; `None`: storaged alone decides.
    pub max_body_bytes: Option<u64>,
    /// Whether storaged is known to be reachable.
    pub tunnel_up: bool,
    /// Whether edge is stopping.
    pub draining: bool,
}

/// What to do.
#[derive(Debug)]
pub enum Plan {
    /// Show the page.
    Page {
        /// The browser has it.
        known: bool,
        /// `HEAD` sends none.
        with_body: bool,
    },
    /// Answer with this and leave the body unread.
    Refuse(Refusal),
    /// Ask storaged, then plan again with its answer.
    Ask(Proof, PermissionRequest),
    /// Have storaged make a link to a file; what it is to be is in the body.
    Presign(Proof, FileId),
    /// Have storaged end a link.
    Unsign(Proof, FileId),
    /// Pass on what a link opens.
    Link(Visit),
    /// Pass a page of the listing on.
    List(Proof, Page),
    /// Pass on what storaged tells in a small answer.
    Show(Proof, Shown),
    /// Have storaged take a file out of the store, with the reason for its records.
    Delete(Proof, FileId, Option<String>),
    /// Say which uploads are taken, and by which methods: nobody has to show anything for that.
    Discover(&'static str),
    /// Have storaged begin an upload that resumes, and bring its first bytes.
    Begin(Proof, Box<Beginning>),
    /// Bring more bytes of one.
    Append(Proof, Addition),
    /// Tell how far it is, in headers.
    Look(Proof, FileId),
    /// Have storaged give it up.
    GiveUp(Proof, FileId),
    /// Read the fields of a form, ask, and stream its file to storaged.
    Form(Proof, Form),
    /// Stream the body to storaged.
    Receive(Reception),
    /// The same request came before: its answer.
    Before(Box<StoredBefore>),
    /// 304: the client has these bytes.
    NotModified(FileMeta),
    /// Stream a file, or a part of it, to the client.
    Send(Transmission),
}

/// A page of a listing.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// Of which cohort.
    pub cohort: Cohort,
    /// storaged's mark of where to go on, opaque here.
    pub cursor: Option<String>,
    /// How many files at most.
    pub limit: Option<u32>,
    /// Only those of this type.
    pub file_type: Option<FileType>,
    /// Only those with all of these.
    pub attributes: Vec<Attribute>,
    /// Only those that arrived on this day or later; storaged reads it.
    pub from: Option<String>,
    /// Only those that arrived on this day or earlier.
    pub to: Option<String>,
}

/// What storaged tells in a small answer of JSON.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// The versions of a name.
    Versions(Cohort, LogicalPath),
    /// The proof that a file was stored.
    Receipt(FileId),
    /// What may be uploaded, and where.
    Policy,
    /// One's uploads that are not finished.
    Uploads,
    /// One of them.
    Upload(FileId),
}

/// Somebody with a link.
#[derive(Debug, PartialEq, Eq)]
pub struct Visit {
    /// The link, which is all that they show.
    pub link: Box<Capability>,
    /// The stretch asked for, as the client says it: storaged reads it.
    pub range: Option<String>,
    /// `HEAD` sends none.
    pub with_body: bool,
}

/// A download that storaged has allowed.
#[derive(Debug)]
pub struct Transmission {
    /// The file.
    pub file: FileMeta,
    /// The stretches asked for; none: all of it.
    pub ranges: Vec<ByteRange>,
    /// `HEAD` sends none.
    pub with_body: bool,
    /// Whether the client wants to hear of no digest, or of the content's too.
    pub digests: Digests,
}

/// Which digests an answer names (RFC 9530 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// `Repr-Digest`: of the file.
    pub file: bool,
    /// `Content-Digest`: of what is sent; only a whole file's is known.
    pub content: bool,
}

/// Decides. `granted` is storaged's answer to an earlier [`Plan::Ask`] of the same head.
pub fn plan(head: &Parts, granted: Option<&Permission>, policy: &Policy) -> Plan {
    decide(head, granted, policy).unwrap_or_else(Plan::Refuse)
}

fn decide(head: &Parts, granted: Option<&Permission>, policy: &Policy) -> Result<Plan, Refusal> {
    host(head)?;
    let target = Target::parse(head.uri.path())?;
    let verb = verb(&target, &meant_method(&head.method, &head.headers))?;
    if let Target::Link(link) = target {
        let range = single(&head.headers, &RANGE, "Range")?.map(str::to_owned);
        standing(policy)?;
        return Ok(Plan::Link(Visit { link, range, with_body: verb == Verb::Get }));
    }
    let version = version(head, &target, verb)?;
    if target == Target::Page {
        // It is the same whether storaged is there or not, and says so then by itself.
        return Ok(Plan::Page { known: page::is_known(&head.headers), with_body: verb == Verb::Get });
    }
    key(&head.headers)?;
    if verb == Verb::Options {
        return Ok(Plan::Discover(allow(&target)));
    }
    // What the head alone refuses comes before the token: it costs nothing, and tells nothing of the store.
    let is_put = matches!((&target, verb), (Target::File(..), Verb::Put));
    let upload = is_put.then(|| upload_head(head, policy)).transpose()?;
    let proof = proof(head)?;
    let plan = match target {
        Target::Link(_) | Target::Page => return Err(Refusal::NoRoute),
        Target::Presign(id) => Plan::Presign(proof, id),
        Target::Presigned(id) => Plan::Unsign(proof, id),
        Target::Files(cohort) if verb == Verb::Post => {
            Plan::Form(proof, form(&head.headers, cohort, policy)?)
        }
        Target::Files(cohort) => Plan::List(proof, listed(cohort, head.uri.query())?),
        Target::Versions(cohort, path) => Plan::Show(proof, Shown::Versions(cohort, path)),
        Target::Receipt(id) => Plan::Show(proof, Shown::Receipt(id)),
        Target::Policy => Plan::Show(proof, Shown::Policy),
        Target::MyUploads => Plan::Show(proof, Shown::Uploads),
        Target::Uploads(cohort) => Plan::Begin(proof, Box::new(resumable::beginning(head, cohort, policy)?)),
        Target::Upload(id) => match verb {
            Verb::Get => Plan::Show(proof, Shown::Upload(id)),
            Verb::Patch => Plan::Append(proof, resumable::addition(head, id, policy)?),
            Verb::Delete => Plan::GiveUp(proof, id),
            Verb::Head | Verb::Put | Verb::Post | Verb::Options => Plan::Look(proof, id),
        },
        Target::Stored(id) if verb == Verb::Delete => {
            let reason = HeaderName::from_static(CULVERT_REASON);
            let reason = single(&head.headers, &reason, "Culvert-Reason")?.map(str::to_owned);
            Plan::Delete(proof, id, reason)
        }
        Target::Stored(file_id) => {
            standing(policy)?;
            return match granted {
                None => Ok(Plan::Ask(proof, PermissionRequest::DownloadFile { file_id })),
                Some(Permission::Download(file)) => download(&head.headers, file, verb),
                Some(Permission::Upload(_) | Permission::Stored(_) | Permission::List {}) => {
                    Err(Refusal::StoreAnswer)
                }
            };
        }
        Target::File(cohort, path) => {
            standing(policy)?;
            let reception =
                |announced| Reception::new(cohort.clone(), path.clone(), announced, policy.max_body_bytes);
            return match (granted, upload) {
                (None, Some(announced)) => Ok(Plan::Ask(proof, reception(announced).question())),
                (None, None) => {
                    let file = match version {
                        None => FileSelector::Path(path),
                        Some(number) => FileSelector::Version { path, number },
                    };
                    Ok(Plan::Ask(proof, PermissionRequest::Download { cohort, file }))
                }
                (Some(Permission::Upload(permission)), Some(announced)) => {
                    reception(announced).granted(permission).map(Plan::Receive)
                }
                (Some(Permission::Stored(before)), Some(_)) => Ok(Plan::Before(before.clone())),
                (Some(Permission::Download(file)), None) => download(&head.headers, file, verb),
                // storaged granted something else than was asked for
                (Some(Permission::Upload(_) | Permission::Stored(_) | Permission::List {}), None)
                | (Some(Permission::Download(_) | Permission::List {}), Some(_)) => Err(Refusal::StoreAnswer),
            };
        }
    };
    standing(policy)?;
    Ok(plan)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Head,
    Put,
    Post,
    Patch,
    Delete,
    Options,
}

/// The methods of a resource, as `Allow` lists them.
fn allow(target: &Target) -> &'static str {
    match target {
        Target::Files(_) => "GET, POST",
        Target::Versions(..) | Target::Receipt(_) | Target::Policy => "GET",
        Target::File(..) => "GET, HEAD, PUT",
        Target::Stored(_) => "DELETE, GET, HEAD",
        Target::Presign(_) => "POST",
        Target::Presigned(_) => "DELETE",
        Target::Link(_) | Target::Page => "GET, HEAD",
        Target::Uploads(_) => "OPTIONS, POST",
        Target::MyUploads => "GET, OPTIONS",
        Target::Upload(_) => "DELETE, GET, HEAD, OPTIONS, PATCH",
    }
}

fn verb(target: &Target, method: &Method) -> Result<Verb, Refusal> {
    let allow = allow(target);
    let verb = match method.as_str() {
        "GET" => Verb::Get,
        "HEAD" => Verb::Head,
        "PUT" => Verb::Put,
        "POST" => Verb::Post,
        "PATCH" => Verb::Patch,
        "DELETE" => Verb::Delete,
        "OPTIONS" => Verb::Options,
        _ => return Err(Refusal::Method { allow }),
    };
    let is_served = allow.split(", ").any(|served| served == method.as_str());
    if is_served { Ok(verb) } else { Err(Refusal::Method { allow }) }
}

/// The query of everything but a listing: a file's version, and nothing else.
fn version(head: &Parts, target: &Target, verb: Verb) -> Result<Option<u32>, Refusal> {
    let query = match (target, head.uri.query()) {
        (Target::Files(_), Some(_)) if verb == Verb::Get => return Ok(None),
        (_, None) => return Ok(None),
        (_, Some(query)) => query,
    };
    if !matches!((target, verb), (Target::File(..), Verb::Get | Verb::Head)) {
        return Err(Refusal::Query("this resource takes none"));
    }
    let number = query.strip_prefix("version=").and_then(|text| text.parse().ok());
    let number = number.filter(|number| *number > 0);
    number.map(Some).ok_or(Refusal::Query("it takes version, a number from 1"))
}

/// RFC 9112 §3.2: exactly one, or two readers of the head may take it for two different requests.
fn host(head: &Parts) -> Result<(), Refusal> {
    let refuse = |rule: &str| Refusal::Header { name: "Host", rule: rule.to_owned() };
    match single(&head.headers, &HOST, "Host")? {
        Some(_) => Ok(()),
        None if head.version <= Version::HTTP_10 => Ok(()),
        // HTTP/2 has it in `:authority` (RFC 9113 §8.3.1).
        None if head.version > Version::HTTP_11 && head.uri.authority().is_some() => Ok(()),
        None => Err(refuse("HTTP/1.1 needs one")),
    }
}

fn standing(policy: &Policy) -> Result<(), Refusal> {
    if policy.draining {
        return Err(Refusal::Draining);
    }
    if !policy.tunnel_up {
        return Err(Refusal::TunnelUnavailable);
    }
    Ok(())
}

/// The value of a header that may stand once.
pub(crate) fn single<'a>(
    headers: &'a HeaderMap,
    key: &HeaderName,
    name: &'static str,
) -> Result<Option<&'a str>, Refusal> {
    let refuse = |rule: &str| Refusal::Header { name, rule: rule.to_owned() };
    let mut values = headers.get_all(key).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refuse("it stands there twice"));
    }
    value.to_str().map(|text| Some(text.trim())).map_err(|_| refuse("it is not printable ASCII"))
}

/// A list header's values as one text; lists may be spread over several fields.
fn list(headers: &HeaderMap, key: &HeaderName) -> Option<String> {
    let values: Vec<_> = headers.get_all(key).iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// RFC 9110 §13.2.2: If-Match, then If-None-Match, then Range with If-Range.
fn download(headers: &HeaderMap, file: &FileMeta, verb: Verb) -> Result<Plan, Refusal> {
    if list(headers, &IF_MATCH).is_some_and(|value| !if_match_holds(&value, &file.etag)) {
        return Err(Refusal::Precondition);
    }
    if list(headers, &IF_NONE_MATCH).is_some_and(|value| if_none_match_names(&value, &file.etag)) {
        return Ok(Plan::NotModified(file.clone()));
    }
    let digests = Digests {
        file: list(headers, &HeaderName::from_static("want-repr-digest"))
            .is_none_or(|list| wants_sha256(&list)),
        content: list(headers, &HeaderName::from_static("want-content-digest"))
            .is_some_and(|list| wants_sha256(&list)),
    };
    let send =
        |ranges, with_body| Ok(Plan::Send(Transmission { file: file.clone(), ranges, with_body, digests }));
    if verb == Verb::Head {
        return send(Vec::new(), false); // a Range is defined for GET alone (§14.2)
    }
    let same = headers.get(IF_RANGE).is_none_or(|v| v.to_str().is_ok_and(|v| if_range_holds(v, &file.etag)));
    let mut ranges = headers.get_all(RANGE).iter();
    let range = match (ranges.next().and_then(|value| value.to_str().ok()), ranges.next()) {
        (Some(value), None) if same => select(value, file.size),
        (Some(_) | None, _) => Selection::Whole,
    };
    match range {
        Selection::Whole => send(Vec::new(), true),
        Selection::Part(range) => send(vec![range], true),
        Selection::Parts(ranges) => send(ranges, true),
        Selection::Unsatisfiable => Err(Refusal::Range { size: file.size }),
    }
}

/// Whether a `Want-…-Digest` names the one algorithm that there is, with a weight (RFC 9530 §4).
fn wants_sha256(list: &str) -> bool {
    list.split(',')
        .filter_map(|member| member.trim().split_once('='))
        .any(|(name, weight)| name.eq_ignore_ascii_case("sha-256") && weight.trim() != "0")
}

fn listed(cohort: Cohort, query: Option<&str>) -> Result<Page, Refusal> {
    let mut page = Page {
        cohort,
        cursor: None,
        limit: None,
        file_type: None,
        attributes: Vec::new(),
        from: None,
        to: None,
    };
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("cursor", value)) if page.cursor.is_none() => {
                // The cursor comes from storaged and goes back as it came: URL-safe characters only.
                if value.is_empty() || value.len() > CURSOR_BYTES || !value.bytes().all(is_cursor_byte) {
                    return Err(Refusal::Query("the cursor is not one of ours"));
                }
                page.cursor = Some(value.to_owned());
            }
            Some(("limit", value)) if page.limit.is_none() => {
                let limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=store_proto::limits::MAX_LIST_LIMIT).contains(limit));
                page.limit = Some(limit.ok_or(Refusal::Query("limit is a number from 1 to 1000"))?);
            }
            Some(("type", value)) if page.file_type.is_none() => {
                let file_type = FileType::parse(value).map_err(|_| Refusal::Query("type is no file type"))?;
                page.file_type = Some(file_type);
            }
            Some(("attribute", value)) if page.attributes.len() < MAX_ATTRIBUTES => {
                // Clients encode the `=` in the value, or not.
                let wanted = percent_decode_str(value).decode_utf8().ok();
                let wanted = wanted.and_then(|text| Attribute::parse(&text).ok());
                page.attributes.push(wanted.ok_or(Refusal::Query("attribute is NAME=VALUE"))?);
            }
            Some((name @ ("from" | "to"), value)) => {
                let place = if name == "from" { &mut page.from } else { &mut page.to };
                let is_day =
                    value.len() == 10 && value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
                if !is_day || place.replace(value.to_owned()).is_some() {
                    return Err(Refusal::Query("from and to are days, as 2026-11-22, once each"));
                }
            }
            Some(_) | None => {
                return Err(Refusal::Query(
                    "it takes cursor, limit, type, from and to, once each, and attribute several times",
                ));
            }
        }
    }
    Ok(page)
}

fn is_cursor_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'%' | b'=')
}

#[cfg(test)]
mod tests;
