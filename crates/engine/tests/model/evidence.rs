//! What a LIST, and the ends of the objects that it names, tell a machine.

use crate::machine::Machine;
use crate::phase::{Commit, Contact, Position, Seen, Verdict};
use crate::store::{Object, Run, Store, Txid};
use crate::{Bug, Rules};

/// Is an object of ours a part of the history?
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Standing {
    /// It is, for ever. `behind` if another has built on it.
    Stands { behind: bool },
    /// Another's object had that transaction id, and is compacted and deleted.
    Lost,
    /// An earlier one of ours with other content had it.
    Earlier,
    /// What could tell is gone.
    Unknown,
}

/// The bucket at one moment.
pub(crate) struct Evidence<'a>(pub(crate) &'a Store);

impl Evidence<'_> {
    fn run(&self, txid: Txid) -> Option<&Run> {
        self.0.runs[usize::from(txid)].as_ref()
    }

    /// A run that covers `txid` and ends behind it.
    fn run_beyond(&self, txid: Txid) -> impl Iterator<Item = &Run> {
        self.0.runs[usize::from(txid) + 1..].iter().flatten()
    }

    /// Before a PUT: has another committed since we have been in touch?
    pub(crate) fn contact(&self, machine: &Machine) -> Contact {
        let (last, position) = (self.0.last(), machine.position.txid);
        let Some(intent) = machine.intent else {
            return if last > position { Contact::Others } else { Contact::Alone };
        };
        let (run, logged) = (self.run(intent.txid), self.0.log(intent.txid).map(|logged| logged.object));
        if last < intent.txid {
            Contact::Alone
        } else if last > intent.txid || run.is_some_and(|run| run.writer != intent.writer) {
            Contact::Others
        } else {
            Contact::Intent(Seen { sent: self.0.now, logged, compacted: run.is_some() })
        }
    }

    /// After a PUT that took long.
    ///
    /// Where no run covers a transaction id, nothing was ever deleted from it: the object that is there is the first and
    /// only one. Of a run that ends with it, the writer id decides. A run that ends behind it tells no more than
    /// its age.
    pub(crate) fn standing(&self, commit: &Commit, rules: &Rules) -> Standing {
        let (txid, behind) = (commit.txid, self.0.last() > commit.txid);
        let next = self.0.log(txid + 1).map(|logged| logged.object);
        if rules.has(Bug::NextByChecksum)
            && let Some(next) = next
            && next.before == commit.object.after
        {
            return Standing::Stands { behind };
        }
        if let Some(run) = self.run(txid) {
            return match (run.writer == commit.object.writer, run.after == commit.object.after) {
                (true, true) => Standing::Stands { behind },
                (true, false) if !rules.has(Bug::EarlierForgotten) => Standing::Earlier,
                (true, false) => Standing::Stands { behind },
                (false, _) => Standing::Lost,
            };
        }
        let Some(ours) = self.0.log(txid).filter(|logged| logged.object == commit.object) else {
            return Standing::Unknown;
        };
        let mut beyond = self.run_beyond(txid).peekable();
        if beyond.peek().is_none() {
            return Standing::Stands { behind };
        }
        let is_older = beyond.any(|run| run.created < ours.created);
        let is_on_another = next.is_some_and(|next| next.before != ours.object.after);
        if is_older || is_on_another { Standing::Lost } else { Standing::Unknown }
    }

    /// At an open: the engine's `judge`.
    pub(crate) fn judge(&self, machine: &Machine, rules: &Rules) -> Verdict {
        let last = self.0.last();
        let Some(content) = self.0.restore(last) else {
            return Verdict::Conflict;
        };
        let end = Position { txid: last, checksum: content };
        let landed = self.landed(machine);
        let (local, record) = (machine.content, machine.position);
        if let Some((txid, _)) = landed.filter(|(_, object)| object.after == local) {
            let position = Position { txid, checksum: local };
            return if txid == last { Verdict::Same { position, fresh: true } } else { Verdict::Behind { end } };
        }
        if local == record.checksum {
            // A confirmed position is in the history, whether or not something in the bucket still ends there.
            let refused =
                |object: Object| machine.intent.is_some_and(|intent| intent.refused || intent.after != object.after);
            let ends_with_refused = match landed {
                Some((txid, object)) => txid == last && refused(object),
                None => machine.intent.is_some_and(|intent| {
                    last + 1 == intent.txid && (intent.refused || !rules.has(Bug::RefusedForgotten))
                }),
            };
            return if record.txid == last || ends_with_refused {
                Verdict::Same { position: record, fresh: landed.is_none() }
            } else {
                Verdict::Behind { end }
            };
        }
        if local == content { Verdict::Same { position: end, fresh: true } } else { Verdict::Conflict }
    }

    /// The object of the intent, if it is in the bucket, ours, and a part of the history.
    fn landed(&self, machine: &Machine) -> Option<(Txid, Object)> {
        let intent = machine.intent.filter(|intent| intent.txid > machine.position.txid)?;
        let logged = self.0.log(intent.txid).filter(|logged| logged.object.writer == intent.writer);
        if let Some(run) = self.run(intent.txid) {
            let compacted = Object { writer: run.writer, pages: 0, before: run.after, after: run.after };
            return Some((intent.txid, compacted)).filter(|_| run.writer == intent.writer);
        }
        logged.map(|logged| (intent.txid, logged.object))
    }
}
