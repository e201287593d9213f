//! When this process last heard of the store, and for how long that counts.
//!
//! As long as the object of a transaction exists, no second writer can create it. Objects of the log are deleted once they
//! are compacted and older than the fence window W; so what a writer knows of the end of the log counts for W/2, which
//! leaves the other half to the request that is built on it.

use std::time::Duration;

use bottomless_history::{Moment, Settings};
use bottomless_ltx::Txid;

/// What this process has last heard of the store. The moments are those at which a request was sent that later succeeded: a
/// position that it confirmed was the last one then.
#[derive(Debug, Default)]
pub(crate) struct Contacts {
    /// The last transaction that was in the bucket, and when that was asked.
    last: Option<(Txid, Moment)>,
    /// When the last listing was asked for, which tells of changed settings.
    listed: Option<Moment>,
    settings: Settings,
    /// The ETag of the object that holds the settings, if the store names one; None where there is no object.
    settings_object: Option<Option<String>>,
}

impl Contacts {
    /// A request that was sent then has succeeded, and nothing behind `last` was in the bucket when it was sent.
    pub(crate) fn heard(&mut self, last: Txid, sent: Moment) {
        self.last = Some((last, sent));
    }

    /// True if a transaction id must not be claimed without asking: what is known is too old, or says that it was taken. (One
    /// that was there and is not any more was compacted and deleted.)
    pub(crate) fn forbid(&self, txid: Txid) -> bool {
        let is_old = |sent: Moment| sent.age() > self.settings.fence_window / 2;
        self.last.is_none_or(|(last, sent)| last >= txid || is_old(sent)) || self.listed.is_none_or(is_old)
    }

    /// As [`Contacts::heard`], from a listing.
    pub(crate) fn listed(&mut self, last: Txid, sent: Moment) {
        self.heard(last, sent);
        self.listed = Some(sent);
    }

    /// Times of the store that differ by less prove nothing: its machines' clocks may differ.
    pub(crate) fn clock_margin(&self) -> Duration {
        (self.settings.fence_window / 4).min(Duration::from_secs(15 * 60))
    }

    /// True if the object that holds the settings was read before, or there is none, as then.
    pub(crate) fn know_settings(&self, e_tag: Option<&str>, exists: bool) -> bool {
        match &self.settings_object {
            Some(known) => exists && e_tag.is_some() && e_tag == known.as_deref(),
            None => !exists,
        }
    }

    /// The settings are these; `object` is None where there is no object that holds them, else its ETag.
    pub(crate) fn learn(&mut self, settings: Settings, object: Option<Option<String>>) {
        self.settings = settings;
        self.settings_object = object;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_counts_for_half_of_the_window() {
        let (last, next) = (Txid::new(7), Txid::new(8));
        let mut contacts = Contacts::default();
        assert!(contacts.forbid(next), "never heard of");
        contacts.listed(last, Moment::now());
        assert!(!contacts.forbid(next));
        assert!(contacts.forbid(last), "it was there");
        let ago = |seconds| Duration::from_secs(seconds);
        let now = Moment::now();
        // Slept, without the wall clock having noticed; and the other way round.
        let slept = Moment { since_boot: now.since_boot.saturating_sub(ago(3)), ..now };
        let frozen = Moment { wall: now.wall - ago(3), ..now };
        for contact in [slept, frozen] {
            contacts.learn(Settings::of_window(ago(4)), None);
            contacts.listed(last, contact);
            assert!(contacts.forbid(next));
            contacts.learn(Settings::of_window(ago(60)), None);
            assert!(!contacts.forbid(next));
        }
    }

    #[test]
    fn a_writer_that_never_lists_asks_for_the_settings_at_times() {
        let mut contacts = Contacts::default();
        contacts.learn(Settings::of_window(Duration::from_secs(4)), None);
        let now = Moment::now();
        let ago = Moment { since_boot: now.since_boot.saturating_sub(Duration::from_secs(3)), ..now };
        contacts.listed(Txid::new(7), ago);
        contacts.heard(Txid::new(8), now);
        assert!(contacts.forbid(Txid::new(9)));
    }

    #[test]
    fn settings_are_read_again_when_they_change() {
        let mut contacts = Contacts::default();
        assert!(contacts.know_settings(None, false));
        assert!(!contacts.know_settings(Some("a"), true));
        contacts.learn(Settings::default(), Some(Some("a".into())));
        assert!(contacts.know_settings(Some("a"), true));
        assert!(!contacts.know_settings(Some("b"), true));
        assert!(!contacts.know_settings(None, true), "a store that names no ETag is asked each time");
        assert!(!contacts.know_settings(None, false));
        contacts.learn(Settings::default(), Some(None));
        assert!(!contacts.know_settings(None, false), "taken away, in a store that names no ETag");
    }
}
