//! Object keys: each name has one key, each key one name, and a database sees no other's.
#![allow(clippy::unwrap_used, reason = "a panic is how a target says no")]

use arbitrary::{Result, Unstructured};
use bottomless_history::{DatabaseId, Level, ObjectName};
use bottomless_ltx::{Checksum, Txid};
use bottomless_store::Bucket;

use crate::mutate;

/// Ids that lie close to each other.
const NEIGHBOURS: [&str; 6] = ["test.db", "test.db2", "test.db/0000", "team/test.db", "te", "größe %2F.db"];

/// The first byte says what the rest is: a key, a database id, or how to make a key and how to damage it.
pub fn object_key(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match kind % 3 {
        0 => {
            check_key(&text);
            check_forms(&text);
        }
        1 => check_id(&text),
        // The input has ended: nothing is left to be tried.
        _ => built(&mut Unstructured::new(rest)).unwrap_or_default(),
    }
}

fn built(input: &mut Unstructured<'_>) -> Result<()> {
    let id = DatabaseId::new(*input.choose(&NEIGHBOURS)?).unwrap();
    let level = Level::new(input.int_in_range(0..=9)?).unwrap();
    let max = Txid::new(input.arbitrary::<u64>()?.max(1));
    let min = if level == Level::LOG { max } else { Txid::new(input.int_in_range(1..=max.get())?) };
    let name = ObjectName { level, min, max };
    let key = name.key(&id);
    assert_eq!(ObjectName::parse(&id, &key), Some(name));
    check_key(&key);

    let mut bytes = key.into_bytes();
    mutate(input, &mut bytes)?;
    check_key(&String::from_utf8_lossy(&bytes));
    Ok(())
}

fn check_key(key: &str) {
    let mut owners = 0;
    for id in NEIGHBOURS {
        let id = DatabaseId::new(id).unwrap();
        let Some(name) = ObjectName::parse(&id, key) else { continue };
        owners += 1;
        assert_eq!(name.key(&id), key);
        assert!(name.min > Txid::ZERO && name.min <= name.max);
        assert!(name.level != Level::LOG || name.min == name.max);
        assert!(name.level <= Level::SNAPSHOT);
    }
    assert!(owners <= 1, "{key} belongs to {owners} databases");
}

/// Transaction ids and checksums have one written form.
fn check_forms(text: &str) {
    if let Ok(txid) = text.parse::<Txid>() {
        assert_eq!(txid.to_string(), text);
    }
    if let Ok(checksum) = text.parse::<Checksum>() {
        assert_eq!(checksum.to_string(), text);
    }
}

/// An id that is accepted makes keys that the store takes as they are.
fn check_id(text: &str) {
    let Ok(id) = DatabaseId::new(text) else { return };
    assert_eq!(id.as_str(), text);
    let name = ObjectName::log(Txid::new(12));
    let key = name.key(&id);
    assert!(Bucket::is_key(&key), "{key:?}");
    assert!(key.len() <= 1024);
    assert_eq!(ObjectName::parse(&id, &key), Some(name));
    check_key(&key);
}
