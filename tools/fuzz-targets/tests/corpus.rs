//! Every file of the corpus, on the pinned toolchain: what the fuzzer has found once stays found.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

fn run(target: &str, function: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| function(&input)));
        assert!(result.is_ok(), "{} fails", path.display());
        files += 1;
    }
    assert!(files >= 10, "the corpus of {target} is gone: {files} files");
}

#[test]
fn ltx_decode() {
    run("ltx_decode", bottomless_fuzz_targets::ltx_decode);
}

#[test]
fn object_key() {
    run("object_key", bottomless_fuzz_targets::object_key);
}

#[test]
fn wal_frames() {
    run("wal_frames", bottomless_fuzz_targets::wal_frames);
}
