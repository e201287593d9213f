//! The program, as a shell sees it.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use serde_json::json;
use support::World;

#[test]
fn ls_shows_the_databases_of_the_bucket() {
    let world = World::new();
    assert_eq!(world.run(&["ls", "--json"]).json()["databases"], json!([]));
    let states = world.three_transactions();
    world.put("team/a b.db", 0, (1, 1), &[], &states[0]);
    world.put_bytes("photos/2026/cat.jpg", vec![1]);
    world.put_bytes("test.db/notes", vec![1]);
    world.put_bytes("empty/0000/no-object-of-ours", vec![1]);

    let json = world.run(&["ls", "--json"]).json();
    assert_eq!((&json["endpoint"], &json["bucket"]), (&json!(world.server.url()), &json!("libsql")));
    let databases = json["databases"].as_array().unwrap();
    let short: Vec<_> = databases.iter().map(|d| (&d["database"], &d["last_txid"], &d["objects"])).collect();
    assert_eq!(
        short,
        [
            (&json!("team/a b.db"), &json!("0000000000000001"), &json!(1)),
            (&json!("test.db"), &json!("0000000000000003"), &json!(4)),
        ]
    );

    let ran = world.run(&["ls"]);
    assert_eq!((ran.code(), ran.err()), (Some(0), ""));
    assert_eq!(ran.out().lines().count(), 3);
}

#[test]
fn ls_shows_the_objects_of_a_database() {
    let world = World::new();
    world.three_transactions();
    world.put_bytes("test.db/notes", vec![1]);
    let json = world.run(&["ls", "--json", "-d", "test.db"]).json();
    assert_eq!((&json["last_txid"], &json["foreign_objects"]), (&json!("0000000000000003"), &json!(1)));
    let objects = json["objects"].as_array().unwrap();
    let short: Vec<_> = objects.iter().map(|o| (&o["kind"], &o["min_txid"], &o["max_txid"])).collect();
    let [one, two, three] = [1, 2, 3].map(|txid| json!(format!("{txid:016x}")));
    let (log, snapshot) = (json!("log"), json!("snapshot"));
    assert_eq!(short, [(&log, &one, &one), (&log, &two, &two), (&log, &three, &three), (&snapshot, &one, &two)]);
    assert!(objects.iter().all(|o| o["bytes"].as_u64() > Some(100) && o["etag"].is_string()));

    assert!(world.run(&["ls", "-d", "other.db"]).failed(1).contains("no database other.db"));
}

#[test]
fn restore_writes_the_database() {
    let world = World::new();
    let states = world.three_transactions();
    let file = world.path("out.db");
    let output = file.to_str().unwrap();
    let ran = world.run(&["restore", "-d", "test.db", "-o", output, "--json"]);
    let json = ran.json();
    assert_eq!(ran.err(), "", "no progress where there is no terminal");
    assert!(fs::read(&file).unwrap() == states[2]);
    assert_eq!(
        (&json["txid"], &json["pages"], &json["page_size"], &json["file"]),
        (&json!("0000000000000003"), &json!(2), &json!(512), &json!(output))
    );
    let plain = world.path("plain");
    fs::write(&plain, "").unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&file), mode(&plain));

    for (txid, state) in (1..).zip(&states) {
        let name = format!("{txid}.db");
        let output = world.path(&name);
        let txid = format!("{txid:016x}");
        let ran = world.run(&["restore", "-d", "test.db", "--txid", &txid, "-o", output.to_str().unwrap()]);
        assert_eq!(ran.code(), Some(0), "{}", ran.err());
        assert!(fs::read(&output).unwrap() == *state);
    }
}

#[test]
fn restore_goes_back_to_a_time() {
    let world = World::new();
    let states = world.three_transactions();
    let restore = |database: &str, more: &[&str]| {
        let _ = fs::remove_file(world.path("out.db"));
        let output = world.path("out.db");
        world.run(&[&["restore", "-d", database, "-o", output.to_str().unwrap()], more].concat())
    };
    for (time, txid) in [
        ("1970-01-01T00:00:01Z", 1),
        ("1970-01-01T01:00:01.999+01:00", 1),
        ("1970-01-01 00:00:02Z", 2),
        ("10 minutes ago", 3),
        ("2100-01-01T00:00:00Z", 3),
    ] {
        let json = restore("test.db", &["--json", "--timestamp", time]).json();
        assert_eq!(json["txid"], format!("{txid:016x}"), "{time}");
        assert_eq!(json["timestamp"], format!("1970-01-01T00:00:0{txid}Z"), "{time}");
        assert!(fs::read(world.path("out.db")).unwrap() == states[txid - 1], "{time}");
    }
    let ran = restore("test.db", &["--timestamp", "1970-01-01T00:00:02Z"]);
    assert!(ran.out().contains("TXID 0000000000000002 of 1970-01-01T00:00:02Z"), "{}", ran.out());
    assert!(
        restore("test.db", &["--timestamp", "1970-01-01T00:00:00Z"])
            .failed(1)
            .contains("begins with TXID 0000000000000001")
    );
    for wrong in ["1970-01-01T00:00:02", "yesterday", "10 minutes", ""] {
        assert!(restore("test.db", &["--timestamp", wrong]).failed(2).contains("--timestamp"), "{wrong}");
    }
    let both = &["--timestamp", "1970-01-01T00:00:02Z", "--txid", "0000000000000002"];
    assert!(restore("test.db", both).failed(2).contains("cannot be used with"));

    // Of the first three only the last is left.
    world.put("merged.db", 9, (1, 3), &[], &states[2]);
    world.put("merged.db", 1, (4, 6), &states[2], &states[1]);
    for more in [["--timestamp", "1970-01-01T00:00:05Z"], ["--txid", "0000000000000005"]] {
        let ran = restore("merged.db", &more);
        let message = ran.failed(1);
        for part in
            ["TXID 0000000000000003 of 1970-01-01T00:00:03.000Z", "TXID 0000000000000006 of 1970-01-01T00:00:06.000Z"]
        {
            assert!(message.contains(part), "{message}");
        }
        assert!(!world.path("out.db").exists());
    }
    for more in [["--timestamp", "1970-01-01T00:00:02Z"], ["--txid", "0000000000000002"]] {
        let ran = restore("merged.db", &more);
        let oldest = "the oldest point that is kept is TXID 0000000000000003 of 1970-01-01T00:00:03.000Z";
        assert!(ran.failed(1).contains(oldest), "{}", ran.err());
    }
}

#[test]
fn restore_replaces_only_when_told() {
    let world = World::new();
    let states = world.three_transactions();
    let file = world.path("out.db");
    let output = file.to_str().unwrap();
    fs::write(&file, "precious").unwrap();
    let wal = world.path("out.db-wal");
    fs::write(&wal, "of the old one").unwrap();
    world.server.reset_log();
    let message = world.run(&["restore", "-d", "test.db", "-o", output]);
    assert!(message.failed(1).contains("--force"));
    assert_eq!(world.server.requests(), [], "refused before anything is downloaded");
    assert_eq!(fs::read(&file).unwrap(), b"precious");

    let ran = world.run(&["restore", "-d", "test.db", "-o", output, "--force"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.err());
    assert!(fs::read(&file).unwrap() == states[2]);
    assert!(!wal.exists(), "SQLite would replay it onto the restored file");
}

#[test]
fn a_restore_that_fails_leaves_nothing() {
    let world = World::new();
    world.three_transactions();
    world.put_bytes("test.db/0000/0000000000000004-0000000000000004.ltx", vec![b'x'; 300]);
    let file = world.path("out.db");
    let restore = |more: &[&str]| world.run(&[&["restore", "-o", file.to_str().unwrap()], more].concat());
    assert!(restore(&["-d", "test.db"]).failed(1).contains("0000000000000004"));
    assert!(restore(&["-d", "none.db"]).failed(1).contains("no database none.db"));
    assert!(restore(&["-d", "test.db", "--txid", "00000000000000ff"]).failed(1).contains("ends with TXID"));
    assert!(restore(&[]).failed(2).contains("-d"));
    let left: Vec<_> = fs::read_dir(world.folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn create_bucket_makes_a_missing_bucket_and_is_content_with_one() {
    let world = World::with(&[], None);
    assert!(world.run(&["ls"]).failed(1).contains("create-bucket"));
    for _ in 0..2 {
        let json = world.run(&["create-bucket", "--json"]).json();
        assert_eq!(json, json!({"endpoint": world.server.url(), "bucket": "libsql"}));
    }
    assert_eq!(world.run(&["ls", "--json"]).json()["databases"], json!([]));
}

#[test]
fn a_folder_is_a_store_too() {
    let world = World::new();
    let endpoint = format!("file://{}", world.folder.path().display());
    assert_eq!(world.run(&["create-bucket", "-e", &endpoint]).code(), Some(0));
    assert!(world.path("libsql").is_dir());
    assert_eq!(world.run(&["ls", "--json", "-e", &endpoint]).json()["databases"], json!([]));
    assert_eq!(world.run(&["doctor", "--json", "-e", &endpoint]).json()["healthy"], true);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let world = World::new();
    for arguments in [&[][..], &["lsd"], &["ls", "-e", "nonsense"], &["ls", "-b", "a/b"], &["ls", "-d", "/"]] {
        let ran = world.run(arguments);
        assert!(!ran.failed(2).is_empty(), "{arguments:?}");
    }
    assert_eq!(world.run(&["--help"]).code(), Some(0));
}

#[test]
fn nobody_reading_is_no_panic() {
    let world = World::new();
    world.three_transactions();
    for arguments in [&["ls"][..], &["ls", "--json", "-d", "test.db"], &["--help"], &["doctor"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = world.command(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = world.command(&["ls", "-d", "none"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn shells_complete_and_man_shows() {
    let world = World::new();
    for (shell, has) in
        [("bash", "complete -F"), ("fish", "complete -c bottomless-cli"), ("zsh", "#compdef bottomless-cli")]
    {
        let ran = world.run(&["completions", shell]);
        assert_eq!((ran.code(), ran.err()), (Some(0), ""));
        assert!(ran.out().contains(has) && ran.out().contains("create-bucket"), "{shell}");
    }
    assert!(world.run(&["completions", "dos"]).failed(2).contains("possible values"));
    // The shell itself takes it, and completes.
    let script = world.path("completions");
    fs::write(&script, world.run(&["completions", "bash"]).out()).unwrap();
    let complete = "source \"$0\"; COMP_WORDS=(bottomless-cli ver); COMP_CWORD=1; \
                    $(complete -p bottomless-cli | sed 's/.* -F \\([^ ]*\\) .*/\\1/') bottomless-cli ver bottomless-cli; \
                    echo \"${COMPREPLY[@]}\"";
    let completed = std::process::Command::new("bash").args(["-c", complete]).arg(&script).output().unwrap();
    assert_eq!(String::from_utf8(completed.stdout).unwrap(), "verify\n");

    let page = world.run(&["man"]);
    assert_eq!((page.code(), page.err()), (Some(0), ""));
    assert!(page.out().contains(".TH bottomless-cli 1") && page.out().contains("LIBSQL_BOTTOMLESS_ENDPOINT"));
    let folder = world.path("man/man1");
    assert_eq!(world.run(&["man", "--out", folder.to_str().unwrap()]).code(), Some(0));
    for name in ["bottomless-cli.1", "bottomless-cli-restore.1", "bottomless-cli-create-bucket.1"] {
        assert!(fs::read_to_string(folder.join(name)).unwrap().starts_with(".ie"), "{name}");
    }
    fs::write(world.path("file"), "").unwrap();
    let ran = world.run(&["man", "--out", world.path("file/man1").to_str().unwrap()]);
    assert!(ran.failed(1).contains("can't be written"));
    assert_eq!(world.server.requests(), [], "nothing of this needs the store");
}

#[test]
fn diff_shows_which_pages_differ() {
    let world = World::new();
    world.levels();
    let diff = |arguments: &[&str]| world.run(&[&["diff", "-d", "test.db"], arguments].concat());
    let t = |txid: u64| format!("{txid:016x}");
    // 6 has pages 6, 20; 8 has 8, 20, 32, 40.
    let json = diff(&[&t(6), &t(8), "--json"]).json();
    assert_eq!((&json["changed"], &json["added"], &json["removed"]), (&json!([1]), &json!([3, 4]), &json!([])));
    assert_eq!((&json["changed_pages"], &json["added_pages"]), (&json!(1), &json!(2)));
    let side = |txid, time, pages| json!({"txid": t(txid), "timestamp": time, "page_size": 512, "pages": pages});
    assert_eq!(json["from"], side(6, "1970-01-01T00:00:06Z", 2));
    assert_eq!(json["to"], side(8, "1970-01-01T00:00:08Z", 4));
    // Backwards, as of times, and to the end.
    let json = diff(&["1970-01-01T00:00:08Z", "1970-01-01T00:00:06.5Z", "--json"]).json();
    assert_eq!((&json["changed"], &json["added"], &json["removed"]), (&json!([1]), &json!([]), &json!([3, 4])));
    assert_eq!(json["to"]["txid"], t(6));
    assert_eq!(diff(&[&t(7), "--json"]).json()["to"]["txid"], t(8));
    let json = diff(&[&t(0), &t(2), "--json"]).json();
    assert_eq!((&json["added"], &json["from"]["page_size"]), (&json!([1, 2, 3, 4]), &json!(null)));

    let ran = diff(&[&t(0), &t(8)]);
    assert_eq!((ran.code(), ran.err()), (Some(0), ""));
    assert!(ran.out().contains("Added    4 pages: 1-4"), "{}", ran.out());
    assert!(diff(&[&t(8), &t(8)]).out().contains("No page differs."));
    assert!(diff(&[&t(5), &t(8)]).failed(1).contains("TXID 0000000000000004"), "the nearest that is kept");
    assert!(diff(&["12"]).failed(2).contains("neither a transaction"));
    assert!(diff(&[]).failed(2).contains("FROM"));
}
