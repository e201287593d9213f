//! One suite for every kind of bucket: in memory, a folder, and an S3 server over real HTTP, with signed and unsigned
//! requests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bottomless_devserver::{Config, Server};
use bottomless_store::probe::{self, Proof};
use bottomless_store::{
    Below, Body, Bucket, CreateOutcome, Expected, Location, Replaced, Start, StoreErrorKind, Transport,
};
use object_store::memory::InMemory;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A bucket, and what keeps its store alive.
struct Place {
    name: &'static str,
    bucket: Bucket,
    folder: Option<tempfile::TempDir>,
    server: Option<Server>,
}

fn location(endpoint: &str) -> Location {
    Location::new(endpoint.parse().unwrap(), "libsql").unwrap()
}

async fn places() -> Vec<Place> {
    let transport = Transport::new().unwrap();
    let memory = Bucket::from_object_store(Arc::new(InMemory::new()), location("http://localhost:1"));
    let folder = tempfile::tempdir().unwrap();
    let in_folder = location(&format!("file://{}", folder.path().display()));
    Bucket::create_bucket(&in_folder, &transport).await.unwrap();
    let server = Server::start(Config { address: "127.0.0.1:0".into(), ..Config::default() }).unwrap();
    let on_server = location(server.url());
    Bucket::create_bucket(&on_server, &transport).await.unwrap();
    vec![
        Place { name: "memory", bucket: memory, folder: None, server: None },
        Place {
            name: "folder",
            bucket: Bucket::connect(&in_folder, &transport).await.unwrap(),
            folder: Some(folder),
            server: None,
        },
        Place {
            name: "server",
            bucket: Bucket::connect(&on_server, &transport).await.unwrap(),
            folder: None,
            server: Some(server),
        },
    ]
}

fn memory(text: &str) -> Body {
    Body::Memory(text.to_owned().into())
}

fn file(content: &[u8]) -> Body {
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Body::File { file: Arc::new(file), length: content.len() as u64 }
}

async fn create(bucket: &Bucket, key: &str, body: &Body) -> CreateOutcome {
    bucket.create(key, body, SystemTime::now(), TIMEOUT).await.unwrap()
}

#[tokio::test]
async fn a_key_is_created_once_from_memory_or_from_a_file() {
    // Larger than what is read at a time.
    let large: Vec<u8> = (0..700_001_u32).map(|i| (i % 253) as u8).collect();
    for Place { name, bucket, .. } in places().await {
        for (key, body, content) in [
            ("a db/0000/1.ltx", memory("one"), b"one".to_vec()),
            ("a db/0000/2.ltx", file(&large), large.clone()),
            ("a db/0000/3.ltx", memory(""), Vec::new()),
        ] {
            assert!(matches!(create(&bucket, key, &body).await, CreateOutcome::Created { .. }), "{name} {key}");
            assert_eq!(create(&bucket, key, &body).await, CreateOutcome::Exists, "{name} {key}");
            assert_eq!(create(&bucket, key, &file(b"other")).await, CreateOutcome::Exists, "{name} {key}");
            assert_eq!(bucket.get(key).await.unwrap(), content, "{name} {key}");
        }
    }
}

#[tokio::test]
async fn a_large_object_is_written_in_parts_or_not_at_all() {
    // The least that S3 takes, unless it is the last.
    const PART: u64 = 5 << 20;
    let content: Vec<u8> = (0..2 * PART + 77).map(|i| (i % 253) as u8).collect();
    let short = Body::File { file: Arc::new(tempfile::tempfile().unwrap()), length: 2 * PART };
    for Place { name, bucket, .. } in places().await {
        for body in [file(&content), Body::Memory(content.clone().into())] {
            let before = bucket.counters();
            let created = bucket.create_parts("a db/1.ltx", &body, SystemTime::now(), PART, TIMEOUT).await.unwrap();
            let CreateOutcome::Created { e_tag } = created else { panic!("{name}: {created:?}") };
            let after = bucket.counters();
            assert!(bucket.get("a db/1.ltx").await.unwrap() == content, "{name}");
            let listed = bucket.list("a db", None).await.unwrap().remove(0).e_tag;
            assert!(e_tag.is_none() || e_tag == listed, "{name}: {e_tag:?} {listed:?}");
            // Three parts, and what begins and ends the upload.
            assert!((4..=5).contains(&(after.put - before.put)), "{name}");
            assert_eq!((after.head - before.head, after.delete), (1, before.delete), "{name}");
            assert!(after.bytes_up - before.bytes_up >= content.len() as u64, "{name}");
            bucket.delete("a db/1.ltx").await.unwrap();
        }
        assert!(matches!(create(&bucket, "a db/1.ltx", &memory("another's")).await, CreateOutcome::Created { .. }));
        let late = bucket.create_parts("a db/1.ltx", &file(&content), SystemTime::now(), PART, TIMEOUT).await;
        assert_eq!(late.unwrap(), CreateOutcome::Exists, "{name}");
        assert_eq!(bucket.get("a db/1.ltx").await.unwrap(), "another's", "{name}");
        let error = bucket.create_parts("a db/2.ltx", &short, SystemTime::now(), PART, TIMEOUT).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Disk, "{name}: {error}");
        assert_eq!(bucket.list("a db", None).await.unwrap().len(), 1, "{name}");
    }
}

/// The clock of a folder is that of its file system, which goes in steps: ours is ahead of it.
#[tokio::test]
async fn the_time_is_by_the_clock_of_the_objects() {
    for Place { name, bucket, folder, .. } in places().await {
        if name == "server" {
            // It tells whole seconds.
            continue;
        }
        for round in 0..20 {
            let modified = async |when| {
                let key = format!("db/{round}-{when}");
                create(&bucket, &key, &memory("content")).await;
                bucket.get_end(&key, 1).await.unwrap().1.modified
            };
            let before = modified("before").await;
            let now = bucket.now().await.unwrap();
            let after = modified("after").await;
            assert!(before <= now && now <= after, "{name}: {before:?} {now:?} {after:?}");
        }
        assert_eq!(bucket.list("db", None).await.unwrap().len(), 40);
        if let Some(folder) = folder {
            drop(folder);
            assert_eq!(bucket.now().await, None, "there is no such folder any more");
        }
    }
}

#[tokio::test]
async fn of_simultaneous_creators_one_wins() {
    for Place { name, bucket, .. } in places().await {
        for _ in 0..10 {
            let proof = probe::conditional_create(&bucket, "db", TIMEOUT).await.unwrap();
            assert!(matches!(proof, Proof::Proven), "{name}: {proof:?}");
        }
        assert_eq!(bucket.list("db", None).await.unwrap(), [], "{name}: the probe leaves nothing behind");
    }
}

#[tokio::test]
async fn a_listing_is_in_order_and_begins_where_it_is_told() {
    for Place { name, bucket, .. } in places().await {
        for key in ["db/0001/a", "db/0000/2", "db/0000/10", "db/0000/1", "db-2/0000/1", "db.x", "d/1"] {
            create(&bucket, key, &memory(key)).await;
        }
        let keys = |objects: Vec<bottomless_store::Object>| objects.into_iter().map(|o| o.key).collect::<Vec<_>>();
        let all = keys(bucket.list("db", None).await.unwrap());
        assert_eq!(all, ["db/0000/1", "db/0000/10", "db/0000/2", "db/0001/a"], "{name}");
        let some = keys(bucket.list("db", Some("db/0000/10")).await.unwrap());
        assert_eq!(some, ["db/0000/2", "db/0001/a"], "{name}");
        let first = keys(bucket.list_first("db", Some("db/0000/1"), 2).await.unwrap());
        assert!(first.len() >= 2 && all[1..].starts_with(&first), "{name}: {first:?}");
        let first = keys(bucket.list_first("db", None, 9).await.unwrap());
        assert_eq!(first, all, "{name}");
        let below = async |prefix, from| {
            let Below { folders, objects, next } = bucket.below(prefix, &from).await.unwrap();
            assert_eq!(next, None, "{name}");
            (folders.join(" "), keys(objects).join(" "))
        };
        let pair = |folders: &str, objects: &str| (folders.to_owned(), objects.to_owned());
        assert_eq!(below("", Start::First).await, pair("d db db-2", "db.x"), "{name}");
        assert_eq!(below("", Start::Behind("db-2/z".into())).await, pair("db", "db.x"), "{name}");
        assert_eq!(below("", Start::Behind("db-2".into())).await, pair("db db-2", "db.x"), "{name}");
        assert_eq!(below("db", Start::First).await, pair("0000 0001", ""), "{name}");
        assert_eq!(bucket.list("nothing", None).await.unwrap(), [], "{name}");
    }
}

#[tokio::test]
async fn parts_of_an_object_are_read() {
    for Place { name, bucket, .. } in places().await {
        create(&bucket, "k", &memory("0123456789")).await;
        assert_eq!(bucket.get_range("k", 2..5).await.unwrap(), "234", "{name}");
        assert_eq!(bucket.get_range("k", 8..50).await.unwrap(), "89", "{name}");
        let (end, object) = bucket.get_end("k", 3).await.unwrap();
        assert_eq!((&end[..], object.size), (&b"789"[..], 10), "{name}");
        assert_eq!(bucket.get_end("k", 30).await.unwrap().0, "0123456789", "{name}");
    }
}

#[tokio::test]
async fn an_e_tag_is_the_same_wherever_it_is_told() {
    for Place { name, bucket, .. } in places().await {
        let CreateOutcome::Created { e_tag } = create(&bucket, "db/k", &memory("x")).await else { panic!("{name}") };
        let listed = bucket.list("db", None).await.unwrap().remove(0).e_tag;
        assert_eq!(e_tag, listed, "{name}");
        assert!(e_tag.is_some_and(|tag| !tag.contains('"')), "{name}");
    }
}

#[tokio::test]
async fn a_copy_is_an_object_of_its_own_and_is_made_once() {
    for Place { name, bucket, .. } in places().await {
        create(&bucket, "a db/größe+1", &memory("content")).await;
        create(&bucket, "other", &memory("else")).await;
        let made = bucket.copy("a db/größe+1", "b/copy", TIMEOUT).await.unwrap();
        assert!(matches!(made, CreateOutcome::Created { .. }), "{name}");
        assert_eq!(bucket.copy("other", "b/copy", TIMEOUT).await.unwrap(), CreateOutcome::Exists, "{name}");
        bucket.delete("a db/größe+1").await.unwrap();
        assert_eq!(bucket.get("b/copy").await.unwrap(), "content", "{name}");
        let error = bucket.copy("a db/größe+1", "b/another", TIMEOUT).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::NotFound, "{name}: {error}");
        assert_eq!(bucket.list("b", None).await.unwrap().len(), 1, "{name}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    for Place { name, bucket, .. } in places().await {
        assert_eq!(bucket.get("db/none").await.unwrap_err().kind(), StoreErrorKind::NotFound, "{name}");
        bucket.delete("db/none").await.unwrap();
        create(&bucket, "db/k", &memory("x")).await;
        bucket.delete("db/k").await.unwrap();
        assert_eq!(bucket.get("db/k").await.unwrap_err().kind(), StoreErrorKind::NotFound, "{name}");
    }
}

#[tokio::test]
async fn counters_say_what_went_over_the_wire() {
    for Place { name, bucket, server, .. } in places().await {
        let before = bucket.counters();
        if let Some(server) = &server {
            server.reset_log();
        }
        create(&bucket, "db/1", &memory("four")).await;
        create(&bucket, "db/2", &file(b"eight by")).await;
        bucket.get("db/1").await.unwrap();
        bucket.list("db", None).await.unwrap();
        bucket.delete("db/1").await.unwrap();
        let after = bucket.counters();
        let counted = [
            after.put - before.put,
            after.get - before.get,
            after.list - before.list,
            after.head - before.head,
            after.delete - before.delete,
        ];
        assert_eq!(counted, [2, 1, 1, 0, 1], "{name}");
        assert_eq!(after.bytes_up - before.bytes_up, 12, "{name}");
        if let Some(server) = &server {
            let methods: Vec<String> = server.requests().iter().map(|r| r.method.to_string()).collect();
            assert_eq!(methods, ["PUT", "PUT", "GET", "GET", "DELETE"]);
        }
    }
}

#[tokio::test]
async fn a_missing_bucket_is_named_as_such() {
    let transport = Transport::new().unwrap();
    let server = Server::start(Config { address: "127.0.0.1:0".into(), ..Config::default() }).unwrap();
    let bucket = Bucket::connect(&location(server.url()), &transport).await.unwrap();
    for error in [
        bucket.list("db", None).await.unwrap_err(),
        bucket.create("db/k", &memory("x"), SystemTime::now(), TIMEOUT).await.unwrap_err(),
        bucket.create("db/k", &file(b"x"), SystemTime::now(), TIMEOUT).await.unwrap_err(),
        bucket.replace("db-1", "x".into(), &Expected::ETag("0".repeat(32)), TIMEOUT).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::NoSuchBucket, "{error}");
        assert!(error.to_string().contains("create-bucket"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let there = location(&format!("file://{}", folder.path().display()));
    Bucket::create_bucket(&there, &transport).await.unwrap();
    let bucket = Bucket::connect(&there, &transport).await.unwrap();
    create(&bucket, "db/k", &memory("x")).await;
    // As a share that is not mounted any more.
    std::fs::rename(folder.path().join("libsql"), folder.path().join("away")).unwrap();
    for error in [
        bucket.list("db", None).await.unwrap_err(),
        bucket.get("db/k").await.unwrap_err(),
        bucket.create("db/2", &memory("x"), SystemTime::now(), TIMEOUT).await.unwrap_err(),
        bucket.create("db/2", &file(b"x"), SystemTime::now(), TIMEOUT).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::NoSuchBucket, "{error}");
    }
    assert!(!folder.path().join("libsql").exists(), "nothing is written beside it");
    let nowhere = location(&format!("file://{}/x", folder.path().display()));
    let error = Bucket::connect(&nowhere, &transport).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NoSuchBucket, "{error}");
}

#[tokio::test]
async fn a_service_that_is_not_there_is_unreachable_and_nothing_was_sent() {
    // A port that was free a moment ago, and of which nobody is told.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bucket = Bucket::connect(&location(&format!("http://{free}")), &Transport::new().unwrap()).await.unwrap();
    for body in [memory("x"), file(b"x")] {
        let error = bucket.create("k", &body, SystemTime::now(), TIMEOUT).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unreachable, "{error}");
        assert!(!error.kind().may_have_landed());
    }
    assert_eq!(bucket.list("db", None).await.unwrap_err().kind(), StoreErrorKind::Unreachable);
}

#[tokio::test]
async fn a_service_that_does_not_answer_leaves_the_outcome_open() {
    // Connections are accepted by the kernel, and never answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let bucket = Bucket::connect(&location(&endpoint), &Transport::new().unwrap()).await.unwrap();
    for body in [memory("x"), file(b"x")] {
        let short = Duration::from_millis(200);
        let error = bucket.create("k", &body, SystemTime::now(), short).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Interrupted, "{error}");
        assert!(error.kind().may_have_landed());
    }
}

/// A service that answers its first requests with 503, and none after them.
fn busy_then_silent(refused: usize) -> std::net::SocketAddr {
    use std::io::Read;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for (number, connection) in listener.incoming().enumerate() {
            let mut connection = connection.unwrap();
            if number >= refused {
                silent.push(connection);
                continue;
            }
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                connection.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            let reply = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            connection.write_all(reply).unwrap();
        }
    });
    address
}

/// Whether the tries or the time run out first: the user is told that the service answers 503.
#[tokio::test]
async fn a_service_that_refuses_for_now_is_named_whatever_runs_out_first() {
    let transport = Transport::new().unwrap();
    for (refused, patience) in [(usize::MAX, Duration::from_secs(600)), (1, Duration::from_secs(2))] {
        let address = busy_then_silent(refused);
        let bucket = Bucket::connect(&location(&format!("http://{address}")), &transport).await.unwrap();
        let asked = std::time::Instant::now();
        let error = bucket.clone().with_patience(patience).list("db", None).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Busy, "{error}");
        assert!(error.to_string().contains("503"), "{error}");
        assert!(bucket.given_up("GET", "k", asked, patience).to_string().contains("503"));
        // An answer from before somebody asked is none to them.
        let error = bucket.given_up("GET", "k", std::time::Instant::now(), patience);
        assert_eq!(error.kind(), StoreErrorKind::Interrupted, "{error}");
    }
}

/// Each only if what is there is what is expected; a folder takes no notice of ETags.
#[tokio::test]
async fn an_object_is_replaced_and_deleted_as_the_one_that_it_is() {
    for Place { name, bucket, .. } in places().await {
        let key = "a.db-000000000007";
        let put = async |content: &'static str, expected| match bucket
            .replace(key, content.into(), &expected, TIMEOUT)
            .await
            .unwrap()
        {
            Replaced::Written { e_tag } => e_tag,
            Replaced::Changed => None,
        };
        let is_heeded = !bucket.is_folder();
        if is_heeded {
            assert_eq!(put("nothing", Expected::ETag("0".repeat(32))).await, None, "{name}");
        }
        let first = put("first", Expected::Absent).await.unwrap();
        assert_eq!(put("again", Expected::Absent).await, None, "{name}");
        assert_eq!(bucket.check_replaces(key, TIMEOUT).await.is_ok(), is_heeded, "{name}");
        assert!(put("whatever", Expected::Any).await.is_some(), "{name}");
        let first = put("first", Expected::Any).await.unwrap_or(first);
        let second = put("second", Expected::ETag(first.clone())).await.unwrap();
        assert_eq!(put("third", Expected::ETag(first.clone())).await.is_none(), is_heeded, "{name}");
        if name == "server" {
            assert!(!bucket.delete_once(key, Some(&first), TIMEOUT).await.unwrap(), "{name}");
            assert_eq!(bucket.get(key).await.unwrap(), "second", "{name}");
        }
        assert!(bucket.delete_once(key, Some(&second), TIMEOUT).await.unwrap(), "{name}");
        assert_eq!(bucket.head(key).await.unwrap(), None, "{name}");
        assert!(bucket.delete_once(key, Some(&second), TIMEOUT).await.unwrap(), "{name}: it is gone already");
        assert!(bucket.delete_once(key, None, TIMEOUT).await.unwrap(), "{name}");
    }
}
