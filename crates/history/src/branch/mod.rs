//! A new database from any point of another, by copies within the bucket.
//!
//! The objects of the cheapest plan are copied under the same level and TXIDs. The oldest one comes last: until it is there
//! the branch is a history with a gap at its beginning, which nobody takes for a database. The settings come first: they
//! count from the moment that it is one. Where the store can't copy, and where the base of the source is page objects, the
//! branch is one snapshot.

mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bottomless_ltx::{Checksum, Txid};
use bottomless_store::{Body, Bucket, CreateOutcome, StoreError};
use futures::{StreamExt, TryStreamExt};

use crate::remove::removal_order;
use crate::{
    DatabaseId, Entry, Goal, History, HistoryError, Level, Listing, MergeOptions, ObjectName, Plan, RestoreOptions,
    Restored, Settings,
};

pub use error::{BranchError, Holds};

/// Objects may be compacted away between the listing and the copy: so often it is listed anew.
const LISTINGS: usize = 4;
/// Copies at the same time.
const PARALLEL: usize = 16;
/// Tries of one copy, where the store does not answer or can't just now.
const TRIES: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// For one copy: a store may take minutes for one of some gigabytes.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branched {
    /// Where the branch begins its own way.
    pub txid: Txid,
    /// The database checksum there, where an object names it.
    pub checksum: Option<Checksum>,
    /// Objects of the branch.
    pub objects: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Of these objects, those that were there already, from a try that was cut off.
    pub found: usize,
}

/// A branch under construction.
struct Branch<'a> {
    source: &'a History,
    target: History,
    up_to: Txid,
    options: &'a MergeOptions,
    /// The end of the history is wanted, wherever that is.
    is_end: bool,
    /// The source as a file, where its base is page objects.
    laid: Option<(Restored, Arc<File>)>,
    /// The store has no copies.
    is_without_copies: bool,
    /// What is there and was made by this branch: now, or by a try that was cut off.
    ours: Mutex<BTreeSet<ObjectName>>,
    /// What of it is known to be what its source is.
    verified: Mutex<BTreeSet<Version>>,
    /// How many objects were there at the beginning.
    found: Option<usize>,
    /// It was a whole database at the beginning: nothing is changed.
    was_whole: bool,
    /// Whether anything was asked to be copied.
    begun: AtomicBool,
}

/// An object as it was listed in the source, and as it was listed in the branch.
type Version = [(ObjectName, u64, Option<String>); 2];

fn version(source: &Entry, copy: &Entry) -> Version {
    [source, copy].map(|entry| (entry.name, entry.size, entry.e_tag.clone()))
}

/// What the branch holds, held against the plan.
struct There {
    /// Objects of the plan.
    copied: BTreeSet<ObjectName>,
    settings: bool,
    /// Ours, but of a plan that does not hold any more.
    stale: Vec<ObjectName>,
    /// Where it leads, if it is a whole database.
    whole: Option<Txid>,
}

/// What may be there: objects by their name, with their source where they are copies.
type Allowed<'a> = BTreeMap<ObjectName, Option<&'a Entry>>;

impl History {
    /// Makes `to` a database of its own, in the same bucket, that is what this one is at `goal`. No program may have `to`
    /// open. Objects that came too late to be part of the history are not copied.
    ///
    /// What a try that was cut off has left is taken over, if it is a part of the same plan. Objects of more than
    /// [`MergeOptions::put_length`] bytes can't be copied.
    ///
    /// # Errors
    /// [`BranchError::Occupied`] when there is anything else below the prefix of `to`, or a database already that is not
    /// this one in the same objects: then nothing was touched.
    /// [`BranchError::Unfinished`] when a part was made.
    pub async fn branch(&self, to: &DatabaseId, goal: Goal, options: &MergeOptions) -> Result<Branched, BranchError> {
        let is_within = |a: &DatabaseId, b: &DatabaseId| format!("{b}/").starts_with(&format!("{a}/"));
        if is_within(self.id(), to) || is_within(to, self.id()) {
            return Err(BranchError::Within { from: self.id().clone(), to: to.clone() });
        }
        let (mut listing, up_to) = self.locate(goal).await?;
        let mut branch = Branch {
            source: self,
            target: History::new(self.bucket().clone(), to.clone()),
            up_to: up_to.unwrap_or_else(|| listing.last_txid()),
            options,
            is_end: goal == Goal::End,
            laid: None,
            is_without_copies: false,
            ours: Mutex::default(),
            verified: Mutex::default(),
            found: None,
            was_whole: false,
            begun: AtomicBool::new(false),
        };
        for _ in 1..LISTINGS {
            match branch.follow(&listing).await {
                Err(error) if error.is_outdated() => match self.list(None).await {
                    Ok(anew) => listing = anew,
                    Err(error) => return Err(branch.unfinished(error.into())),
                },
                Err(error) if !branch.is_without_copies && branch.calls_for_snapshot(&error) => {
                    branch.is_without_copies = true;
                }
                Err(error) => return Err(branch.unfinished(error)),
                branched => return branched,
            }
        }
        branch.follow(&listing).await.map_err(|error| branch.unfinished(error))
    }
}

impl Branch<'_> {
    /// Makes what is not there yet, along the cheapest plan of the listing.
    async fn follow(&mut self, listing: &Listing) -> Result<Branched, BranchError> {
        if self.laid.is_some() {
            return self.follow_plan(listing, None).await;
        }
        let plan = listing.without_late().plan(Txid::ZERO, Some(self.up_to))?;
        match plan.split_marker().0 {
            None => self.follow_plan(listing, Some(&plan)).await,
            Some(_) => {
                self.lay(listing).await?;
                self.follow_plan(listing, None).await
            }
        }
    }

    /// Restores the source into a file: page objects may be of a later transaction at any time, so they are never copied.
    async fn lay(&mut self, listing: &Listing) -> Result<(), BranchError> {
        let folder = &self.options.folder;
        let spool_error = |cause| HistoryError::Spool { folder: folder.clone(), cause };
        let file = Arc::new(tempfile::tempfile_in(folder).map_err(spool_error)?);
        let way = (Txid::ZERO, Some(self.up_to).filter(|_| !self.is_end));
        let options = RestoreOptions { progress: self.options.progress.clone(), ..RestoreOptions::default() };
        let restoring =
            self.source.restore_around(listing.clone(), way, &file, &options, || Ok::<_, HistoryError>(None));
        let restored = restoring.await?;
        self.up_to = restored.position.txid;
        self.laid = Some((restored, file));
        Ok(())
    }

    /// As [`Branch::follow`]; without a plan from the file.
    async fn follow_plan(&mut self, listing: &Listing, plan: Option<&Plan>) -> Result<Branched, BranchError> {
        let objects = plan.map_or(&[][..], |plan| &plan.objects);
        let is_too_large = objects.iter().any(|entry| entry.size > self.options.put_length);
        let is_snapshot = is_too_large || self.is_without_copies || plan.is_none();
        let allowed: Allowed<'_> = match is_snapshot {
            true => [(snapshot(self.up_to), None)].into(),
            false => objects.iter().map(|entry| (entry.name, Some(entry))).collect(),
        };
        let mut there = self.look(listing, &allowed).await?;
        if self.found.is_none() {
            self.found = Some(there.copied.len());
            self.was_whole = there.whole.is_some();
        }
        self.ours().extend(&there.copied);
        if self.was_whole && !is_snapshot {
            return self.made().await;
        }
        self.delete_stale(&mut there).await?;
        if listing.settings().is_some() && !there.settings && !self.was_whole {
            self.copy_settings().await?;
        }
        if is_snapshot {
            self.begun.store(true, Ordering::Relaxed);
            match (plan, &self.laid) {
                (Some(plan), _) => self.source.snapshot_into(&self.target, plan, self.options).await.map(drop)?,
                (None, Some((restored, file))) => {
                    let making = self.source.snapshot_of(restored, Arc::clone(file), &self.target, self.options);
                    making.await.map(drop)?;
                }
                (None, None) => {}
            }
        } else if let Some(plan) = plan.filter(|plan| there.copied.len() < plan.objects.len()) {
            self.copy_all(plan, listing, &allowed, &there.copied).await?;
        }
        self.whole(listing, &allowed).await
    }

    /// With what begins with the first transaction, if anything is to be deleted at all: what is left is then no database,
    /// whatever it is that is deleted, until the oldest object is copied again.
    async fn delete_stale(&self, there: &mut There) -> Result<(), BranchError> {
        if there.stale.is_empty() {
            return Ok(());
        }
        let copied = std::mem::take(&mut there.copied);
        let (bases, others): (Vec<_>, Vec<_>) = copied.into_iter().partition(|name| name.min == Txid::FIRST);
        there.copied.extend(others);
        there.stale.extend(bases);
        there.stale.sort_by_key(|name| removal_order(*name));
        for name in &there.stale {
            self.bucket().delete(&name.key(self.target.id())).await?;
            self.ours().remove(name);
        }
        Ok(())
    }

    /// Small, and read whole by every open: no copy by the store is needed.
    async fn copy_settings(&self) -> Result<(), BranchError> {
        let content = self.bucket().get(&Settings::key(self.source.id())).await?;
        let (key, body) = (Settings::key(self.target.id()), Body::Memory(content));
        self.begun.store(true, Ordering::Relaxed);
        self.again(|| self.bucket().create(&key, &body, SystemTime::now(), self.options.timeout)).await?;
        Ok(())
    }

    /// The oldest object last, and only when all others are there and right.
    async fn copy_all(
        &self,
        plan: &Plan,
        listing: &Listing,
        allowed: &Allowed<'_>,
        copied: &BTreeSet<ObjectName>,
    ) -> Result<(), BranchError> {
        let Some((oldest, others)) = plan.objects.split_first() else { return Ok(()) };
        let found = plan.objects.iter().filter(|entry| copied.contains(&entry.name));
        let done = AtomicU64::new(found.map(|entry| entry.size).sum());
        let advance = |entry: &Entry| {
            let done = done.fetch_add(entry.size, Ordering::Relaxed) + entry.size;
            if let Some(progress) = &self.options.progress {
                progress(done, plan.bytes());
            }
        };
        futures::stream::iter(others.iter().rev().filter(|entry| !copied.contains(&entry.name)))
            .map(Ok)
            .try_for_each_concurrent(PARALLEL, |entry| async {
                self.copy_entry(entry).await?;
                advance(entry);
                Ok::<_, BranchError>(())
            })
            .await?;
        let there = self.look(listing, allowed).await?;
        if let Some(missing) = others.iter().find(|entry| !there.copied.contains(&entry.name)) {
            return Err(self.disturbed(missing.name.key(self.target.id())));
        }
        if !there.copied.contains(&oldest.name) {
            self.copy_entry(oldest).await?;
            advance(oldest);
        }
        Ok(())
    }

    /// That there is something already is no error: it is looked at later, and may be that of a try that was not answered.
    async fn copy_entry(&self, entry: &Entry) -> Result<(), BranchError> {
        let (from, to) = (entry.name.key(self.source.id()), entry.name.key(self.target.id()));
        self.begun.store(true, Ordering::Relaxed);
        let made = self.again(|| self.bucket().copy(&from, &to, TIMEOUT)).await?;
        if let CreateOutcome::Created { .. } = made {
            self.ours().insert(entry.name);
        }
        Ok(())
    }

    /// Tries again what the store could not do just now.
    async fn again<F: Future<Output = Result<CreateOutcome, StoreError>>>(
        &self,
        request: impl Fn() -> F,
    ) -> Result<CreateOutcome, StoreError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match request().await {
                Err(error) if error.kind().is_transient() => {
                    tracing::debug!(%error, "this is tried again");
                    tokio::time::sleep(error.retry_after().unwrap_or(pause)).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        request().await
    }

    fn ours(&self) -> MutexGuard<'_, BTreeSet<ObjectName>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bucket(&self) -> &Bucket {
        self.target.bucket()
    }

    /// Lists the branch, and refuses what does not belong there. Each copy is held against its source.
    async fn look(&self, listing: &Listing, allowed: &Allowed<'_>) -> Result<There, BranchError> {
        let objects = self.bucket().list(self.target.id().as_str(), None).await?;
        let target = Listing::new(self.target.id().clone(), objects.iter().cloned());
        let whole = target.plan(Txid::ZERO, None).ok().map(|plan| plan.up_to);
        let in_the_way = |key: String| match self.found {
            Some(_) if !self.was_whole => self.disturbed(key),
            _ => {
                let holds = match (whole, target.last_txid()) {
                    (None, txid) if txid == self.up_to => Holds::PartOfIt,
                    (None, txid) if txid > Txid::ZERO => Holds::PartUpTo(txid),
                    _ => Holds::Other,
                };
                BranchError::Occupied { to: self.target.id().clone(), key, holds }
            }
        };
        if let (Some(entry), Some(_)) = (target.entries().first(), whole.filter(|txid| *txid != self.up_to)) {
            return Err(in_the_way(entry.name.key(self.target.id())));
        }
        let settings_key = Settings::key(self.target.id());
        let is_known = |key: &str| key == settings_key || ObjectName::parse(self.target.id(), key).is_some();
        if let Some(foreign) = objects.into_iter().find(|object| !is_known(&object.key)) {
            return Err(match in_the_way(foreign.key) {
                BranchError::Occupied { to, key, .. } => BranchError::Occupied { to, key, holds: Holds::Other },
                error => error,
            });
        }
        let settings = match (target.settings(), listing.settings()) {
            (None, _) => false,
            (Some(_), Some(_)) if self.same_settings().await? => true,
            (Some(_), _) => return Err(in_the_way(settings_key)),
        };
        let (mut pairs, mut stale) = (Vec::new(), Vec::new());
        for copy in target.entries() {
            match allowed.get(&copy.name) {
                Some(source) => pairs.push((*source, copy)),
                None if self.ours().contains(&copy.name) && !self.was_whole => stale.push(copy.name),
                None => return Err(in_the_way(copy.name.key(self.target.id()))),
            }
        }
        let different = futures::stream::iter(&pairs)
            .map(|&(source, copy)| async move {
                let is_copy = match source {
                    Some(source) => self.is_copy(source, copy).await?,
                    None => true,
                };
                Ok::<_, HistoryError>((is_copy, copy.name))
            })
            .buffered(PARALLEL)
            .try_filter_map(|(is_copy, name)| futures::future::ok((!is_copy).then_some(name)))
            .boxed()
            .try_next()
            .await?;
        match different {
            Some(name) => Err(in_the_way(name.key(self.target.id()))),
            None => {
                Ok(There { copied: pairs.into_iter().map(|(_, copy)| copy.name).collect(), settings, stale, whole })
            }
        }
    }

    async fn same_settings(&self) -> Result<bool, StoreError> {
        let (source, target) = (Settings::key(self.source.id()), Settings::key(self.target.id()));
        let (source, target) = futures::try_join!(self.bucket().get(&source), self.bucket().get(&target))?;
        Ok(source == target)
    }

    /// Whether an object holds what its source holds. Not all stores give a copy the ETag of its source; then both ends are
    /// read: the file checksum is over all that was written.
    async fn is_copy(&self, source: &Entry, copy: &Entry) -> Result<bool, HistoryError> {
        let verified = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if source.size != copy.size {
            return Ok(false);
        }
        if source.e_tag.is_some() && source.e_tag == copy.e_tag || verified().contains(&version(source, copy)) {
            return Ok(true);
        }
        let (ends, copied) = futures::try_join!(self.source.ends(source.name), self.target.ends(copy.name))?;
        let is_same = (ends.header, ends.trailer) == (copied.header, copied.trailer);
        if is_same {
            verified().insert(version(source, copy));
        }
        Ok(is_same)
    }

    /// Makes sure that the branch is there, whole and alone.
    async fn whole(&self, listing: &Listing, allowed: &Allowed<'_>) -> Result<Branched, BranchError> {
        let there = self.look(listing, allowed).await?;
        if let Some(missing) = allowed.keys().find(|name| !there.copied.contains(name)) {
            return Err(self.disturbed(missing.key(self.target.id())));
        }
        self.made().await
    }

    /// What is there now.
    async fn made(&self) -> Result<Branched, BranchError> {
        let plan = self.target.list(None).await?.plan(Txid::ZERO, None)?;
        let checksum = match plan.objects.last() {
            Some(last) if plan.up_to == self.up_to => self.target.header(last.name).await?.database,
            _ => return Err(self.disturbed(snapshot(plan.up_to).key(self.target.id()))),
        };
        Ok(Branched {
            txid: plan.up_to,
            checksum: checksum.map(|database| database.after),
            objects: plan.objects.len(),
            bytes: plan.bytes(),
            found: self.found.unwrap_or_default(),
        })
    }

    /// Whether the store can't copy, or did not when this was tried before.
    fn calls_for_snapshot(&self, error: &BranchError) -> bool {
        match error {
            BranchError::Occupied { key, .. } => *key == snapshot(self.up_to).key(self.target.id()),
            error => error.is_unsupported(),
        }
    }

    fn disturbed(&self, key: String) -> BranchError {
        BranchError::Disturbed { to: self.target.id().clone(), key }
    }

    fn unfinished(&self, cause: BranchError) -> BranchError {
        match cause {
            BranchError::Disturbed { .. } => cause,
            _ if self.was_whole => cause,
            _ if !self.begun.load(Ordering::Relaxed) && self.ours().is_empty() => cause,
            _ => BranchError::Unfinished { to: self.target.id().clone(), up_to: self.up_to, cause: Box::new(cause) },
        }
    }
}

fn snapshot(up_to: Txid) -> ObjectName {
    ObjectName { level: Level::SNAPSHOT, min: Txid::FIRST, max: up_to }
}
