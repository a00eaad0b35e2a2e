use std::fs::File;
use std::io::{Read, Seek, Write};

use super::*;

struct Echo;

static FOLLOWER_LEFT: tokio::sync::Notify = tokio::sync::Notify::const_new();

impl Handler for Echo {
    fn handle<'a>(
        &'a self,
        _caller: Caller,
        verb: &'a str,
        args: Value,
        descriptors: Vec<OwnedFd>,
        out: &'a mut Replies,
    ) -> BoxFuture<'a, Result<Value, AdminError>> {
        Box::pin(async move {
            match verb {
                "count" => {
                    for number in 0..3 {
                        out.item(json!(number)).await.map_err(|e| AdminError::new("gone", e))?;
                    }
                    Ok(args)
                }
                "follow" => {
                    out.item(args).await.map_err(|e| AdminError::new("gone", e))?;
                    out.flush().await.map_err(|e| AdminError::new("gone", e))?;
                    out.closed().await;
                    FOLLOWER_LEFT.notify_one();
                    Ok(Value::Null)
                }
                "read" => {
                    let mut text = String::new();
                    for descriptor in descriptors {
                        File::from(descriptor)
                            .read_to_string(&mut text)
                            .map_err(|e| AdminError::new("unreadable", e))?;
                    }
                    Ok(json!(text))
                }
                _ => Err(AdminError::unknown_verb(verb)),
            }
        })
    }
}

async fn with_server(test: impl FnOnce(&Path) + Send + 'static) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = linux::unix_listener::bind_unix_listener(&path, 0o600, None).unwrap();
    let server = tokio::spawn(serve(listener, vec![linux::User::current().uid], Arc::new(Echo)));
    tokio::task::spawn_blocking(move || test(&path)).await.unwrap();
    server.abort();
}

use std::path::Path;

#[tokio::test]
async fn a_follower_is_told_at_once_and_its_leaving_is_noticed() {
    with_server(|path| {
        use std::io::{BufRead, BufReader};
        use std::os::unix::net::UnixStream;
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"{\"verb\": \"follow\", \"args\": 7}\n").unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert_eq!(line, "{\"item\":7}\n");
    })
    .await;
    FOLLOWER_LEFT.notified().await;
}

#[tokio::test]
async fn items_come_before_the_result() {
    with_server(|path| {
        let mut items = Vec::new();
        let done = call(path, "count", json!({"a": 1}), &[], |item| items.push(item)).unwrap();
        assert_eq!((items, done), (vec![json!(0), json!(1), json!(2)], json!({"a": 1})));
    })
    .await;
}

#[tokio::test]
async fn files_are_handed_over_open() {
    with_server(|path| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"secret stays in the file").unwrap();
        file.rewind().unwrap();
        let done = call(path, "read", Value::Null, &[file.as_fd(), file.as_fd()], |_| {}).unwrap();
        assert_eq!(done, json!("secret stays in the file"));
    })
    .await;
}

#[tokio::test]
async fn an_unknown_verb_is_refused_by_name() {
    with_server(|path| {
        let error = call(path, "nonsense", Value::Null, &[], |_| {}).unwrap_err();
        assert!(matches!(&error, CallError::Refused(e) if e.code == "unknown-verb"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_malformed_or_oversized_request_ends_the_connection_only() {
    with_server(|path| {
        use std::os::unix::net::UnixStream;
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"{not json\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("malformed"), "{answer}");

        let mut stream = UnixStream::connect(path).unwrap();
        let _ = stream.write_all(&vec![b'x'; MAX_REQUEST_BYTES * 2]);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty());
        call(path, "count", Value::Null, &[], |_| {}).unwrap();
    })
    .await;
}
