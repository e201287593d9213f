//! Local copies spare downloads, and can do no harm.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use bottomless_history::{Copies, Entry, MergeOptions, ObjectName};
use bottomless_store::Body;
use bytes::Bytes;

use crate::support::*;
use crate::world::*;

#[derive(Debug, Default)]
struct Kept {
    copies: Mutex<HashMap<ObjectName, (Entry, Bytes)>>,
}

impl Copies for Kept {
    fn find(&self, entry: &Entry) -> Option<Bytes> {
        let copies = self.copies.lock().unwrap();
        copies.get(&entry.name).filter(|(kept, _)| kept.e_tag == entry.e_tag).map(|(_, bytes)| bytes.clone())
    }

    fn keep(&self, entry: &Entry, body: &Body) {
        let bytes = match body {
            Body::Memory(bytes) => bytes.clone(),
            Body::File { file, length } => {
                let mut bytes = vec![0; *length as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes.into()
            }
        };
        self.copies.lock().unwrap().insert(entry.name, (entry.clone(), bytes));
    }
}

fn with(copies: &Arc<Kept>) -> MergeOptions {
    MergeOptions { copies: Some(copies.clone()), ..options() }
}

#[tokio::test]
async fn what_is_here_is_not_downloaded() {
    let timeline = writes(8, 5);
    let history = history("test.db");
    put_stamped_log(&history, &timeline).await;
    let copies = Arc::new(Kept::default());
    for txid in 1..=8 {
        let listing = history.list(None).await.unwrap();
        let entry = listing.log().iter().find(|entry| entry.name == name(0, txid, txid)).unwrap();
        if txid != 5 {
            copies.keep(entry, &Body::Memory(object(&timeline, txid, txid).into()));
        }
    }
    let size = object(&timeline, 5, 5).len() as u64;
    let merged = merge(&history, name(1, 1, 8), &with(&copies)).await.unwrap();
    assert_eq!(merged.downloaded, size);
    assert!(get(&history, name(1, 1, 8)).await == object(&timeline, 1, 8));
    // The one just made is a copy as well, in memory or in a file.
    assert!(copies.copies.lock().unwrap()[&name(1, 1, 8)].1 == object(&timeline, 1, 8));
    assert_eq!(merge(&history, name(2, 1, 8), &with(&copies)).await.unwrap().downloaded, 0);
    let in_file = MergeOptions { whole_length: 0, ..with(&copies) };
    merge(&history, name(3, 1, 8), &in_file).await.unwrap();
    assert!(copies.copies.lock().unwrap()[&name(3, 1, 8)].1 == object(&timeline, 1, 8));
    // What another made is none of ours.
    copies.copies.lock().unwrap().clear();
    merge(&history, name(3, 1, 8), &with(&copies)).await.unwrap();
    assert!(copies.copies.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_wrong_copy_is_as_good_as_none() {
    let timeline = writes(4, 5);
    let right = object(&timeline, 3, 3);
    let mut flipped = right.clone();
    flipped[200] ^= 1;
    for wrong in [flipped, right[..right.len() - 1].to_vec(), Vec::new(), object(&timeline, 2, 2), vec![7; right.len()]]
    {
        let history = history("test.db");
        put_stamped_log(&history, &timeline).await;
        let listing = history.list(None).await.unwrap();
        let copies = Arc::new(Kept::default());
        let entry = listing.log().iter().find(|entry| entry.name == name(0, 3, 3)).unwrap();
        copies.keep(entry, &Body::Memory(wrong.into()));
        let merged = merge(&history, name(1, 1, 4), &with(&copies)).await.unwrap();
        assert_eq!(merged.downloaded, listing.log().iter().map(|entry| entry.size).sum::<u64>());
        assert!(get(&history, name(1, 1, 4)).await == object(&timeline, 1, 4));
    }
}
