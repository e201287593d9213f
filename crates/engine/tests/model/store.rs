//! The bucket, and the requests on their way to it.

use crate::phase::is_older;

/// Two pages are enough to tell a transaction that carries the pages of another from one that does not.
pub(crate) const PAGES: usize = 2;
/// More than any search needs.
pub(crate) const TXIDS: usize = 8;

pub(crate) type Txid = u8;
/// One clock for all: what the protocol needs of several is only that they run at the same speed.
pub(crate) type Tick = i8;

/// A version of each page. It stands for the database checksum too, as one without collisions.
pub(crate) type Content = [u8; PAGES];

/// Page `p` is in the set if bit `p` is.
pub(crate) type PageSet = u8;

/// A writer id: drawn for a transaction id, and never twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Writer {
    /// Which the store does not see.
    pub(crate) machine: u8,
    pub(crate) draw: u8,
}

/// What an object of the log holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Object {
    pub(crate) writer: Writer,
    pub(crate) pages: PageSet,
    pub(crate) before: Content,
    pub(crate) after: Content,
}

impl Object {
    /// The database after it, if `base` is what was there.
    pub(crate) fn apply(&self, base: Content) -> Content {
        std::array::from_fn(|page| if self.pages & (1 << page) == 0 { base[page] } else { self.after[page] })
    }

    pub(crate) fn has_content_of(&self, other: &Self) -> bool {
        (self.pages, self.before, self.after) == (other.pages, other.before, other.after)
    }
}

/// An object of level 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Logged {
    pub(crate) object: Object,
    pub(crate) created: Tick,
}

/// An object of a higher level: transactions 1 to the one that it is stored under.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Run {
    pub(crate) after: Content,
    /// Of its last transaction.
    pub(crate) writer: Writer,
    pub(crate) created: Tick,
}

/// A PUT that was sent and has not arrived.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Put {
    pub(crate) txid: Txid,
    /// Its sender still waits for the answer to this very try.
    pub(crate) awaited: bool,
    /// The first try of it.
    pub(crate) first_sent: Tick,
    pub(crate) object: Object,
}

impl PartialOrd for Object {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Object {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |o: &Self| (o.writer.machine, o.writer.draw, o.pages, o.before, o.after);
        key(self).cmp(&key(other))
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Store {
    pub(crate) now: Tick,
    /// Level 0, by transaction id.
    pub(crate) log: [Option<Logged>; TXIDS],
    /// By their last transaction.
    pub(crate) runs: [Option<Run>; TXIDS],
    /// In no order: any may arrive next. Sorted, so that equal states are equal.
    pub(crate) flying: Vec<Put>,
    /// What has been the history, one entry a transaction id: no part of the store, but what it is judged by.
    pub(crate) line: Vec<Object>,
    /// An object that is no part of the history came from a PUT that was under way for no longer than half the window.
    pub(crate) hasty_orphan: bool,
}

impl Store {
    pub(crate) fn new() -> Self {
        let nobody = Writer { machine: u8::MAX, draw: 0 };
        let zero = Object { writer: nobody, pages: 0, before: [0; PAGES], after: [0; PAGES] };
        let first = Object { pages: 0b11, ..zero };
        let mut log = [None; TXIDS];
        log[1] = Some(Logged { object: first, created: 0 });
        Self { now: 0, log, runs: [None; TXIDS], flying: Vec::new(), line: vec![zero, first], hasty_orphan: false }
    }

    pub(crate) fn log(&self, txid: Txid) -> Option<&Logged> {
        self.log[usize::from(txid)].as_ref()
    }

    /// The last transaction of the largest run; 0 if there is none.
    pub(crate) fn compacted(&self) -> Txid {
        highest(&self.runs)
    }

    /// The last transaction that a LIST shows.
    pub(crate) fn last(&self) -> Txid {
        self.compacted().max(highest(&self.log))
    }

    /// What a reader makes of it: the largest run and the log behind it. None if something is missing.
    pub(crate) fn restore(&self, to: Txid) -> Option<Content> {
        let base = self.compacted();
        let from = self.runs[usize::from(base)].map_or([0; PAGES], |run| run.after);
        (base + 1..=to).try_fold(from, |content, txid| Some(self.log(txid)?.object.apply(content)))
    }

    /// A PUT arrives. True if it has created its object.
    pub(crate) fn arrive(&mut self, put: &Put, half: Tick, unconditional: bool) -> bool {
        let at = usize::from(put.txid);
        if self.log[at].is_some() && !unconditional {
            return false;
        }
        self.log[at] = Some(Logged { object: put.object, created: self.now });
        if put.txid > self.compacted() {
            self.line.truncate(at);
            self.line.push(put.object);
        } else if !is_older(put.first_sent, self.now, half) {
            self.hasty_orphan = true;
        }
        true
    }

    pub(crate) fn send(&mut self, put: Put) {
        self.flying.push(put);
        self.flying.sort_unstable();
    }

    /// The sender waits no longer for its PUT: it may arrive later all the same, or never.
    pub(crate) fn forget(&mut self, machine: u8) {
        self.flying.iter_mut().filter(|put| put.object.writer.machine == machine).for_each(|put| put.awaited = false);
        self.flying.sort_unstable();
    }

    /// The PUT that is waited for will not be done.
    pub(crate) fn withdraw(&mut self, machine: u8) {
        self.flying.retain(|put| !put.awaited || put.object.writer.machine != machine);
    }

    /// Merges all transactions up to one that the log holds.
    pub(crate) fn compact(&mut self, to: Txid) {
        let (after, last) = (self.restore(to), self.log(to).map(|logged| logged.object.writer));
        if let (Some(after), Some(writer)) = (after, last) {
            self.runs[usize::from(to)] = Some(Run { after, writer, created: self.now });
        }
    }
}

fn highest<T>(entries: &[Option<T>]) -> Txid {
    let at = entries.iter().rposition(Option::is_some).unwrap_or(0);
    Txid::try_from(at).expect("few transactions")
}
