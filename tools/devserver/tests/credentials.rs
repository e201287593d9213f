//! With keys the server checks signatures; without, it takes anything.

#![allow(clippy::unwrap_used)]

mod support;

use bottomless_devserver::{Config, Credentials, Server};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions};
use support::Connection;

fn start(credentials: Option<Credentials>) -> Server {
    Server::start(Config { buckets: vec!["libsql".into()], credentials, ..Config::default() }).unwrap()
}

fn keys() -> Credentials {
    Credentials { access_key: "access".into(), secret_key: "secret".into() }
}

/// A client that signs with these keys, or doesn't sign.
fn client(server: &Server, keys: Option<(&str, &str)>) -> AmazonS3 {
    let builder = AmazonS3Builder::new()
        .with_endpoint(server.url())
        .with_allow_http(true)
        .with_bucket_name("libsql")
        .with_region("us-east-1");
    match keys {
        Some((access, secret)) => builder.with_access_key_id(access).with_secret_access_key(secret),
        None => builder.with_skip_signature(true),
    }
    .build()
    .unwrap()
}

#[tokio::test]
async fn without_keys_everybody_is_let_in() {
    let server = start(None);
    for keys in [None, Some(("anything", "at all"))] {
        let client = client(&server, keys);
        let path = Path::from("a key/with spaces+plus");
        let create = || PutOptions::from(PutMode::Create);
        client.put_opts(&path, "hello".into(), create()).await.unwrap();
        let again = client.put_opts(&path, "hello".into(), create()).await.unwrap_err();
        assert!(matches!(again, object_store::Error::AlreadyExists { .. }), "{again}");
        assert_eq!(client.get(&path).await.unwrap().bytes().await.unwrap(), "hello");
        client.delete(&path).await.unwrap();
    }
}

#[tokio::test]
async fn with_keys_signatures_are_checked() {
    let server = start(Some(keys()));
    let path = Path::from("a key/with spaces+plus");
    let known = client(&server, Some(("access", "secret")));
    known.put(&path, "hello".into()).await.unwrap();
    assert_eq!(known.get(&path).await.unwrap().bytes().await.unwrap(), "hello");
    for keys in [None, Some(("access", "wrong")), Some(("wrong", "secret"))] {
        let error = client(&server, keys).get(&path).await.unwrap_err();
        assert!(matches!(error, object_store::Error::PermissionDenied { .. }), "{keys:?}: {error}");
    }
}

#[test]
fn a_signed_stream_loses_its_framing() {
    let server = start(None);
    let mut c = Connection::open(server.url());
    let headers = [
        (
            "authorization",
            "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00",
        ),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", "5"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
        ("content-encoding", "aws-chunked"),
    ];
    let body = b"5;chunk-signature=00\r\nhello\r\n0;chunk-signature=00\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n";
    let reply = c.call("PUT", "/libsql/k", &headers, body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let object = c.call("GET", "/libsql/k", &[], b"");
    assert_eq!(object.text(), "hello");
    assert!(!object.headers.contains_key("content-encoding"));
}

#[test]
fn a_presigned_address_is_an_address() {
    let server = start(None);
    let mut c = Connection::open(server.url());
    c.call("PUT", "/libsql/k", &[], b"hello");
    let signed = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=k&X-Amz-Date=20200101T000000Z&X-Amz-Expires=1&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
    assert_eq!(c.call("GET", &format!("/libsql/k?{signed}"), &[], b"").text(), "hello");
    let page = c.call("GET", &format!("/libsql?list-type=2&{signed}&prefix=k"), &[], b"");
    assert_eq!(page.elements("Key"), ["k"]);
}
