//! What S3's clients rely on, byte for byte.

#![allow(clippy::unwrap_used)]

mod support;

use bottomless_devserver::{Config, RequestRecord, Server};
use support::{Connection, Reply};

fn start() -> (Server, Connection) {
    let server = Server::start(Config { buckets: vec!["libsql".into()], ..Config::default() }).unwrap();
    let connection = Connection::open(server.url());
    (server, connection)
}

fn put(c: &mut Connection, key: &str, body: &[u8]) -> Reply {
    let reply = c.call("PUT", &format!("/libsql/{key}"), &[], body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
}

fn list(c: &mut Connection, query: &str) -> Reply {
    let reply = c.call("GET", &format!("/libsql?list-type=2&{query}"), &[], b"");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
}

#[test]
fn an_object_is_the_same_from_every_side() {
    let (_server, mut c) = start();
    let metadata = ("x-amz-meta-litestream-timestamp", "2026-01-02T03:04:05.678Z");
    let etag = "\"5d41402abc4b2a76b9719d911017c592\"";
    let reply = c.call("PUT", "/libsql/a/b", &[metadata, ("content-type", "text/x")], b"hello");
    assert_eq!((reply.status, reply.headers["etag"].as_str()), (200, etag));
    for method in ["GET", "HEAD"] {
        let reply = c.call(method, "/libsql/a/b", &[], b"");
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["etag"], etag);
        assert_eq!(reply.headers["content-length"], "5");
        assert_eq!(reply.headers["content-type"], "text/x");
        assert_eq!(reply.headers[metadata.0], metadata.1);
        assert!(reply.headers["last-modified"].ends_with("GMT"));
        assert!(reply.headers["date"].ends_with("GMT"));
        assert_eq!(reply.body, if method == "GET" { &b"hello"[..] } else { b"" });
    }
    let page = list(&mut c, "");
    assert_eq!(page.elements("ETag"), [etag]);
    assert_eq!(page.elements("Size"), ["5"]);
    assert_eq!(page.elements("Key"), ["a/b"]);
}

#[test]
fn ranges() {
    let (_server, mut c) = start();
    put(&mut c, "k", b"0123456789");
    put(&mut c, "empty", b"");
    let mut get = |key: &str, range: &str| {
        let reply = c.call("GET", &format!("/libsql/{key}"), &[("range", range)], b"");
        let content_range = reply.headers.get("content-range").cloned().unwrap_or_default();
        (reply.status, reply.text().to_owned(), content_range)
    };
    let part = |text: &str, range: &str| (206, text.to_owned(), format!("bytes {range}/10"));
    assert_eq!(get("k", "bytes=0-0"), part("0", "0-0"));
    assert_eq!(get("k", "bytes=3-5"), part("345", "3-5"));
    assert_eq!(get("k", "bytes=8-"), part("89", "8-9"));
    assert_eq!(get("k", "bytes=8-99"), part("89", "8-9"));
    assert_eq!(get("k", "bytes=-3"), part("789", "7-9"));
    assert_eq!(get("k", "bytes=-99"), part("0123456789", "0-9"));
    assert_eq!(get("k", "bytes=10-").0, 416);
    assert_eq!(get("empty", "bytes=0-").0, 416);
}

#[test]
fn a_large_object_comes_back_whole() {
    let (server, mut c) = start();
    let content: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    put(&mut c, "large", &content);
    assert!(c.call("GET", "/libsql/large", &[], b"").body == content);
    let sizes: Vec<_> = server.requests().iter().map(|r| (r.bytes_in, r.bytes_out)).collect();
    assert_eq!(sizes, [(12_000_000, 0), (0, 12_000_000)]);
}

#[test]
fn listings_are_in_the_order_of_the_bytes_and_page() {
    let (_server, mut c) = start();
    for key in ["a/b", "a-b", "a", "a%20b", "%C3%A9", "B", "a/c/d", "z/x"] {
        put(&mut c, key, b"x");
    }
    let all = ["B", "a", "a b", "a-b", "a/b", "a/c/d", "z/x", "é"];
    assert_eq!(list(&mut c, "").elements("Key"), all);
    assert_eq!(list(&mut c, "start-after=a-b").elements("Key"), &all[4..]);
    assert_eq!(list(&mut c, "prefix=a%20").elements("Key"), ["a b"]);
    let encoded = list(&mut c, "encoding-type=url").elements("Key");
    assert_eq!((encoded[2].as_str(), encoded[7].as_str()), ("a%20b", "%C3%A9"));

    let page = list(&mut c, "delimiter=/");
    assert_eq!(page.elements("Key"), ["B", "a", "a b", "a-b", "é"]);
    assert_eq!(page.elements("CommonPrefixes"), ["<Prefix>a/</Prefix>", "<Prefix>z/</Prefix>"]);

    let mut keys = Vec::new();
    let mut query = "max-keys=3".to_owned();
    loop {
        let page = list(&mut c, &query);
        keys.extend(page.elements("Key"));
        match page.elements("NextContinuationToken").pop() {
            Some(token) => query = format!("max-keys=3&continuation-token={token}"),
            None => break,
        }
    }
    assert_eq!(keys, all);
}

#[test]
fn what_is_deleted_leaves_nothing_behind() {
    let (_server, mut c) = start();
    put(&mut c, "db/0000/1", b"x");
    put(&mut c, "db/0000/2", b"x");
    put(&mut c, "db/0000", b"a key that is the folder of others");
    assert_eq!(c.call("DELETE", "/libsql/db/0000/1", &[], b"").status, 204);
    assert_eq!(c.call("DELETE", "/libsql/db/0000/1", &[], b"").status, 204);
    let body = b"<Delete><Object><Key>db/0000/2</Key></Object><Object><Key>db/0000</Key></Object></Delete>";
    let reply = c.call("POST", "/libsql?delete", &[], body);
    assert_eq!((reply.status, reply.elements("Deleted").len()), (200, 2));
    for query in ["", "delimiter=/"] {
        let page = list(&mut c, query);
        assert_eq!(page.elements("KeyCount"), ["0"]);
        assert!(!page.text().contains("<CommonPrefixes>"));
    }
    assert_eq!(c.call("GET", "/libsql/db/0000/1", &[], b"").status, 404);
}

#[test]
fn buckets() {
    let (_server, mut c) = start();
    let mut call = |method: &str, target: &str| {
        let body: &[u8] = if method == "PUT" && target.matches('/').count() > 1 { b"x" } else { b"" };
        let reply = c.call(method, target, &[], body);
        let code = reply.elements("Code").pop().unwrap_or_default();
        (reply.status, code)
    };
    let fails = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(call("HEAD", "/none").0, 404);
    assert_eq!(call("GET", "/none?list-type=2"), fails(404, "NoSuchBucket"));
    assert_eq!(call("GET", "/none/k"), fails(404, "NoSuchBucket"));
    assert_eq!(call("PUT", "/none/k"), fails(404, "NoSuchBucket"));
    assert_eq!(call("DELETE", "/none/k"), fails(404, "NoSuchBucket"));
    assert_eq!(call("GET", "/libsql/k"), fails(404, "NoSuchKey"));
    assert_eq!(call("HEAD", "/libsql/k").0, 404);
    assert_eq!(call("PUT", "/new").0, 200);
    assert_eq!(call("PUT", "/new"), fails(409, "BucketAlreadyOwnedByYou"));
    assert_eq!(call("HEAD", "/new").0, 200);
    assert_eq!(call("PUT", "/new/k").0, 200);
    assert_eq!(call("DELETE", "/new"), fails(409, "BucketNotEmpty"));
    assert_eq!(call("DELETE", "/new/k").0, 204);
    assert_eq!(call("DELETE", "/new").0, 204);
    assert_eq!(call("HEAD", "/new").0, 404);
    assert_eq!(c.call("GET", "/", &[], b"").elements("Name"), ["libsql"]);
}

#[test]
fn uploads_in_parts_appear_when_they_are_complete() {
    let (_server, mut c) = start();
    let begun = c.call("POST", "/libsql/k?uploads", &[("x-amz-meta-a", "b")], b"");
    let id = begun.elements("UploadId").remove(0);
    let parts = [vec![1; 5 << 20], vec![2; 10]];
    let mut complete = String::from("<CompleteMultipartUpload>");
    for (number, part) in (1..).zip(&parts) {
        let target = format!("/libsql/k?partNumber={number}&uploadId={id}");
        let etag = c.call("PUT", &target, &[], part).headers["etag"].clone();
        complete += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    complete += "</CompleteMultipartUpload>";
    assert_eq!(list(&mut c, "").elements("KeyCount"), ["0"]);
    let target = format!("/libsql/k?uploadId={id}");
    let condition = [("if-none-match", "*")];
    let done = c.call("POST", &target, &condition, complete.as_bytes());
    assert_eq!(done.status, 200, "{}", done.text());
    let object = c.call("GET", "/libsql/k", &[], b"");
    assert!(object.body == parts.concat());
    assert!(object.headers["etag"].ends_with("-2\""));
    assert_eq!(object.headers["x-amz-meta-a"], "b");
    assert_eq!(c.call("POST", &target, &[], complete.as_bytes()).status, 404);
}

#[test]
fn copies_are_objects_of_their_own() {
    let (_server, mut c) = start();
    c.call("PUT", "/libsql/from", &[("x-amz-meta-a", "b")], b"hello");
    let copied = c.call("PUT", "/libsql/to", &[("x-amz-copy-source", "/libsql/from")], b"");
    assert_eq!(copied.status, 200, "{}", copied.text());
    c.call("DELETE", "/libsql/from", &[], b"");
    let copy = c.call("GET", "/libsql/to", &[], b"");
    assert_eq!((copy.text(), copy.headers["x-amz-meta-a"].as_str()), ("hello", "b"));
}

#[test]
fn damaged_uploads_are_refused() {
    let (_server, mut c) = start();
    for (name, good) in [
        ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
        ("x-amz-checksum-sha256", "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="),
        ("x-amz-checksum-crc32", "NhCmhg=="),
    ] {
        assert_eq!(c.call("PUT", "/libsql/k", &[(name, good)], b"hello").status, 200, "{name}");
        assert_eq!(c.call("DELETE", "/libsql/k", &[], b"").status, 204);
        let bad = c.call("PUT", "/libsql/k", &[(name, good)], b"hellO");
        assert_eq!((bad.status, bad.elements("Code")), (400, vec!["BadDigest".to_owned()]));
        assert_eq!(c.call("HEAD", "/libsql/k", &[], b"").status, 404);
    }
}

#[test]
fn the_log_says_what_was_on_the_wire() {
    let (server, mut c) = start();
    put(&mut c, "a%20b", b"12345");
    server.reset_log();
    c.call("PUT", "/libsql/a%20b", &[("if-none-match", "*")], b"123");
    c.call("HEAD", "/libsql/a%20b", &[], b"");
    c.call("GET", "/libsql/a%20b?x-id=GetObject", &[("range", "bytes=-2")], b"");
    let record = |method: &str, query: &str, status, bytes_in, bytes_out, if_none_match| RequestRecord {
        method: method.into(),
        path: "/libsql/a%20b".into(),
        query: query.into(),
        status: Some(status),
        bytes_in,
        bytes_out,
        if_none_match,
    };
    let mut log = server.requests();
    assert!(log[0].bytes_out > 0, "the error's text");
    log[0].bytes_out = 0;
    assert_eq!(
        log,
        [
            record("PUT", "", 412, 3, 0, true),
            record("HEAD", "", 200, 0, 0, false),
            record("GET", "x-id=GetObject", 206, 0, 2, false),
        ]
    );
}
