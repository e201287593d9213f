//! Whether objects tell the same story: each says which database checksum there was before it and after it.

use std::collections::{BTreeMap, BTreeSet};

use bottomless_ltx::{Checksum, Txid};

use super::object::Outline;
use super::{Problem, Severity};
use crate::{DatabaseId, Entry, Level, Listing, ObjectName};

/// Which objects of the log came too late, and are vouched for by none of the others: by one that continues them, or by
/// a merged one that ends with them.
pub(super) fn orphans(listing: &Listing, outlines: &[(&Entry, &Outline)]) -> BTreeSet<ObjectName> {
    let is_log = |entry: &Entry| entry.name.level == Level::LOG;
    let mut vouched: BTreeSet<(Txid, Checksum)> = BTreeSet::new();
    for (entry, outline) in outlines.iter().filter(|(entry, _)| !is_log(entry)) {
        vouched.extend(outline.before.map(|before| (entry.name.min.prev(), before)));
        vouched.extend(outline.after.map(|after| (entry.name.max, after)));
    }
    let mut orphans = BTreeSet::new();
    for (entry, outline) in outlines.iter().rev().filter(|(entry, _)| is_log(entry)) {
        // Others' objects say nothing that could be held against them.
        let is_vouched = outline.after.is_none_or(|after| vouched.contains(&(entry.name.max, after)));
        if is_vouched || !listing.is_late(entry) {
            vouched.extend(outline.before.map(|before| (entry.name.min.prev(), before)));
        } else {
            orphans.insert(entry.name);
        }
    }
    orphans
}

pub(super) fn orphan(key: String) -> Problem {
    Problem {
        key: Some(key),
        severity: Severity::Warning,
        problem:
            "an orphan: it was created after its transaction had been merged, and no other object continues it or \
                  ends with it. Its writer was too late: it was told so, or died before"
                .into(),
        advice: "no restore uses it; delete it".into(),
    }
}

/// What an object says of the state at a TXID.
struct Claim {
    checksum: Checksum,
    key: String,
}

/// Objects that say of a state what most others do not say.
pub(super) fn contradictions(id: &DatabaseId, outlines: &[(&Entry, &Outline)]) -> Vec<Problem> {
    let mut claims: BTreeMap<Txid, Vec<Claim>> = BTreeMap::new();
    let mut claim = |txid: Txid, name: &ObjectName, checksum: Option<Checksum>| {
        if let Some(checksum) = checksum {
            claims.entry(txid).or_default().push(Claim { checksum, key: name.key(id) });
        }
    };
    for (entry, outline) in outlines {
        claim(entry.name.min.prev(), &entry.name, outline.before);
        claim(entry.name.max, &entry.name, outline.after);
    }
    let mut problems = Vec::new();
    for (txid, claims) in claims {
        let Some(truth) = likeliest(txid, &claims) else { continue };
        let witness = claims.iter().find(|claim| claim.checksum == truth);
        let witness = witness.map_or("a database without pages", |claim| claim.key.as_str());
        problems.extend(claims.iter().filter(|claim| claim.checksum != truth).map(|claim| Problem {
            key: Some(claim.key.clone()),
            severity: Severity::Error,
            problem: format!(
                "it says that the database had checksum {} at TXID {txid}, but by {witness} it had {truth}",
                claim.checksum
            ),
            advice: "one of the two belongs to another database or another history; bring back the right object".into(),
        }));
    }
    problems
}

/// What most say, and of as many what the first says: the log comes first.
fn likeliest(txid: Txid, claims: &[Claim]) -> Option<Checksum> {
    if txid == Txid::ZERO {
        return Some(Checksum::EMPTY);
    }
    let count = |checksum: Checksum| claims.iter().filter(|claim| claim.checksum == checksum).count();
    // Of several that are greatest `max_by_key` takes the last.
    claims.iter().rev().max_by_key(|claim| count(claim.checksum)).map(|claim| claim.checksum)
}
