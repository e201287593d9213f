//! One machine: what the commit and the open of the engine do, in steps between which anything else may happen.

use crate::evidence::{Evidence, Standing};
use crate::phase::{Change, Commit, Contact, Intent, NEVER, Phase, Position, Seen, Verdict, is_older};
use crate::store::{Content, Object, PageSet, Put, Store, Tick, Txid, Writer};
use crate::{Bug, Rules};

/// What the next transaction stands on.
struct Base {
    position: Position,
    forced: PageSet,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Machine {
    pub(crate) id: u8,
    /// What SQLite has committed locally.
    pub(crate) content: Content,
    pub(crate) position: Position,
    pub(crate) intent: Option<Intent>,
    /// When the newest request was sent whose answer showed that the bucket ended at our position.
    contact: Tick,
    pub(crate) fenced: bool,
    pub(crate) phase: Phase,
    /// The program's next transaction.
    pub(crate) next: u8,
    draws: u8,
    pub(crate) crashes: u8,
    /// The transactions of the program that were reported as failed: bit `i` for the `i`th.
    pub(crate) failed: u8,
}

impl Machine {
    pub(crate) fn new(id: u8, store: &Store) -> Self {
        let position = Position { txid: 1, checksum: store.line[1].after };
        Self {
            id,
            content: position.checksum,
            position,
            intent: None,
            contact: 0,
            fenced: false,
            phase: Phase::Idle,
            next: 0,
            draws: 0,
            crashes: 0,
            failed: 0,
        }
    }

    /// Times that are too long ago to matter are all the same.
    pub(crate) fn age(&mut self, now: Tick, half: Tick) {
        let age = |tick: &mut Tick| {
            if is_older(*tick, now, half) {
                *tick = NEVER;
            }
        };
        age(&mut self.contact);
        match &mut self.phase {
            Phase::Listed { sent, found } => {
                age(sent);
                if let Contact::Intent(seen) = found {
                    age(&mut seen.sent);
                }
            }
            Phase::Opening { sent, .. } | Phase::Settling { listed: Some(Seen { sent, .. }) } => age(sent),
            Phase::Putting { commit, .. } | Phase::Looking { commit } => {
                age(&mut commit.sent);
                age(&mut commit.first_sent);
            }
            Phase::Validating { sent, commit, .. } | Phase::Landed { contact: sent, commit, .. } => {
                age(sent);
                age(&mut commit.sent);
                age(&mut commit.first_sent);
            }
            _ => {}
        }
    }

    fn is_stale(&self, store: &Store, rules: &Rules) -> bool {
        is_older(self.contact, store.now, rules.half())
    }

    /// COMMIT.
    pub(crate) fn begin(&mut self, store: &mut Store, rules: &Rules, change: Change) {
        if self.is_stale(store, rules) && !rules.has(Bug::NoCheckBeforePut) {
            self.list(store);
        } else if self.intent.is_some() {
            self.phase = Phase::Settling { listed: None };
        } else {
            self.send(store, rules, change, &Base { position: self.position, forced: 0 });
        }
    }

    fn list(&mut self, store: &Store) {
        self.phase = Phase::Listed { sent: store.now, found: Evidence(store).contact(self) };
    }

    /// The LIST before the PUT has told where the bucket is.
    pub(crate) fn listed(
        &mut self,
        sent: Tick,
        found: Contact,
        store: &mut Store,
        rules: &Rules,
        change: Change,
    ) -> &'static str {
        match found {
            Contact::Others => {
                self.fence(rules);
                "sees others' transactions before its PUT"
            }
            Contact::Intent(seen) => {
                self.phase = Phase::Settling { listed: Some(seen) };
                "sees its intent's transaction id taken"
            }
            Contact::Alone => {
                self.contact = if rules.has(Bug::ContactFromReply) { store.now } else { sent };
                self.begin(store, rules, change);
                "sees that it is up to date"
            }
        }
    }

    /// Finds out what became of the commit whose outcome is open, and sends the next.
    pub(crate) fn settle(
        &mut self,
        listed: Option<Seen>,
        store: &mut Store,
        rules: &Rules,
        change: Change,
    ) -> &'static str {
        let Some(Intent { txid, writer, .. }) = self.intent else { unreachable!("settles an intent") };
        let contact = listed.map_or(self.contact, |seen| seen.sent);
        if is_older(contact, store.now, rules.half()) && !rules.has(Bug::NoCheckBeforePut) {
            self.list(store);
            return "lists again, as settling took too long";
        }
        let found = store.log(txid).map(|logged| logged.object);
        let run_is_there = store.runs[usize::from(txid)].is_some();
        let is_as_listed = listed.is_none_or(|seen| {
            if seen.compacted { run_is_there } else { found == seen.logged || rules.has(Bug::ListedByName) }
        });
        if !is_as_listed {
            self.refuse();
            return "finds gone what the LIST has shown";
        }
        if found.is_some_and(|found| found.writer != writer) && !listed.is_some_and(|seen| seen.compacted) {
            self.fence(rules);
            return "finds another's object in place of an earlier commit";
        }
        self.contact = contact;
        let (base, what) = if found.is_none() && listed.is_none() {
            (self.base(txid - 1, false, store), "does not find an earlier commit and tries its name again")
        } else {
            (
                self.base(txid, listed.is_some_and(|seen| seen.compacted), store),
                "finds an earlier commit in the bucket and builds on it",
            )
        };
        self.send(store, rules, change, &base);
        what
    }

    /// The next transaction stands on ours up to `txid`, which SQLite has not committed, or not surely: it carries all
    /// pages that they touched, with their local content. `compacted` if a run ends there.
    fn base(&self, last: Txid, compacted: bool, store: &Store) -> Base {
        let mut position = self.position;
        let mut forced = 0;
        for txid in position.txid + 1..=last {
            match store.log(txid) {
                Some(logged) if txid < last || !compacted => {
                    forced |= logged.object.pages;
                    position.checksum = logged.object.after;
                }
                // Which pages it touched is not known any more: all of them.
                _ => {
                    forced = PageSet::MAX;
                    let run = store.runs[usize::from(txid)];
                    position.checksum = run.map_or(position.checksum, |run| run.after);
                }
            }
            position.txid = txid;
        }
        Base { position, forced }
    }

    fn send(&mut self, store: &mut Store, rules: &Rules, change: Change, base: &Base) {
        let txid = base.position.txid + 1;
        let writer = self.intent.filter(|intent| intent.txid == txid).map(|intent| intent.writer);
        let writer = writer.unwrap_or_else(|| {
            self.draws += 1;
            Writer { machine: self.id, draw: self.draws }
        });
        let mut after = self.content;
        after[change.page] = change.version;
        let forced = if rules.has(Bug::NoForcedPages) { 0 } else { base.forced & 0b11 };
        let object = Object { writer, pages: 1 << change.page | forced, before: base.position.checksum, after };
        let before = self.intent.replace(Intent { txid, writer, after, refused: false });
        let now = store.now;
        let commit = Commit { txid, object, first_sent: now, sent: now, tries: 0, may_have_landed: false, before };
        self.put(commit, store);
    }

    fn put(&mut self, commit: Commit, store: &mut Store) {
        let commit = Commit { sent: store.now, tries: commit.tries + 1, ..commit };
        store.send(Put { txid: commit.txid, awaited: true, first_sent: commit.first_sent, object: commit.object });
        self.phase = Phase::Putting { commit, answer: None };
    }

    /// Nothing was heard of the PUT for too long.
    pub(crate) fn retry(&mut self, commit: Commit, store: &mut Store) {
        store.forget(self.id);
        self.put(Commit { may_have_landed: true, ..commit }, store);
    }

    /// Nothing will be heard of the PUT before the deadline.
    pub(crate) fn give_up(&mut self, store: &mut Store) {
        store.forget(self.id);
        self.refuse();
    }

    /// The store has answered that it does not do it.
    pub(crate) fn refused(&mut self, commit: Commit, store: &mut Store) {
        store.withdraw(self.id);
        if !commit.may_have_landed {
            self.intent = commit.before;
        }
        self.refuse();
    }

    pub(crate) fn created(&mut self, commit: Commit, store: &Store, rules: &Rules) -> &'static str {
        let contact = if rules.has(Bug::ContactFromReply) { store.now } else { commit.sent };
        self.done(commit, contact, store, rules)
    }

    /// Whose object is there? A GET.
    pub(crate) fn look(&mut self, commit: Commit, store: &mut Store, rules: &Rules, change: Change) -> &'static str {
        let Some(found) = store.log(commit.txid).map(|logged| logged.object) else {
            if commit.tries < rules.tries {
                self.put(commit, store);
                return "finds nothing after a 412 and tries again";
            }
            self.refuse();
            return "finds nothing after a 412 and gives up";
        };
        let is_ours = found.writer == commit.object.writer;
        if rules.has(Bug::OursByContent) && found.has_content_of(&commit.object) {
            return self.done(commit, self.contact, store, rules);
        }
        if !is_ours {
            self.fence(rules);
            return "is fenced by another's object";
        }
        if found.has_content_of(&commit.object) {
            // Which of the tries has landed, and when, is not known: no new contact.
            self.done(commit, self.contact, store, rules);
            return "finds that an earlier try has landed";
        }
        self.refuse_intent();
        if self.is_stale(store, rules) {
            self.list(store);
            return "finds that an earlier commit has landed and lists, as it took too long";
        }
        let base = self.base(commit.txid, false, store);
        self.send(store, rules, change, &base);
        "finds that an earlier commit has landed and builds on it"
    }

    /// The object is there.
    fn done(&mut self, commit: Commit, contact: Tick, store: &Store, rules: &Rules) -> &'static str {
        if self.is_stale(store, rules) && !rules.has(Bug::NoValidation) {
            let standing = Evidence(store).standing(&commit, rules);
            self.phase = Phase::Validating { commit, sent: store.now, standing };
            return "has created its object, late, and lists";
        }
        self.phase = Phase::Landed { commit, contact, behind: false };
        "has created its object"
    }

    /// The LIST after the PUT has told whether the object is a part of the history.
    pub(crate) fn validated(
        &mut self,
        commit: Commit,
        sent: Tick,
        standing: Standing,
        store: &mut Store,
        rules: &Rules,
    ) -> &'static str {
        match standing {
            Standing::Stands { behind } => {
                let behind = behind && !rules.has(Bug::BehindForgotten);
                self.phase = Phase::Landed { commit, contact: sent, behind };
                "is told that its object stands"
            }
            Standing::Lost => {
                store.log[usize::from(commit.txid)] = None;
                self.fence(rules);
                "is told that it has lost, and removes its object"
            }
            Standing::Earlier => {
                store.log[usize::from(commit.txid)] = None;
                self.refuse();
                "is told that an earlier commit of its own has the place, and removes its object"
            }
            Standing::Unknown => {
                self.refuse();
                self.fenced = true;
                "is not told whether its object stands"
            }
        }
    }

    /// SQLite has committed, and the position moves.
    pub(crate) fn confirm(&mut self, commit: Commit, contact: Tick, behind: bool) {
        self.content = commit.object.after;
        self.position = Position { txid: commit.txid, checksum: commit.object.after };
        self.intent = None;
        self.contact = contact;
        self.fenced = behind;
        self.next += 1;
        self.phase = Phase::Idle;
    }

    /// SQLite has failed, though the object is in the bucket.
    pub(crate) fn abandon(&mut self, contact: Tick, rules: &Rules) {
        if rules.has(Bug::ContactBeforeConfirm) {
            self.contact = contact;
        }
        self.refuse();
    }

    /// The process is gone; what it had not told its program is forgotten.
    pub(crate) fn crash(&mut self, store: &mut Store) -> &'static str {
        store.forget(self.id);
        if !matches!(self.phase, Phase::Idle | Phase::Opening { .. }) {
            self.next += 1;
        }
        self.crashes += 1;
        self.close();
        "crashes"
    }

    pub(crate) fn close(&mut self) {
        self.fenced = false;
        self.contact = NEVER;
        self.phase = Phase::Closed;
    }

    pub(crate) fn open(&mut self, store: &Store, rules: &Rules) -> &'static str {
        self.phase = Phase::Opening { sent: store.now, verdict: Evidence(store).judge(self, rules) };
        "lists to open"
    }

    pub(crate) fn opened(&mut self, sent: Tick, verdict: Verdict) -> &'static str {
        self.phase = Phase::Idle;
        match verdict {
            Verdict::Same { position, fresh } => {
                self.intent = self.intent.filter(|intent| self.position == position && intent.txid > position.txid);
                self.position = position;
                self.contact = if fresh { sent } else { NEVER };
            }
            Verdict::Behind { end } => {
                self.intent = None;
                self.content = end.checksum;
                self.position = end;
                self.contact = sent;
            }
            Verdict::Conflict => {
                self.phase = Phase::Refused;
                return "is refused the open: a conflict";
            }
        }
        "opens"
    }

    /// The program is told that its transaction has failed.
    fn fail(&mut self) {
        self.failed |= 1 << self.next;
        self.next += 1;
        self.phase = Phase::Idle;
    }

    fn refuse_intent(&mut self) {
        self.intent = self.intent.map(|intent| Intent { refused: true, ..intent });
    }

    fn refuse(&mut self) {
        self.refuse_intent();
        self.fail();
    }

    /// Another has taken over. The open decides what became of the intent.
    fn fence(&mut self, rules: &Rules) {
        self.refuse();
        self.fenced = true;
        if rules.has(Bug::FencedForgets) {
            self.intent = None;
        }
    }
}
