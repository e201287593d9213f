//! Restoring around damage.
//!
//! Snapshots, compacted runs and the log overlap, so that often more than one way leads to a position. The cheapest is
//! tried first. When an object on it is damaged, the next way is planned without that object, and so on until one
//! leads to exactly the same position, or none is left.
//!
//! Most damage names its object for certain: its bytes are not what was written, or its name is another's. Where two
//! whole objects contradict each other, either may be the wrong one: then each way is tried that does without one of
//! them, and the checksums decide which of the ways holds together.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs::File;
use std::sync::Arc;

use bottomless_ltx::{Checksum, DecodeError, HEADER_LENGTH, Header, Txid};
use bottomless_store::StoreErrorKind;

use crate::error::NoWay;
use crate::pages::Outcome;
use crate::{Base, Damage, Entry, History, HistoryError, Level, Listing, ObjectName, Plan, RestoreOptions, Restored};

/// Objects may be compacted away between the listing and the download: so often it is listed anew.
const LISTINGS: usize = 4;

/// Ways that are tried at most. Each may cost a whole download, but only where something is damaged.
const TRIES: usize = 32;

/// What a failed try says of the objects on its way.
enum Fault {
    /// This object is damaged.
    Certain(ObjectName),
    /// One of these is wrong; the likeliest first.
    Doubt(Vec<ObjectName>),
    /// It is not what was listed.
    Changed(Option<ObjectName>),
    /// No object's.
    None,
}

/// The search for a way.
struct Route<'a> {
    history: &'a History,
    options: RestoreOptions,
    listing: Listing,
    from: Txid,
    asked: Option<Txid>,
    /// Where the way must lead. Never earlier than it was when the search began.
    target: Txid,
    listings: usize,
    damaged: BTreeSet<ObjectName>,
    /// Whole objects that may be the wrong ones; each way to go on leaves others of them aside.
    doubts: VecDeque<BTreeSet<ObjectName>>,
    changed: BTreeSet<ObjectName>,
    /// Damaged objects beside the way, which can't say anything of it.
    unfit: BTreeSet<ObjectName>,
    tried: HashSet<Vec<ObjectName>>,
    /// The end states that another object contradicts.
    contradicted: Vec<Checksum>,
    /// In the order in which it was found.
    found: Vec<HistoryError>,
    warned: usize,
}

impl History {
    /// Makes `into` the database at `up_to` (`None`: at the end of the history), and verifies it: as
    /// [`History::restore`] does, by the cheapest way that the listing offers, and where that one is damaged by
    /// another that leads to the same position. What was damaged is said as a warning.
    ///
    /// `from` is the position of the local file, [`Txid::ZERO`] without one. `prepare` is called before each try, puts
    /// that file into `into` again and returns what it is; [`RestoreOptions::base`] is not looked at. The progress
    /// begins anew with each try.
    ///
    /// Where all is in order this costs no request more than [`History::restore`], but for one of 100 bytes when the
    /// position is in the middle of the history or is held twice: then another object must agree with the result.
    ///
    /// # Errors
    /// [`HistoryError::NoWay`] names the first object that was found damaged, and says what can't be had without it;
    /// those of the store; and those of `prepare`.
    pub async fn restore_around<E: From<HistoryError>>(
        &self,
        listing: Listing,
        (from, up_to): (Txid, Option<Txid>),
        into: &Arc<File>,
        options: &RestoreOptions,
        mut prepare: impl FnMut() -> Result<Option<Base>, E>,
    ) -> Result<Restored, E> {
        let mut route = Route::new(self, listing, (from, up_to), options);
        for _ in 0..TRIES {
            let plan = route.next_plan().await?;
            route.warn();
            route.options.base = prepare()?;
            match route.attempt(&plan, into).await {
                Ok(restored) => {
                    route.warn_of_doubts();
                    return Ok(restored);
                }
                Err(error) => route.learn(&plan, error).await?,
            }
        }
        Err(route.give_up().into())
    }
}

impl<'a> Route<'a> {
    fn new(
        history: &'a History,
        listing: Listing,
        (from, asked): (Txid, Option<Txid>),
        options: &RestoreOptions,
    ) -> Self {
        Self {
            history,
            options: options.clone(),
            from,
            asked,
            target: asked.unwrap_or_else(|| listing.last_txid()),
            listing,
            listings: 1,
            damaged: BTreeSet::new(),
            doubts: [BTreeSet::new()].into(),
            changed: BTreeSet::new(),
            unfit: BTreeSet::new(),
            tried: HashSet::new(),
            contradicted: Vec::new(),
            found: Vec::new(),
            warned: 0,
        }
    }

    /// The cheapest way that was not tried yet.
    async fn next_plan(&mut self) -> Result<Plan, HistoryError> {
        if self.found.is_empty() {
            let mut plans = self.listing.plans(self.from, self.target);
            if plans.is_err() && self.listing.is_partial() {
                self.list_all().await?;
                plans = self.listing.plans(self.from, self.target);
            }
            let plans = plans?;
            self.warn_of_late(&plans);
            return plans.into_iter().next().ok_or_else(|| self.give_up());
        }
        while let Some(doubted) = self.doubts.front() {
            let left = self.listing.without(|name| self.damaged.contains(name) || doubted.contains(name));
            for plan in left.plans(self.from, self.target).unwrap_or_default() {
                if self.tried.insert(plan.objects.iter().map(|entry| entry.name).collect()) {
                    return Ok(plan);
                }
            }
            self.doubts.pop_front();
        }
        Err(self.give_up())
    }

    async fn attempt(&mut self, plan: &Plan, into: &Arc<File>) -> Result<Restored, HistoryError> {
        let restoring = self.history.try_restore(plan, Some(Arc::clone(into)), &self.options);
        let (restored, witness) = futures::join!(restoring, self.history.witness(&self.listing, plan, false));
        let restored = match restored? {
            Outcome::Whole(restored) => restored,
            Outcome::Torn(torn) => {
                return self.history.mend(*torn, self.asked, Some(Arc::clone(into)), &self.options).await;
            }
        };
        let mut witness = witness?;
        let have = restored.position.checksum;
        let Some(last) = plan.objects.last() else { return Ok(restored) };
        let witness = loop {
            let Some(contradicting) = witness.filter(|witness| witness.need != have) else { return Ok(restored) };
            // Only its header was read so far.
            match self.history.verify(&contradicting.entry, &self.options).await {
                Err(error @ HistoryError::Damaged { .. }) => {
                    self.history.warn_of_unneeded(&error);
                    self.unfit.insert(contradicting.entry.name);
                    let others = self.listing.without(|name| self.unfit.contains(name));
                    witness = self.history.witness(&others, plan, true).await?;
                }
                result => break result.map(|()| contradicting)?,
            }
        };
        let (key, need) = (last.name.key(self.history.id()), witness.need);
        let is_alone = self.is_alone(&witness).await?;
        let witness = witness.entry.name.key(self.history.id());
        let contradiction = HistoryError::damaged(key, Damage::Contradicted { have, witness, need });
        if is_alone || self.contradicted.contains(&have) {
            // What is behind the witness contradicts it as well; or two ways that end with different objects agree.
            self.history.warn_of_unneeded(&contradiction);
            return Ok(restored);
        }
        self.contradicted.push(have);
        Err(contradiction)
    }

    /// Whether a whole object, which does not continue what is before it, is not continued by what is behind it either:
    /// then it is the one that does not belong here.
    async fn is_alone(&self, witness: &Witness) -> Result<bool, HistoryError> {
        let Some(after) = witness.after else { return Ok(false) };
        let max = witness.entry.name.max;
        let next = self.listing.entries().iter().find(|entry| entry.name.min > max && entry.name.min.prev() == max);
        let Some(next) = next else { return Ok(false) };
        let header = match self.history.header_of(next).await {
            Err(error) if error.is_vanished() || matches!(error, HistoryError::Damaged { .. }) => return Ok(false),
            header => header?,
        };
        if header.database.is_none_or(|database| database.before == after) {
            return Ok(false);
        }
        match self.history.verify(next, &self.options).await {
            Err(HistoryError::Damaged { .. }) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// What follows from a failed try.
    async fn learn(&mut self, plan: &Plan, error: HistoryError) -> Result<(), HistoryError> {
        let (error, fault) = match self.fault(plan, &error) {
            // The size in its header, which is not verified yet, is too large for the others: are these whole?
            Fault::Doubt(names) if is_too_large(&error) => match self.first_damaged(plan).await? {
                Some((name, error)) => (error, Fault::Certain(name)),
                None => (error, Fault::Doubt(names)),
            },
            fault => (error, fault),
        };
        match fault {
            Fault::None => return Err(error),
            Fault::Certain(name) => {
                self.damaged.insert(name);
            }
            Fault::Doubt(names) => {
                let doubted = self.doubts.pop_front().unwrap_or_default();
                for name in names {
                    let mut doubted = doubted.clone();
                    doubted.insert(name);
                    self.doubts.push_back(doubted);
                }
            }
            Fault::Changed(name) => return self.list_again(name, error).await,
        }
        self.found.push(error);
        // There may be a way around through what was passed over.
        if self.listing.is_partial() { self.list_all().await } else { Ok(()) }
    }

    async fn list_all(&mut self) -> Result<(), HistoryError> {
        self.listing = self.history.list(None).await?;
        Ok(())
    }

    /// An object is not what was listed: it was compacted away, or made again.
    async fn list_again(&mut self, name: Option<ObjectName>, error: HistoryError) -> Result<(), HistoryError> {
        if self.listings == LISTINGS {
            return Err(error);
        }
        self.listings += 1;
        self.list_all().await?;
        let last = self.listing.last_txid();
        if self.asked.is_none() {
            self.target = self.target.max(last);
        }
        self.tried.clear();
        let Some(name) = name else { return Ok(()) };
        let is_listed = self.listing.entries().iter().any(|entry| entry.name == name);
        let again = !self.changed.insert(name);
        if is_listed && again {
            // The store lists what it does not have.
            self.damaged.insert(name);
            self.found.push(error);
        } else if self.listing.plan(self.from, Some(self.target)).is_err() {
            // It was the only way; and what ends earlier now is not what was to be restored.
            self.found.push(error);
        } else {
            tracing::info!(%error, "an object changed after it was listed; the bucket is listed anew");
        }
        Ok(())
    }

    /// Whose fault it is that a try failed.
    fn fault(&self, plan: &Plan, error: &HistoryError) -> Fault {
        let name_of = |key: &str| ObjectName::parse(self.history.id(), key);
        let (key, damage) = match error {
            HistoryError::Store(error) if error.kind() == StoreErrorKind::NotFound => {
                return Fault::Changed(name_of(error.key()));
            }
            HistoryError::Damaged { key, damage } => (key, &**damage),
            // What else leads there does without page objects.
            HistoryError::Folded(_) => {
                return plan.split_marker().0.map_or(Fault::None, |marker| Fault::Certain(marker.name));
            }
            _ => return Fault::None,
        };
        let Some(name) = name_of(key) else { return Fault::None };
        match damage {
            Damage::Size { .. } | Damage::Replaced { .. } => Fault::Changed(Some(name)),
            Damage::Decode(_) | Damage::Name { .. } | Damage::Pages { .. } | Damage::NoChecksum => Fault::Certain(name),
            // Page objects say nothing by themselves; the objects behind the marker are whole and continue it.
            Damage::NoPage { .. } | Damage::PageLength { .. } | Damage::PageObjects { .. } => Fault::Certain(name),
            // The newer one continues to the end already, and the older one is not continued by anything.
            Damage::Chain { previous, .. } => Fault::Doubt(name_of(previous).into_iter().chain([name]).collect()),
            Damage::PageSize { .. } => {
                let newer = plan.objects.iter().skip_while(|entry| entry.name != name).nth(1);
                Fault::Doubt([name].into_iter().chain(newer.map(|entry| entry.name)).collect())
            }
            Damage::Contradicted { .. } => Fault::Doubt(vec![name]),
            Damage::TooLarge { .. } | Damage::MissingPage { .. } | Damage::Database { .. } => {
                // The log is the truth: what was derived from it is left aside first, the most first.
                let mut names: Vec<ObjectName> = plan.objects.iter().map(|entry| entry.name).collect();
                names.sort_by_key(|name| (std::cmp::Reverse(name.level), name.min));
                Fault::Doubt(names)
            }
        }
    }

    /// The newest object of a plan whose bytes are not what was written.
    async fn first_damaged(&self, plan: &Plan) -> Result<Option<(ObjectName, HistoryError)>, HistoryError> {
        for entry in plan.objects.iter().rev() {
            match self.history.verify(entry, &self.options).await {
                Err(error @ HistoryError::Damaged { .. }) => return Ok(Some((entry.name, error))),
                result => result?,
            }
        }
        Ok(None)
    }

    /// Says what was damaged, when it does not end in an error.
    fn warn(&mut self) {
        for error in self.found.iter().skip(self.warned) {
            if let HistoryError::Folded(folded) = error {
                tracing::info!("{folded}; the restore goes on without the page objects");
                continue;
            }
            let (key, what) = error.subject();
            tracing::warn!(
                key,
                bucket = %self.history.bucket().location(),
                "an object of the database is damaged, and the restore takes a way around it: {what}"
            );
        }
        self.warned = self.found.len();
    }

    /// Says which objects of the cheapest way are younger than what merges their transactions.
    fn warn_of_late(&self, plans: &[Plan]) {
        let on_the_way = plans.iter().flat_map(|plan| &plan.objects).filter(|entry| self.listing.is_late(entry));
        let keys: BTreeSet<String> = on_the_way.map(|entry| entry.name.key(self.history.id())).collect();
        if !keys.is_empty() {
            let keys = Vec::from_iter(keys).join(", ");
            let bucket = self.history.bucket().location();
            let done = if plans.len() > 1 { "left aside" } else { "used, since there is no other way" };
            tracing::warn!(
                %bucket,
                "{keys}: created after these transactions were merged, as by a writer that did not know that another had                  taken over; {done}"
            );
        }
    }

    /// Says which of the objects that contradict others were left aside in the end.
    fn warn_of_doubts(&self) {
        let Some(doubted) = self.doubts.front().filter(|doubted| !doubted.is_empty()) else { return };
        let keys: Vec<String> = doubted.iter().map(|name| name.key(self.history.id())).collect();
        tracing::warn!(bucket = %self.history.bucket().location(), "restored without {}", keys.join(", "));
    }

    fn give_up(&mut self) -> HistoryError {
        if self.found.is_empty() {
            return crate::PlanError::Empty(self.history.id().clone()).into();
        }
        let is_folded = |error: &HistoryError| matches!(error, HistoryError::Folded(_));
        if let Some(at) = self.found.iter().position(is_folded) {
            return self.found.swap_remove(at);
        }
        let first = self.found.remove(0);
        let keys: BTreeSet<String> = self.found.iter().map(|error| error.subject().0.to_owned()).collect();
        let also = keys.into_iter().filter(|key| key != first.subject().0).collect();
        let suspects: BTreeSet<ObjectName> = self
            .found
            .iter()
            .chain([&first])
            .flat_map(|error| error.keys())
            .filter_map(|key| ObjectName::parse(self.history.id(), key))
            .collect();
        let left = self.listing.without(|name| suspects.contains(name));
        let (missing, _) = left.reach(self.from, self.target);
        // From nothing: to what it says, a file without a base is restored.
        let (_, restorable) = left.reach(Txid::ZERO, self.target);
        let restorable = Some(restorable).filter(|txid| *txid != Txid::ZERO && *txid < self.target);
        HistoryError::NoWay(Box::new(NoWay { first, also, missing, up_to: self.target, restorable }))
    }
}

fn is_too_large(error: &HistoryError) -> bool {
    matches!(error, HistoryError::Damaged { damage, .. } if matches!(**damage, Damage::TooLarge { .. }))
}

/// What an object that is not on the way says of the state at its end.
struct Witness {
    entry: Entry,
    /// The database checksum there.
    need: Checksum,
    /// The one after the object, where it follows that state.
    after: Option<Checksum>,
}

impl History {
    /// An object that must agree with the end of the plan: one that continues it; else, where the end is derived or
    /// what continues it is damaged, one that ends there too. For the end of the log there is none, and no request.
    async fn witness(&self, listing: &Listing, plan: &Plan, all: bool) -> Result<Option<Witness>, HistoryError> {
        let Some(last) = plan.objects.last() else { return Ok(None) };
        let end = plan.up_to;
        let continues = |entry: &&Entry| entry.name.min > end && entry.name.min.prev() == end;
        let equals = |entry: &&Entry| entry.name.max == end && entry.name != last.name;
        let mut ask = all || last.name.level != Level::LOG;
        let others = listing.entries().iter().filter(continues).chain(listing.entries().iter().filter(equals));
        for entry in others.filter(|entry| !listing.is_late(entry)) {
            let follows = continues(&entry);
            if !follows && !ask {
                break;
            }
            // Its whole content is verified only if it contradicts.
            let header = match self.header_of(entry).await {
                Err(error) if error.is_vanished() => None,
                Err(error @ HistoryError::Damaged { .. }) => {
                    self.warn_of_unneeded(&error);
                    None
                }
                header => Some(header?),
            };
            match header.and_then(|header| header.database) {
                Some(database) => {
                    let need = if follows { database.before } else { database.after };
                    let after = Some(database.after).filter(|_| follows);
                    return Ok(Some(Witness { entry: entry.clone(), need, after }));
                }
                None => ask = true,
            }
        }
        Ok(None)
    }

    /// The header of an object that was listed. Services refuse to send a part of an empty one.
    pub(crate) async fn header_of(&self, entry: &Entry) -> Result<Header, HistoryError> {
        if entry.size == 0 {
            let error = DecodeError::TooShort { what: "the header", offset: 0, need: HEADER_LENGTH as u64, have: 0 };
            return Err(HistoryError::damaged(entry.name.key(self.id()), Damage::Decode(error)));
        }
        self.header(entry.name).await
    }

    fn warn_of_unneeded(&self, error: &HistoryError) {
        let (key, what) = error.subject();
        tracing::warn!(key, bucket = %self.bucket().location(), "an object is damaged, and was not needed: {what}");
    }
}
