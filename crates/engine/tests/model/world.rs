//! All machines and the store: what may happen next, and what must never be.

use crate::machine::Machine;
use crate::phase::{Answer, Change, Phase, is_older};
use crate::search::{Model, Step};
use crate::store::{Content, Put, Store, TXIDS, Tick, Txid, Writer};
use crate::{Bug, Rules};

/// A transaction that a program was told is committed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Acknowledged {
    txid: Txid,
    writer: Writer,
    after: Content,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) machines: Vec<Machine>,
    pub(crate) acknowledged: Vec<Acknowledged>,
}

/// Takes a step of one machine, which says what it was.
type Act<'a> = &'a mut dyn FnMut(&dyn Fn(&mut Machine, &mut Store) -> &'static str);

const MACHINES: [&str; 3] = ["A", "B", "C"];

impl Model for Rules {
    type State = World;

    fn initial(&self) -> World {
        let store = Store::new();
        let mut machines: Vec<_> = (0..).zip(&self.programs).map(|(id, _)| Machine::new(id, &store)).collect();
        if let Some(last) = machines.last_mut().filter(|_| self.late) {
            last.close();
        }
        World { store, machines, acknowledged: Vec::new() }
    }

    fn next(&self, state: &World, to: &mut Vec<(Step, World)>) {
        self.store_steps(state, to);
        for machine in &state.machines {
            self.machine_steps(state, machine, to);
        }
    }

    fn broken(&self, state: &World) -> Option<&'static str> {
        let honesty = state.machines.iter().map(|machine| self.broken_honesty(state, machine));
        let orphan = state.store.hasty_orphan.then_some("a writer that is not slow has left an orphan");
        let broken = [broken_line(state), broken_acknowledgement(state)].into_iter().chain(honesty).chain([orphan]);
        broken.flatten().find(|broken| self.only.is_none_or(|only| only == *broken))
    }
}

impl Rules {
    /// The clock, the requests on their way, compaction and deletion.
    fn store_steps(&self, state: &World, to: &mut Vec<(Step, World)>) {
        let store = &state.store;
        let mut push = |what, change: &dyn Fn(&mut World)| {
            let mut next = state.clone();
            change(&mut next);
            to.push((Step { who: "the store", what }, next));
        };
        if store.now < self.ticks {
            push("sees time pass", &|next| {
                next.store.now += 1;
                for machine in &mut next.machines {
                    machine.age(next.store.now, self.half());
                }
                for put in &mut next.store.flying {
                    if is_older(put.first_sent, next.store.now, self.half()) {
                        put.first_sent = crate::phase::NEVER;
                    }
                }
            });
        }
        for (at, put) in store.flying.iter().enumerate() {
            let what = if put.awaited { "gets a PUT" } else { "gets a PUT for which nobody waits" };
            push(what, &|next| {
                next.store.flying.remove(at);
                self.arrive(next, put);
            });
        }
        if !self.compaction {
            return;
        }
        let compacted = store.compacted();
        for txid in compacted.max(1) + 1..=store.last() {
            push("gets a run", &|next| next.store.compact(txid));
        }
        for (at, logged) in store.log.iter().enumerate().take(usize::from(compacted) + 1).skip(2) {
            let Some(logged) = logged else { continue };
            if is_older(logged.created, store.now, self.window) || self.has(Bug::DeletedTooEarly) {
                push("loses a compacted object of the log", &|next| next.store.log[at] = None);
            }
        }
        for at in 0..usize::from(compacted) {
            if store.runs[at].is_some() {
                push("loses a run that a larger one replaces", &|next| next.store.runs[at] = None);
            }
        }
    }

    fn machine_steps(&self, state: &World, machine: &Machine, to: &mut Vec<(Step, World)>) {
        let id = usize::from(machine.id);
        let mut act = |act: &dyn Fn(&mut Machine, &mut Store) -> &'static str| {
            let mut next = state.clone();
            let what = act(&mut next.machines[id], &mut next.store);
            to.push((Step { who: MACHINES[id], what }, next));
        };
        let may_crash = machine.crashes < self.crashes[id];
        if may_crash && !matches!(machine.phase, Phase::Closed | Phase::Refused) {
            act(&|m, store| m.crash(store));
        }
        let change = self.programs[id].get(usize::from(machine.next)).copied();
        match (machine.phase, change) {
            (Phase::Closed, _) => act(&|m, store| m.open(store, self)),
            (Phase::Opening { sent, verdict }, _) => act(&|m, _| m.opened(sent, verdict)),
            (Phase::Idle, _) if machine.fenced => act(&|m, store| {
                m.close();
                m.open(store, self);
                "closes, being fenced, and lists to open"
            }),
            (Phase::Idle, Some(change)) => act(&|m, store| {
                m.begin(store, self, change);
                "begins to commit"
            }),
            (Phase::Idle | Phase::Refused, _) => {}
            (_, None) => unreachable!("a commit of nothing"),
            (_, Some(change)) => {
                self.commit_steps(machine.phase, change, &mut act);
                if !self.smooth {
                    failure_steps(machine.phase, self, &mut act);
                }
                if let Phase::Landed { commit, contact, behind } = machine.phase {
                    if may_crash {
                        act(&|m, store| {
                            m.crash(store);
                            m.content = commit.object.after;
                            "crashes after SQLite has committed"
                        });
                    }
                    let mut next = state.clone();
                    next.machines[id].confirm(commit, contact, behind);
                    let (writer, after) = (commit.object.writer, commit.object.after);
                    next.acknowledged.push(Acknowledged { txid: commit.txid, writer, after });
                    next.acknowledged.sort_unstable_by_key(|a| (a.txid, a.writer.machine, a.writer.draw));
                    to.push((Step { who: MACHINES[id], what: "tells its program OK" }, next));
                }
            }
        }
    }

    /// The steps of a commit, from the LIST before it to the landing.
    fn commit_steps(&self, phase: Phase, change: Change, act: Act<'_>) {
        match phase {
            Phase::Listed { sent, found } => act(&|m, store| m.listed(sent, found, store, self, change)),
            Phase::Settling { listed } => act(&|m, store| m.settle(listed, store, self, change)),
            // Arrived or not: that the answer is lost is the same as that the request arrives later.
            Phase::Putting { commit, answer: None } if commit.tries < self.tries => act(&|m, store| {
                m.retry(commit, store);
                "tries its PUT again"
            }),
            Phase::Putting { commit, answer: Some(Answer::Created) } => act(&|m, store| m.created(commit, store, self)),
            Phase::Putting { commit, answer: Some(Answer::Exists) } => act(&|m, _| {
                m.phase = Phase::Looking { commit };
                "is answered 412"
            }),
            Phase::Looking { commit } => act(&|m, store| m.look(commit, store, self, change)),
            Phase::Validating { commit, sent, standing } => {
                act(&|m, store| m.validated(commit, sent, standing, store, self));
            }
            _ => {}
        }
    }

    fn arrive(&self, next: &mut World, put: &Put) {
        let created = next.store.arrive(put, self.half(), self.has(Bug::Unconditional));
        let sender = &mut next.machines[usize::from(put.object.writer.machine)];
        if let (true, Phase::Putting { answer, .. }) = (put.awaited, &mut sender.phase) {
            *answer = Some(if created { Answer::Created } else { Answer::Exists });
        }
    }

    /// P3: what was reported as failed is not in the local database, and the history ends as the local database.
    fn broken_honesty(&self, state: &World, machine: &Machine) -> Option<&'static str> {
        if !matches!(machine.phase, Phase::Idle) {
            return None;
        }
        let line = &state.store.line;
        let others = |version| {
            let others = self.programs.iter().enumerate().filter(|(id, _)| *id != usize::from(machine.id));
            others.flat_map(|(_, program)| program).any(|change: &Change| change.version == version)
        };
        let failed = self.programs[usize::from(machine.id)].iter().enumerate();
        for (_, change) in failed.filter(|(at, _)| machine.failed & (1 << at) != 0) {
            let is_here = machine.content[change.page] == change.version && !others(change.version);
            if is_here && !was_taken_over(state, machine, change) {
                return Some("P3: a failed transaction is in the local database");
            }
        }
        if machine.intent.is_some() || machine.fenced {
            return None;
        }
        let at = usize::from(machine.position.txid);
        if line.get(at).is_none_or(|object| object.after != machine.content) {
            return Some("P3: a settled local database is not what the history holds at its position");
        }
        let is_ours = |at: usize| line[at].writer.machine == machine.id;
        let ends_with_ours = line.len() > at + 1 && (at + 1..line.len()).all(is_ours);
        ends_with_ours.then_some("P3: the history goes on with what its writer has settled to be without")
    }
}

/// How a commit may fail at this point.
fn failure_steps(phase: Phase, rules: &Rules, act: Act<'_>) {
    match phase {
        Phase::Putting { commit, answer: None } => {
            act(&|m, store| {
                m.give_up(store);
                "gives its PUT up"
            });
            act(&|m, store| {
                m.refused(commit, store);
                "is refused its PUT"
            });
        }
        Phase::Looking { .. } => act(&|m, store| {
            m.give_up(store);
            "can not look and gives up"
        }),
        Phase::Validating { .. } => act(&|m, store| {
            m.give_up(store);
            "can not validate"
        }),
        Phase::Landed { contact, .. } => act(&|m, _| {
            m.abandon(contact, rules);
            "fails in SQLite after its object has landed"
        }),
        _ => {}
    }
}

/// The exception of P3: while the outcome was not known, another writer has committed on top of it.
fn was_taken_over(state: &World, machine: &Machine, change: &Change) -> bool {
    let line = &state.store.line;
    let holds = |at: &usize| line[*at].writer.machine == machine.id && line[*at].after[change.page] == change.version;
    let first = (0..line.len()).find(holds);
    first.is_some_and(|first| line[first..].iter().any(|object| object.writer.machine != machine.id))
}

/// P4: the history is a line, each transaction whole and built on the one before. And a reader finds its end.
fn broken_line(state: &World) -> Option<&'static str> {
    let (store, mut content) = (&state.store, Content::default());
    for object in &store.line {
        if object.before != content {
            return Some("P4: a transaction is not built on the one before it");
        }
        content = object.apply(content);
        if content != object.after {
            return Some("P2: a transaction does not hold all that it changed");
        }
    }
    let last = Txid::try_from(store.line.len() - 1).expect("few transactions");
    (store.last() != last || store.restore(last) != Some(content))
        .then_some("P1: a reader does not find the history's end")
}

/// P1 and P4: what was acknowledged is in the history, and no position was acknowledged twice.
fn broken_acknowledgement(state: &World) -> Option<&'static str> {
    let acknowledged = &state.acknowledged;
    if acknowledged.windows(2).any(|two| two[0].txid == two[1].txid) {
        return Some("P4: two were told OK for one position");
    }
    let is_there = |a: &Acknowledged| {
        let found = state.store.line.get(usize::from(a.txid));
        found.is_some_and(|object| object.writer == a.writer && object.after == a.after)
    };
    (!acknowledged.iter().all(is_there)).then_some("P1: an acknowledged transaction is not in the history")
}

const _: () = assert!(TXIDS < Tick::MAX as usize);
