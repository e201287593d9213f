//! What `info` and `verify` say of a history.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{Ran, World};

fn txid(number: u64) -> Value {
    json!(format!("{number:016x}"))
}

#[test]
fn info_shows_where_the_database_stands() {
    let world = World::new();
    world.levels();
    world.put_bytes("test.db/notes", vec![1]);
    world.put_bytes("test.db/bottomless.json", br#"{"fence_window_seconds": 90}"#.to_vec());
    world.server.reset_log();
    let json = world.run(&["info", "-d", "test.db", "--json"]).json();
    let requests = world.server.requests();
    assert_eq!(requests.len(), 4, "a listing, two headers and the settings: {requests:?}");

    assert_eq!((&json["txid"], &json["page_size"], &json["pages"]), (&txid(8), &json!(512), &json!(4)));
    assert_eq!(json["database_bytes"], 4 * 512);
    assert_eq!((&json["objects"], &json["foreign_objects"]), (&json!(9), &json!(1)));
    assert_eq!((&json["unmerged_transactions"], &json["fence_window_seconds"]), (&json!(2), &json!(90.0)));
    assert_eq!(json["oldest_restorable"], json!({"txid": txid(2), "timestamp": "1970-01-01T00:00:02Z"}));
    assert!(json["since_last_commit_seconds"].as_f64().unwrap() > 1e9, "the objects of this test are of 1970");
    let levels = json["levels"].as_array().unwrap();
    let short: Vec<_> =
        levels.iter().map(|l| (&l["level"], &l["kind"], &l["objects"], &l["first_txid"], &l["last_txid"])).collect();
    let (log, compacted, snapshot) = (json!("log"), json!("compacted"), json!("snapshot"));
    let [zero, one, two, three, nine] = [0, 1, 2, 3, 9].map(|number| json!(number));
    let t = [txid(0), txid(1), txid(2), txid(3), txid(4), txid(5), txid(6), txid(7), txid(8)];
    assert_eq!(
        short,
        [
            (&zero, &log, &three, &t[6], &t[8]),
            (&one, &compacted, &two, &t[3], &t[6]),
            (&two, &compacted, &one, &t[3], &t[4]),
            (&three, &compacted, &one, &t[3], &t[6]),
            (&nine, &snapshot, &two, &t[1], &t[4]),
        ]
    );
    let sum: u64 = levels.iter().map(|level| level["bytes"].as_u64().unwrap()).sum();
    assert_eq!(json["bytes"], sum);

    let ran = world.run(&["info", "-d", "test.db"]);
    assert_eq!((ran.code(), ran.err()), (Some(0), ""));
    assert!(ran.out().contains("2.00 KiB (4 pages of 512 bytes)"), "{}", ran.out());
    assert!(world.run(&["info", "-d", "none.db"]).failed(1).contains("no database none.db"));
    assert!(world.run(&["info"]).failed(2).contains("-d"));
}

#[test]
fn an_undamaged_history_is_found_so() {
    let world = World::new();
    world.levels();
    let json = world.run(&["verify", "-d", "test.db", "--json"]).json();
    assert_eq!((&json["ok"], &json["problems"], &json["objects"]), (&json!(true), &json!([]), &json!(9)));
    assert_eq!((&json["restored"]["txid"], &json["restored"]["pages"]), (&txid(8), &json!(4)));
    let run = |first, last| json!({"first_txid": txid(first), "last_txid": txid(last)});
    assert_eq!(json["restorable"], json!([run(2, 2), run(4, 4), run(6, 8)]));

    world.server.reset_log();
    let quick = world.run(&["verify", "-d", "test.db", "--json", "--quick"]).json();
    assert_eq!((&quick["ok"], &quick["restored"], &quick["quick"]), (&json!(true), &json!(null), &json!(true)));
    assert_eq!(world.server.requests().len(), 1 + 2 * 9);

    let ran = world.run(&["verify", "-d", "test.db"]);
    assert_eq!((ran.code(), ran.err()), (Some(0), ""), "no progress where there is no terminal");
    assert!(ran.out().contains("0 errors, 0 warnings"), "{}", ran.out());
    assert!(world.run(&["verify", "-d", "none.db"]).failed(1).contains("no database none.db"));
    assert!(world.run(&["verify"]).failed(2).contains("-d"));
}

/// A program that ended with 1, and said this in a line that names this.
#[track_caller]
fn found(ran: &Ran, severity: &str, names: &str, says: &str) {
    assert_eq!(ran.code(), Some(i32::from(severity == "error")), "{}{}", ran.out(), ran.err());
    let start = format!("{severity}: ");
    let mut lines = ran.out().lines().filter(|line| line.starts_with(&start));
    assert!(lines.any(|line| line.contains(names) && line.contains(says) && line.contains("; ")), "{}", ran.out());
}

#[test]
fn what_is_wrong_is_one_line_and_exit_code_1() {
    let key = |level: u8, min: u64, max: u64| format!("test.db/{level:04}/{min:016x}-{max:016x}.ltx");
    let world = World::new();
    world.levels();
    let verify = |more: &[&str]| world.run(&[&["verify", "-d", "test.db"], more].concat());

    let snapshot = key(9, 1, 4);
    let whole = world.bytes(&snapshot);
    let mut flipped = whole.clone();
    flipped[160] ^= 1;
    world.replace_bytes(&snapshot, flipped);
    found(&verify(&[]), "error", &snapshot, "lead around it");
    world.replace_bytes(&snapshot, whole[..whole.len() - 3].to_vec());
    found(&verify(&[]), "error", &snapshot, "lead around it");
    found(&verify(&["--quick"]), "error", &snapshot, "lead around it");
    world.replace_bytes(&snapshot, world.bytes(&key(9, 1, 2)));
    found(&verify(&["--quick"]), "error", &snapshot, "not those of its name");
    world.replace_bytes(&snapshot, whole);

    world.put_bytes("test.db/0000/notes", vec![1]);
    found(&verify(&["--quick"]), "warning", "test.db/0000/notes", "no object of this history");
    world.delete("test.db/0000/notes");

    // Its like was merged long ago, and it says something else.
    let orphan = key(0, 5, 5);
    world.put("test.db", 0, (5, 5), &[7; 512], &[8; 512]);
    found(&verify(&[]), "warning", &orphan, "an orphan");
    world.delete(&orphan);

    let last = world.bytes(&key(0, 8, 8));
    world.delete(&key(0, 8, 8));
    world.put("test.db", 0, (8, 8), &[7; 512], &[8; 512]);
    found(&verify(&["--quick"]), "error", &key(0, 8, 8), "it says that the database had checksum");
    world.replace_bytes(&key(0, 8, 8), last);

    world.delete(&key(0, 7, 7));
    found(&verify(&[]), "error", "no object holds TXIDs 0000000000000007", "bring the objects back");
    let ran = verify(&["--json"]);
    let json: Value = serde_json::from_str(ran.out()).unwrap();
    assert_eq!((&json["ok"], &json["errors"], &json["restored"]), (&json!(false), &json!(1), &json!(null)));
    assert_eq!((&json["problems"][0]["key"], &json["problems"][0]["severity"]), (&json!(null), &json!("error")));
    assert!(world.run(&["info", "-d", "test.db"]).out().contains("TXID 0000000000000008"));
}
