//! What must hold for any bytes: one function for each parser of outside bytes.
//!
//! `cargo fuzz run --features libfuzzer TARGET` searches for bytes that break one (it needs a compiler that
//! takes `-Z` flags); `tests/corpora.rs` runs every seed and every former finding as a plain test.
#![forbid(unsafe_code)]

mod spool;
mod storage;

use std::net::SocketAddr;
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime};

use edge::frame_watch::FrameWatch;
use edge::plan::{Plan, Policy, plan};
use hyper::http::request::Parts;
use hyper::http::{HeaderValue, Request};
use identity::{Authorities, IssuerRules, Issuers, Keys};
use store_proto::{
    Capability, CapabilitySigner, ClientChain, ContentDigest, Jwt, LogicalPath, Permission,
    PermissionRequest, RequestContext, Token, UploadPermission,
};
use wg_proto::{Device, DeviceEvent, DeviceUpdate, Endpoint, Output, PeerUpdate};

pub use spool::spool;
pub use storage::{age_file, backup_pieces, log_ahead, sealed_row, sealed_stream};

/// A parser and what must hold for it.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("uapi_set", uapi_set),
    ("tunnel_conf", tunnel_conf),
    ("udp_datagrams", udp_datagrams),
    ("inner_packets", inner_packets),
    ("virtio_packets", virtio_packets),
    ("tunnel_control", tunnel_control),
    ("logical_path", logical_path),
    ("new_upload", new_upload),
    ("request_context", request_context),
    ("capability", capability),
    ("jwt", jwt),
    ("jwks", jwks),
    ("client_certificate", client_certificate),
    ("tunnel_events", tunnel_events),
    ("repr_digest", repr_digest),
    ("byte_range", byte_range),
    ("proxy_header", proxy_header),
    ("h2_frames", h2_frames),
    ("request_target", request_target),
    ("request_head", request_head),
    ("upload_metadata", upload_metadata),
    ("content_disposition", content_disposition),
    ("form_data", form_data),
    ("receipt", receipt),
    ("signed_checkpoint", signed_checkpoint),
    ("merkle_proofs", merkle_proofs),
    ("update_bundle", update_bundle),
    ("sealed_stream", sealed_stream),
    ("sealed_row", sealed_row),
    ("age_file", age_file),
    ("backup_pieces", backup_pieces),
    ("log_ahead", log_ahead),
    ("readiness", readiness),
    ("spool", spool),
];

/// The body of a `set=1` request: what is accepted can be applied, and the answer to `get=1` ends as it must.
pub fn uapi_set(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match wg_proto::uapi::parse_set(text) {
        Ok(update) => {
            let mut device = Device::new();
            device.apply(update, now(), &mut Sink::default());
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
            let epoch = wg_proto::uapi::Epoch { instant: now(), wall };
            let answer = wg_proto::uapi::render_get(&device.state(now()), &epoch);
            assert!(answer.ends_with("errno=0\n\n"), "an answer without an end");
        }
        Err(error) => {
            let answer = wg_proto::uapi::render_set_answer(error.errno);
            assert!(
                answer.starts_with("errno=-") && answer.len() <= 32,
                "stock tools do not understand {answer:?}"
            );
        }
    }
}

/// A token of a provider: nothing that was not signed with its key stands for anybody, at any time.
pub fn jwt(data: &[u8]) {
    // RFC 8037 A.2: a key whose private half everybody has, and which signed none of the seeds.
    const KEY: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(jwt) = Jwt::parse(text) else { return };
    let rules = IssuerRules {
        name: "clinic".into(),
        url: "https://idp.example.org".into(),
        audiences: vec!["culvert".into()],
        algorithms: identity::Algorithm::ALL.to_vec(),
        jwks_file: String::new(),
    };
    let issuers = Issuers::new(vec![rules.with_keys(KEY).expect("the key of the RFC is one")]);
    for now_s in [0, 1_790_000_000, u64::MAX] {
        assert!(issuers.verify(&jwt, now_s).is_err(), "a token without a signature stands for somebody");
    }
}

/// A client's certificate: whatever it says, without an authority's signature it stands for nobody, at any time.
pub fn client_certificate(data: &[u8]) {
    // Of an authority whose key nobody has any more; its clients' certificates are the seeds, a byte of each altered.
    const AUTHORITY: &str = include_str!("../client_authority.pem");
    let authorities = Authorities::parse(AUTHORITY, None).expect("the authority's own certificate is one");
    // Alone, and as what leads to itself.
    for times in [1, 2] {
        let Ok(chain) = ClientChain::new(vec![data.to_vec(); times]) else { return };
        for now_s in [0, 1_790_000_000, u64::MAX / 2] {
            let verified = authorities.verify(&chain, now_s);
            assert!(verified.is_err(), "a certificate that nobody signed stands for somebody");
        }
    }
}

/// A provider's keys: what is refused says nothing of what is in the file.
pub fn jwks(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Keys::parse(text) {
        Ok(keys) => assert!(!keys.is_empty() && keys.len() <= identity::limits::KEYS),
        Err(error) => assert!(error.to_string().len() < 200, "{error}"),
    }
}

/// What a daemon, or somebody in its place, says of its readiness: few conditions, with names that mean nothing in a log.
pub fn readiness(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let conditions = culvert::agent::watch::read(text);
    assert!(conditions.len() <= culvert::agent::watch::CONDITIONS_AT_MOST);
    for name in conditions.keys() {
        assert!((1..=culvert::agent::watch::NAME_AT_MOST).contains(&name.len()), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert!(text.contains(name.as_str()), "{name} was not said");
    }
}

/// A configuration file: what is accepted can be applied; what is refused names the file.
pub fn tunnel_conf(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match wg_proto::conf::parse("wg0.conf", text) {
        Ok(conf) => Device::new().apply(conf.to_update(), now(), &mut Sink::default()),
        Err(errors) => {
            assert!(!errors.0.is_empty(), "a refusal without a reason");
            assert!(errors.to_string().lines().all(|line| line.starts_with("wg0.conf:")), "{errors}");
        }
    }
}

/// Datagrams from anybody: nothing is delivered, and no answer is longer than the question. Handshake messages come a second
/// time with the first MAC, which whoever knows our key can make: only then are they looked at.
pub fn udp_datagrams(data: &[u8]) {
    let mut device = device();
    let from = Endpoint { remote: SocketAddr::from(([192, 0, 2, 7], 7)), local: None };
    for datagram in split(data) {
        for mut datagram in [Some(datagram.to_vec()), with_mac(datagram, &device)].into_iter().flatten() {
            let mut out = Sink::default();
            let length = datagram.len();
            let packet = device.handle_udp(&mut datagram, from, now(), &mut out);
            assert_eq!(packet, None, "an unauthenticated packet came through");
            assert!(out.transmitted <= length, "{length} bytes provoked {}", out.transmitted);
        }
    }
}

/// WireGuard's paper, §5.4.4.
fn with_mac(message: &[u8], device: &Device) -> Option<Vec<u8>> {
    use blake2::digest::consts::U16;
    use blake2::digest::{FixedOutput, KeyInit, Update};
    use blake2::{Blake2s256, Blake2sMac, Digest};
    let (148 | 92) = message.len() else { return None };
    let public = device.state(now()).public_key?;
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(public.as_bytes()).finalize();
    let mut message = message.to_vec();
    let end = message.len() - 32;
    let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(&key).ok()?;
    Update::update(&mut mac, &message[..end]);
    message[end..end + 16].copy_from_slice(&mac.finalize_fixed());
    Some(message)
}

/// Messages of another wgd: what is read is what would be written.
pub fn tunnel_control(data: &[u8]) {
    if let Some(message) = wg_proto::ControlMessage::decode(data) {
        assert_eq!(&message.encode()[..], data);
    }
}

/// Packets from the TUN, which any process on the host can write.
pub fn inner_packets(data: &[u8]) {
    let mut device = device();
    for packet in split(data) {
        let parsed = packet::ip::IpHeader::parse(packet);
        let mut out = Sink::default();
        device.handle_tun(packet, now(), &mut out);
        assert!(parsed.is_ok() || out.transmitted == 0, "a malformed packet was sent on");
    }
}

/// What a TUN device with offloads hands over: a large packet is cut into packets that a device takes, none of which is
/// longer than it said, and which are the same after they were joined and cut again.
pub fn virtio_packets(data: &[u8]) {
    use packet::coalesce::{Coalescer, Joins};
    use packet::split::Split;
    use packet::virtio::VirtioHeader;
    let Ok((header, start)) = VirtioHeader::parse(data) else { return };
    let mut whole = data[start..].to_vec();
    let Ok(mut split) = Split::new(&header, &whole) else {
        if let Some(partial) = header.checksum {
            let length = whole.len();
            let _ = partial.complete(&mut whole);
            assert_eq!(whole.len(), length);
        }
        return;
    };
    if let Ok(again) = Split::new(&header, &whole) {
        device().handle_tun_split(again, now(), &mut Sink::default());
    }
    let (longest, count) = (split.longest(), split.remaining());
    let mut buffer = vec![0; longest];
    let (mut memory, mut places) = (Vec::new(), Vec::new());
    let mut coalescer = Coalescer::new(Joins { tcp: true, udp: true });
    while let Some(length) = split.write_next(&mut buffer) {
        assert!(length <= longest);
        let place = memory.len()..memory.len() + length;
        memory.extend_from_slice(&buffer[..length]);
        places.push(place);
    }
    assert_eq!(places.len(), count);
    for place in &places {
        coalescer.push(&memory, place.clone());
    }
    let before: Vec<Vec<u8>> = places.into_iter().map(|place| memory[place].to_vec()).collect();
    let mut after = Vec::new();
    coalescer.finish(&mut memory, |header, pieces, memory| {
        let joined: Vec<u8> = pieces.iter().flat_map(|place| memory[place.clone()].to_vec()).collect();
        match Split::new(&header, &joined) {
            Err(_) => after.push(joined),
            Ok(mut split) => {
                while let Some(length) = split.write_next(&mut buffer) {
                    after.push(buffer[..length].to_vec());
                }
            }
        }
    });
    assert_eq!(before, after, "joining changed a packet");
}

/// A path in a URL: what is accepted stays beneath its root and survives the round trip.
pub fn logical_path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(path) = LogicalPath::from_percent_encoded(text) else { return };
    assert!(!path.as_str().starts_with('/') && !path.as_str().contains(['\0', '\\']));
    assert!(path.as_str().split('/').all(|segment| !matches!(segment, "" | "." | "..")));
    assert_eq!(LogicalPath::from_percent_encoded(&path.to_percent_encoded()).as_ref(), Ok(&path));
}

/// The metadata of an upload that resumes: no name in it climbs, and it reads as it was written.
pub fn new_upload(data: &[u8]) {
    let Ok(new) = serde_json::from_slice::<store_proto::NewUpload>(data) else { return };
    assert!(new.path.as_str().split('/').all(|segment| !matches!(segment, "" | "." | "..")));
    assert!(!new.path.as_str().contains(['\0', '\\']) && !new.cohort.as_str().contains(['/', '.', '\\']));
    let again = serde_json::to_vec(&new).expect("the protocol's types are JSON");
    assert_eq!(serde_json::from_slice::<store_proto::NewUpload>(&again).ok(), Some(new));
}

/// The context header between edge and storaged.
pub fn request_context(data: &[u8]) {
    if let Ok(context) = RequestContext::decode(data) {
        let again = RequestContext::decode(context.encode().as_bytes());
        assert!(again.is_ok_and(|again| again.encode() == context.encode()), "a context changed on its way");
    }
}

/// A link from anybody: one spelling, and no claims without this store's signature.
pub fn capability(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(capability) = Capability::parse(text) else { return };
    assert_eq!(capability.expose(), text, "a capability has another spelling");
    // The seeds are signed with this key; whoever finds another text that verifies has forged one.
    let key = CapabilitySigner::from_seed(&[7; 32]).key();
    if let Ok(claims) = capability.verify(&key) {
        let again = CapabilitySigner::from_seed(&[7; 32]).sign(claims.clone());
        assert_eq!(again.expose(), text, "claims that do not lead back to their text");
    }
}

/// A datagram between wgd and its listeners.
pub fn tunnel_events(data: &[u8]) {
    if let Ok(message) = tunnel_events::Message::decode(data) {
        assert_eq!(tunnel_events::Message::decode(&message.encode()).ok(), Some(message));
    }
}

/// A `Repr-Digest` header field.
pub fn repr_digest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(digest) = ContentDigest::from_repr_digest(text) {
        assert_eq!(ContentDigest::from_repr_digest(&digest.to_repr_digest()).ok(), Some(digest));
    }
}

/// A PROXY header: an address comes out of it only if it has room for two.
pub fn proxy_header(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<16>() else { return };
    let Ok(head) = edge::proxy_header::Head::parse(head) else { return };
    let Some(own) = rest.get(..head.length()) else { return };
    let source = head.source(own).ok();
    assert!(!matches!(source, Some(Some(_))) || own.len() >= 12, "{source:?} of {} bytes", own.len());
}

/// HTTP/2 frames: the verdict is the same however the bytes are cut.
pub fn h2_frames(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let now = daemon::Clock.now();
    let (mut whole, mut parts) = (FrameWatch::new(now), FrameWatch::new(now));
    let at_once = whole.came(bytes, now);
    let cut_up = bytes.chunks(usize::from(*cut).max(1)).try_for_each(|part| parts.came(part, now));
    assert_eq!(at_once, cut_up);
}

/// A `Range` header field against a size: what is selected lies inside the file.
pub fn byte_range(data: &[u8]) {
    let Some((size, value)) = data.split_first_chunk::<8>() else { return };
    let Ok(value) = std::str::from_utf8(value) else { return };
    let size = u64::from_le_bytes(*size);
    let parts = match edge::range::select(value, size) {
        edge::range::Selection::Part(part) => vec![part],
        edge::range::Selection::Parts(parts) => {
            assert!(parts.len() > 1 && parts.len() <= edge::limits::RANGES, "{} parts", parts.len());
            parts
        }
        edge::range::Selection::Whole | edge::range::Selection::Unsatisfiable => Vec::new(),
    };
    let sum = parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.length()));
    assert!(sum.is_some_and(|sum| sum <= size), "more than the file has");
    for part in parts {
        assert!(part.first() <= part.last() && part.last() < size, "{part:?} of {size}");
    }
}

/// `Upload-Metadata`: what is taken of it is a path that cannot climb; a refusal repeats nothing of it.
pub fn upload_metadata(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(read) = edge::upload_metadata::UploadMetadata::parse(text)
        && let Some(path) = read.path
    {
        assert!(LogicalPath::parse(path.as_str()).is_ok(), "a path that is none");
    }
}

/// A form from anybody, in whatever pieces: what is passed on as the file was in the body.
pub fn form_data(data: &[u8]) {
    let Some((piece, form)) = data.split_first() else { return };
    let pieces = form.chunks(usize::from(*piece).max(1)).map(bytes::Bytes::copy_from_slice);
    let mut body = http_body_util::StreamBody::new(futures_util::stream::iter(
        pieces.map(|piece| Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(piece))),
    ));
    let reading = async {
        let Ok((fields, mut file)) = edge::form::FormBody::open(&mut body, "B").await else { return };
        let _ = fields.path();
        let mut passed = Vec::new();
        while let Some(Ok(frame)) = http_body_util::BodyExt::frame(&mut file).await {
            passed.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        let is_within = passed.is_empty() || form.windows(passed.len()).any(|window| window == passed);
        assert!(is_within, "a file came from nowhere");
    };
    // All pieces are there: nothing is waited for.
    let done = std::pin::pin!(reading).poll(&mut Context::from_waker(Waker::noop()));
    assert!(done.is_ready(), "a form that never ends");
}

/// `Content-Disposition`: a name is no longer than what it was read from.
pub fn content_disposition(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(read) = edge::disposition::Disposition::parse(text) {
        let names = [read.name, read.filename].into_iter().flatten();
        assert!(names.map(|name| name.len()).sum::<usize>() <= text.len(), "a name came from nowhere");
    }
}

/// The path of a request from anybody: what names a file names the same one when it is written anew, and was
/// decoded once.
pub fn request_target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(edge::target::Target::File(cohort, path)) = edge::target::Target::parse(text) {
        let again = format!("/v1/cohorts/{cohort}/files/{}", path.to_percent_encoded());
        let parsed = edge::target::Target::parse(&again);
        assert_eq!(parsed, Ok(edge::target::Target::File(cohort, path.clone())));
        let segments = text.splitn(6, '/').nth(5).map_or(0, |rest| rest.split('/').count());
        assert_eq!(path.as_str().split('/').count(), segments, "an encoded slash became a separator");
    }
}

/// A whole head from anybody: a line of method and target, and a line for each field. Whoever asks shows a token, so that what
/// is decided behind it is reached. What storaged grants is what was asked for, and never more is taken than it and edge allow.
#[expect(clippy::wildcard_enum_match_arm, reason = "the plans that promise nothing here are many")]
pub fn request_head(data: &[u8]) {
    let Some(head) = head(data) else { return };
    let policy = Policy { max_body_bytes: Some(EDGES_LIMIT), tunnel_up: true, draining: false };
    match plan(&head, None, &policy) {
        Plan::Ask(_, PermissionRequest::Upload { size, .. }) => {
            assert!(size.is_none_or(|size| size <= EDGES_LIMIT), "more than edge allows");
            let permission = Permission::Upload(UploadPermission { max_bytes: STORES_LIMIT });
            match plan(&head, Some(&permission), &policy) {
                Plan::Receive(reception) => {
                    assert_eq!((reception.announced.length, reception.max_bytes), (size, STORES_LIMIT));
                    assert!(size.is_none_or(|size| size <= STORES_LIMIT), "more than storaged allows");
                }
                Plan::Refuse(_) => assert!(size.is_some_and(|size| size > STORES_LIMIT), "it fits"),
                other => panic!("an upload became {other:?}"),
            }
        }
        Plan::Begin(_, beginning) => {
            assert!(beginning.new.length.is_none_or(|length| length <= EDGES_LIMIT), "more than edge allows");
        }
        Plan::Append(_, more) => {
            let end = more.offset.checked_add(more.stretch.content_length.unwrap_or(0));
            assert!(end.is_some_and(|end| end <= EDGES_LIMIT), "more than edge allows");
        }
        // A refusal is short whatever it is about: no value is repeated at length.
        Plan::Refuse(refusal) => assert!(refusal.to_string().len() <= 400, "{refusal}"),
        _ => {}
    }
}

const EDGES_LIMIT: u64 = 1 << 30;
const STORES_LIMIT: u64 = 1000;

fn head(data: &[u8]) -> Option<Parts> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let line = lines.next()?;
    let space = line.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::builder().method(&line[..space]).uri(&line[space + 1..]);
    for line in lines.take(edge::limits::HEAD_FIELDS) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], line[colon + 1..].trim_ascii());
    }
    let (mut head, ()) = request.body(()).ok()?.into_parts();
    let token = Token::from_bytes([7; 32]);
    for (name, value) in
        [("host", "edge".to_owned()), ("authorization", format!("Bearer {}", token.expose()))]
    {
        if !head.headers.contains_key(name) {
            head.headers.insert(name, HeaderValue::from_str(&value).ok()?);
        }
    }
    Some(head)
}

/// A receipt from anybody: what parses has one spelling, and proves no other file than its own.
pub fn receipt(data: &[u8]) {
    let Ok(receipt) = ::receipt::Receipt::parse(data) else { return };
    let again = ::receipt::Receipt::parse(receipt.to_json().as_bytes());
    assert_eq!(again.as_ref(), Ok(&receipt), "a receipt changed on its way");
    let report = ::receipt::verify(&receipt, std::io::repeat(0), ::receipt::Trust::SelfContained, |_| {});
    assert!(!report.is_right(), "an endless file was proven");
}

/// A signed note, a checkpoint and a key from anybody: each has one spelling, and a key of ours signed none of them.
pub fn signed_checkpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(note) = ::receipt::Note::parse(text) {
        assert_eq!(note.as_str(), text);
    }
    if let Ok(signed) = ::receipt::SignedCheckpoint::parse(text) {
        let checkpoint = signed.unverified();
        assert!(text.starts_with(&checkpoint.to_text()), "a checkpoint with two spellings");
        if let Ok(signer) = ::receipt::LogSigner::from_seed(&checkpoint.origin, &[0x5a; 32]) {
            assert!(signed.verify(&signer.log_key()).is_err(), "forged");
        }
    }
    if let Ok(key) = ::receipt::LogKey::parse(text) {
        assert_eq!(key.to_string(), text);
    }
}

/// An update from anybody: what our key signed has one spelling, and what it did not sign is none. The name of a boot file, and
/// a version, have one spelling, too.
pub fn update_bundle(data: &[u8]) {
    let signer = ::receipt::LogSigner::from_seed("example.org/culvert", &[7; 32]).expect("a good name");
    let mut rest = data;
    if let Ok(manifest) = appliance::Manifest::read(&mut rest, &signer.log_key()) {
        let head = manifest.sign(&signer).expect("it was signed before");
        assert_eq!(head.as_bytes(), &data[..data.len() - rest.len()], "a bundle with two spellings");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let line = text.lines().next().unwrap_or_default();
    if let Ok(entry) = line.parse::<appliance::Entry>() {
        assert_eq!(entry.to_string(), line);
    }
    // The text alone, as if it were signed: the parser behind the signature.
    if let Ok(note) = signer.sign(text) {
        let bundle = format!("culvert-update-1 {}\n{note}", note.as_str().len());
        if let Ok(manifest) = appliance::Manifest::read(&mut bundle.as_bytes(), &signer.log_key()) {
            assert_eq!(manifest.sign(&signer).expect("it was taken"), bundle);
        }
    }
}

/// Proofs from anybody: they lead nowhere but where the hashes lead.
pub fn merkle_proofs(data: &[u8]) {
    use ::receipt::merkle::{Hash, verify_consistency, verify_inclusion};
    let Some((one, rest)) = data.split_first_chunk::<8>() else { return };
    let Some((two, rest)) = rest.split_first_chunk::<8>() else { return };
    let (one, two) = (u64::from_le_bytes(*one), u64::from_le_bytes(*two));
    let hashes: Vec<Hash> = rest.as_chunks::<32>().0.iter().map(|bytes| Hash::from_bytes(*bytes)).collect();
    let [first, second, path @ ..] = hashes.as_slice() else { return };
    // A head can be right for one path only: the next one must be refused.
    if verify_inclusion(first, one, two, path, second).is_ok() {
        assert!(one < two && verify_inclusion(second, one, two, path, second).is_err() || first == second);
    }
    if verify_consistency(one, first, two, second, path).is_ok() {
        assert!(one <= two, "a tree shrank");
    }
}

/// A configured device with one peer that owns everything.
fn device() -> Device {
    let secret = "private_key=8000000000000000000000000000000000000000000000000000000000000041\n";
    let mut update: DeviceUpdate = wg_proto::uapi::parse_set(secret).unwrap_or_default();
    let mut peer = PeerUpdate::of(wg_proto::PublicKey::from_bytes([9; 32]));
    peer.endpoint = Some(SocketAddr::from(([192, 0, 2, 9], 9)));
    let everything = [ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()];
    peer.allowed_ips = everything.map(wg_proto::AllowedIpChange::Add).to_vec();
    update.peers.push(peer);
    let mut device = Device::new();
    device.apply(update, now(), &mut Sink::default());
    device
}

/// Cuts `data` into pieces, each with its length in the two bytes before it.
fn split(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        data = rest;
        Some(piece)
    })
}

#[expect(clippy::disallowed_methods, reason = "any instant will do, and there is no other way to make one")]
fn now() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now)
}

#[derive(Default)]
struct Sink {
    transmitted: usize,
}

impl Output for Sink {
    fn transmit(&mut self, _to: Endpoint, datagram: &[u8]) {
        self.transmitted += datagram.len();
    }

    fn event(&mut self, _event: DeviceEvent) {}
}
