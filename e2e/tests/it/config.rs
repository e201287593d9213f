//! Configuration: variables, URI parameters, credentials, endpoints.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bottomless_e2e::proxy::Proxy;
use bottomless_e2e::seaweed::{ACCESS_KEY, SECRET_KEY, Seaweed};
use bottomless_e2e::{Host, World, compare};

use crate::commit::commits_once;

#[track_caller]
fn works(world: &World) {
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(v)");
    commits_once(world, &mut session, "INSERT INTO t VALUES(42)");
    world.assert_restores_equal(&mut session);
}

#[track_caller]
fn refuses(world: &World, words: &[&str]) {
    let Err((error, session)) = world.try_open(Host::Newest) else { panic!("{words:?}: must not open") };
    assert_eq!(error.primary(), 14, "{error:?}");
    for word in words {
        assert!(session.stderr().contains(word), "the message must name {word}: {}", session.stderr());
    }
}

#[test]
fn uri_parameters_win_over_variables() {
    let world = World::new("uri");
    let mut broken = World::new("variables");
    broken.set("LIBSQL_BOTTOMLESS_ENDPOINT", "http://127.0.0.1:1");
    broken.set("LIBSQL_BOTTOMLESS_BUCKET", "not-there");
    broken.set("LIBSQL_BOTTOMLESS_DATABASE_ID", "not-this");
    let mut session = broken.host(Host::Python);
    let uri = format!(
        "file:{}?vfs=bottomless&endpoint={}&bucket={}&database_id={}",
        broken.db().display(),
        world.proxy.endpoint(),
        world.bucket.name(),
        world.id()
    );
    session.open(0, &uri).unwrap();
    session.sql("CREATE TABLE t(v)");
    commits_once(&world, &mut session, "INSERT INTO t VALUES(42)");
    compare::assert_same_pages(&broken.db(), &world.restore_elsewhere());
}

#[test]
fn the_database_id_is_the_file_name_unless_it_is_set() {
    let mut world = World::new("id");
    works(&world);
    world.set("LIBSQL_BOTTOMLESS_DATABASE_ID", format!("folder/{}", world.id()));
    let other = world.folder().join("another-name.db");
    let mut session = world.host(Host::Newest);
    session.open(0, &format!("file:{}?vfs=bottomless", other.display())).unwrap();
    session.sql("CREATE TABLE t(v)");
    let keys = world.bucket.list(&format!("folder/{}/0000/", world.id()));
    assert_eq!(keys.len(), 1, "{keys:?}");
}

/// Also by a relative name, from the current folder, as people type it.
#[test]
fn a_relative_name_works() {
    let world = World::new("relative");
    let script = format!(
        ".open 'file:{}?vfs=bottomless'\nCREATE TABLE t(v); INSERT INTO t VALUES(42);\nSELECT v FROM t;\n",
        world.id()
    );
    let output = bottomless_e2e::shell::run(&world, &script);
    assert_eq!(bottomless_e2e::shell::text(&output), "42\n", "{}", bottomless_e2e::shell::errors(&output));
    assert_eq!(world.log(), [1, 2]);
}

#[test]
fn aws_endpoint_variables_are_the_default() {
    for name in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
        let mut world = World::new("awsendpoint");
        world.unset("LIBSQL_BOTTOMLESS_ENDPOINT");
        world.set(name, world.proxy.endpoint());
        if name == "AWS_ENDPOINT_URL_S3" {
            world.set("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
        }
        works(&world);
    }
}

#[test]
fn two_endpoints_in_one_process() {
    let world = World::new("two");
    let second = Proxy::start(Seaweed::shared().address());
    let other = World::with_own_bucket("two");
    let mut session = world.open(Host::Newest);
    let uri = format!(
        "file:{}?vfs=bottomless&endpoint={}&bucket={}",
        other.db().display(),
        second.endpoint(),
        other.bucket.name()
    );
    session.open(1, &uri).unwrap();
    session.sql("CREATE TABLE t(v)");
    session.exec(1, "CREATE TABLE t(v)").unwrap();
    commits_once(&world, &mut session, "INSERT INTO t VALUES('first')");
    second.clear();
    world.proxy.clear();
    session.exec(1, "INSERT INTO t VALUES('second')").unwrap();
    assert_eq!(second.requests().len(), 1, "{:#?}", second.requests());
    assert!(world.proxy.requests().is_empty());
    assert_eq!(other.last(), 2);
    world.assert_restores_equal(&mut session);
    compare::assert_same_pages(&other.db(), &other.restore_elsewhere());
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (name, value) in [
        ("TIMEOUT", "soon"),
        ("TIMEOUT", "-1"),
        ("LAYOUT", "papyrus"),
        ("FENCING", "perhaps"),
        ("ENDPOINT", "localhost"),
        ("ENDPOINT", "ftp://localhost"),
    ] {
        let mut world = World::new("nonsense");
        world.set(&format!("LIBSQL_BOTTOMLESS_{name}"), value);
        refuses(&world, &[name, value]);
    }
}

/// The profile's keys work, and nothing waits for a metadata service.
#[test]
fn credentials_come_from_a_profile() {
    let mut world = World::new("profile");
    world.unset("AWS_ACCESS_KEY_ID");
    world.unset("AWS_SECRET_ACCESS_KEY");
    world.unset("AWS_REGION");
    let aws = world.folder().join("home/.aws");
    std::fs::create_dir(&aws).unwrap();
    let credentials = format!(
        "[default]\naws_access_key_id = wrong\naws_secret_access_key = wrong\n\n[work]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    );
    std::fs::write(aws.join("credentials"), credentials).unwrap();
    std::fs::write(aws.join("config"), "[profile work]\nregion = eu-central-1\n").unwrap();
    assert!(world.try_open(Host::Newest).is_err(), "the default profile is wrong");
    world.set("AWS_PROFILE", "work");
    let started = Instant::now();
    works(&world);
    assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
    let signed = world.proxy.requests();
    let scope = signed.last().and_then(|r| r.headers.get("authorization").cloned()).unwrap();
    assert!(scope.contains("/eu-central-1/s3/"), "the profile's region: {scope}");
}

/// A service on this machine that answers every request so; what it was asked.
fn service(body: &'static str) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, asked) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut from = BufReader::new(connection.try_clone().unwrap());
            let mut text = String::new();
            while !text.ends_with("\r\n\r\n") && from.read_line(&mut text).unwrap() > 0 {}
            let length = text
                .to_lowercase()
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| rest.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0));
            let mut request_body = vec![0; length];
            from.read_exact(&mut request_body).unwrap();
            text.push_str(&String::from_utf8_lossy(&request_body));
            let _ = sender.send(text);
            write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
                .unwrap();
        }
    });
    (address, asked)
}

/// The request to the store was signed with these temporary credentials. SeaweedFS didn't issue them and refuses.
#[track_caller]
fn signs_with(world: &World, access_key: &str, token: &str) {
    let Err((_, session)) = world.try_open(Host::Newest) else { panic!("not the server's own credentials") };
    let requests = world.proxy.requests();
    let first = requests.first().unwrap_or_else(|| panic!("no request: {}", session.stderr()));
    let header = |name: &str| first.headers.get(name).cloned().unwrap_or_default();
    assert!(header("authorization").contains(&format!("Credential={access_key}/")), "{first:?}");
    assert_eq!(header("x-amz-security-token"), token);
}

/// As in a container: a local service hands them out.
#[test]
fn credentials_come_from_a_container_service() {
    let mut world = World::new("container");
    world.unset("AWS_ACCESS_KEY_ID");
    world.unset("AWS_SECRET_ACCESS_KEY");
    let (address, asked) = service(
        r#"{"AccessKeyId":"from-the-container","SecretAccessKey":"secret","Token":"session","Expiration":"2099-01-01T00:00:00Z"}"#,
    );
    world.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{address}/credentials"));
    world.set("AWS_CONTAINER_AUTHORIZATION_TOKEN", "the-token");
    signs_with(&world, "from-the-container", "session");
    assert!(asked.recv().unwrap().contains("the-token"));
}

/// As in Kubernetes: a token in a file is exchanged for them.
#[test]
fn credentials_come_from_a_web_identity() {
    let mut world = World::new("identity");
    world.unset("AWS_ACCESS_KEY_ID");
    world.unset("AWS_SECRET_ACCESS_KEY");
    let (address, asked) = service(
        r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>from-the-identity</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>session</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"#,
    );
    let token = world.folder().join("token");
    std::fs::write(&token, "the-web-token").unwrap();
    world.set("AWS_WEB_IDENTITY_TOKEN_FILE", token.display());
    world.set("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/writer");
    world.set("AWS_ENDPOINT_URL_STS", format!("http://{address}"));
    signs_with(&world, "from-the-identity", "session");
    assert!(asked.recv().unwrap().contains("WebIdentityToken=the-web-token"));
}

/// `file:///dir` keeps buckets as folders: the same promises without a server.
#[test]
fn a_folder_is_an_endpoint() {
    for mode in ["DELETE", "WAL"] {
        let mut world = World::new("folder");
        let store = world.folder().join("store");
        std::fs::create_dir_all(store.join("buck")).unwrap();
        world.set("LIBSQL_BOTTOMLESS_ENDPOINT", format!("file://{}", store.display()));
        world.set("LIBSQL_BOTTOMLESS_BUCKET", "buck");
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"] {
            world.unset(name);
        }
        let log = store.join("buck").join(world.id()).join("0000");
        let count = || std::fs::read_dir(&log).map_or(0, Iterator::count);
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v)"));
        for n in 0..5 {
            let before = count();
            session.sql(&format!("INSERT INTO t VALUES({n}), (randomblob(10000))"));
            assert_eq!(count(), before + 1, "{mode}");
        }
        // Another machine on the same file system is fenced as with S3.
        let folder = world.folder().join("b");
        std::fs::create_dir(&folder).unwrap();
        let mut b = world.host(Host::Newest);
        b.open(0, &format!("file:{}?vfs=bottomless", folder.join(world.id()).display())).unwrap();
        assert_eq!(b.number("SELECT count(*) FROM t"), 10);
        session.sql("INSERT INTO t VALUES('a')");
        b.sql_fails("INSERT INTO t VALUES('b')");
        session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        compare::assert_same_pages(&world.db(), &world.restore_elsewhere());
        assert!(world.proxy.requests().is_empty());
    }
}

/// A typing error in a name must not silently become the default.
#[test]
fn a_misspelled_variable_is_refused() {
    let mut world = World::new("typo");
    world.set("LIBSQL_BOTTOMLESS_BUCKETT", "mine");
    refuses(&world, &["LIBSQL_BOTTOMLESS_BUCKETT"]);
}

#[test]
fn without_a_uri_the_default_vfs_can_be_ours() {
    let mut world = World::new("default");
    world.set("LIBSQL_BOTTOMLESS_DEFAULT_VFS", "on");
    let mut session = world.host(Host::Python);
    session.open(0, &format!("file:{}", world.db().display())).unwrap();
    session.sql("CREATE TABLE t(v)");
    commits_once(&world, &mut session, "INSERT INTO t VALUES(42)");
    world.assert_restores_equal(&mut session);
}

#[test]
fn without_default_vfs_other_databases_are_left_alone() {
    let world = World::new("alone");
    let mut session = world.host(Host::Python);
    session.open(0, &format!("file:{}", world.db().display())).unwrap();
    session.sql("CREATE TABLE t(v); INSERT INTO t VALUES(42)");
    assert!(world.proxy.requests().is_empty());
    assert!(!world.beside("bottomless").exists());
}
