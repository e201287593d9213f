//! Whether everything that a bucket holds of a database is what was written, and fits together.
//!
//! Each object is read by itself first ([`object`]). Of those that are whole, it is then asked whether they belong to
//! one history ([`agreement`]), where it can be restored to ([`coverage`]), and at last whether its end really can.

mod agreement;
mod coverage;
mod object;
mod pages;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bottomless_ltx::Txid;
use futures::StreamExt;

use crate::{
    Entry, History, HistoryError, Level, Listing, MergeOptions, ObjectName, PlanError, Progress, RestoreOptions,
    Restored,
};
use object::Outline;

/// Objects may be compacted away while they are read: so often it is listed anew.
const LISTINGS: usize = 4;

/// So many keys that are not ours are named one by one.
const NAMED_FOREIGN: usize = 20;

/// How to look.
#[derive(Clone, Default)]
pub struct AuditOptions {
    /// Read of each object only the two ends: its name, its size, its header and its trailer are checked, and how it fits
    /// the others. Nothing is restored.
    pub quick: bool,
    /// Where the end of the history is restored to. Without a file it is not. It becomes as large as the database.
    pub restore_into: Option<Arc<File>>,
    /// Whom to tell how far it is, in bytes that were read of those that are to be read.
    pub progress: Option<Progress>,
    /// How much is read at once: as in a restore.
    pub limits: RestoreOptions,
}

impl fmt::Debug for AuditOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditOptions")
            .field("quick", &self.quick)
            .field("restore_into", &self.restore_into)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Audit {
    /// The objects that were looked at.
    pub listing: Listing,
    /// What is wrong, in the order of the keys; what is wrong with no object in particular comes last.
    pub problems: Vec<Problem>,
    /// What undamaged objects lead to, in runs of consecutive transactions, ascending.
    pub restorable: Vec<RangeInclusive<Txid>>,
    /// The end of the history as it was restored; `None` when it was not tried, or can't be.
    pub restored: Option<Restored>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is lost by it.
    Warning,
    /// An object is not what it should be, or something can't be restored.
    Error,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object's key; `None` when it is no object's fault.
    pub key: Option<String>,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub advice: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        write!(f, "{}; {}", self.problem, self.advice)
    }
}

impl Audit {
    /// Whether nothing is wrong but what is harmless.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity == Severity::Warning)
    }
}

impl History {
    /// Reads every object of the history, and the page objects that no later object replaces, and says what is wrong with it, with how they fit together, and whether the end of
    /// the history can be restored. Objects that are compacted away meanwhile are no problem.
    ///
    /// Memory is bounded as that of a restore is, and takes some 200 bytes for each object.
    ///
    /// # Errors
    /// Those of the store, [`PlanError::Empty`] when there is nothing, and [`HistoryError::Disk`] when `restore_into` can't
    /// be written. What is wrong with the history is no error.
    pub async fn audit(&self, options: &AuditOptions) -> Result<Audit, HistoryError> {
        let (listing, seen) = self.read_all(options).await?;
        if listing.is_empty() {
            return Err(PlanError::Empty(self.id().clone()).into());
        }
        let mut problems = Vec::new();
        let damaged = |name: &ObjectName| seen.get(name).is_some_and(Result::is_err);
        let whole = listing.without(damaged);
        let outlines: Vec<(&Entry, &Outline)> =
            whole.entries().iter().filter_map(|entry| Some((entry, seen.get(&entry.name)?.as_ref().ok()?))).collect();
        let orphans = agreement::orphans(&whole, &outlines);
        let is_orphan = |name: &ObjectName| orphans.contains(name);
        let sound = whole.without(is_orphan);

        let lost = coverage::gaps(&sound, listing.last_txid());
        problems.extend(listing.entries().iter().filter_map(|entry| {
            let error = seen.get(&entry.name)?.as_ref().err()?;
            Some(self.problem_of(&lost, entry.name, error))
        }));
        problems.extend(orphans.iter().map(|name| agreement::orphan(name.key(self.id()))));
        let belong: Vec<_> = outlines.iter().copied().filter(|(entry, _)| !is_orphan(&entry.name)).collect();
        problems.extend(agreement::contradictions(self.id(), &belong));
        problems.extend(self.beside(&listing).await?);
        problems.extend(self.page_problems(&sound, &belong).await?);
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        problems.extend(coverage::problems(&listing.without(is_orphan), &sound));
        let from_pages = self.restore_pages(&sound, options, &mut problems).await?;
        let restored = match &options.restore_into {
            Some(_) if from_pages.is_some() => from_pages,
            Some(file) if !options.quick => self.restore_end(&listing, &sound, file, options, &mut problems).await?,
            _ => None,
        };
        Ok(Audit { restorable: sound.restorable(), listing, problems, restored })
    }

    /// Looks at each object, and again at what came in the place of those that went away meanwhile.
    async fn read_all(&self, options: &AuditOptions) -> Result<(Listing, Seen), HistoryError> {
        let mut listing = self.list(None).await?;
        let mut seen: Seen = BTreeMap::new();
        for again in (0..LISTINGS).rev() {
            let left: Vec<&Entry> = listing.entries().iter().filter(|entry| !seen.contains_key(&entry.name)).collect();
            let changed = self.read(&left, &mut seen, options).await?;
            if changed.is_empty() {
                break;
            }
            let listed = self.list(None).await?;
            // What is there as it was listed before, and still can't be read, is damaged.
            for (entry, error) in changed {
                if again == 0 || listed.entries().contains(&entry) {
                    seen.insert(entry.name, Err(error));
                }
            }
            listing = listed;
        }
        Ok((listing, seen))
    }

    /// Looks at objects. Those that were not there as they were listed come back.
    async fn read(
        &self,
        entries: &[&Entry],
        seen: &mut Seen,
        options: &AuditOptions,
    ) -> Result<Vec<(Entry, HistoryError)>, HistoryError> {
        let RestoreOptions { requests, whole_length, run_length, .. } = options.limits;
        // Nothing is written into a folder.
        let reading = &MergeOptions { requests, whole_length, run_length, ..MergeOptions::new("") };
        let meter = Arc::new(Meter {
            done: AtomicU64::new(0),
            total: entries.iter().map(|entry| object::bytes_to_read(entry, options.quick)).sum(),
            progress: options.progress.clone(),
        });
        // Of large ones one at a time, in parallel runs.
        let (small, large): (Vec<&Entry>, Vec<&Entry>) =
            entries.iter().partition(|entry| options.quick || entry.size <= whole_length);
        let look = |entry: &Entry| {
            let (entry, meter) = (entry.clone(), Arc::clone(&meter));
            async move {
                let told = Arc::new(AtomicU64::new(0));
                let tell = {
                    let (meter, told) = (Arc::clone(&meter), Arc::clone(&told));
                    Arc::new(move |done: u64, _| {
                        meter.advance(done.saturating_sub(told.fetch_max(done, Ordering::Relaxed)))
                    })
                };
                let outline = match options.quick {
                    true => self.glance(&entry).await,
                    false => {
                        let reading = MergeOptions { progress: Some(tell), ..reading.clone() };
                        self.inspect(&entry, &reading).await
                    }
                };
                let bytes = object::bytes_to_read(&entry, options.quick);
                meter.advance(bytes.saturating_sub(told.load(Ordering::Relaxed)));
                (entry, outline)
            }
        };
        let mut looks = futures::stream::iter(small)
            .map(look)
            .buffer_unordered(requests.max(1))
            .chain(futures::stream::iter(large).then(look))
            .boxed();
        let mut changed = Vec::new();
        while let Some((entry, outline)) = looks.next().await {
            match outline {
                Err(error) if error.is_outdated() => changed.push((entry, error)),
                Err(error @ HistoryError::Damaged { .. }) => {
                    seen.insert(entry.name, Err(error));
                }
                outline => {
                    seen.insert(entry.name, Ok(outline?));
                }
            }
        }
        Ok(changed)
    }

    /// Settings and what is not ours.
    async fn beside(&self, listing: &Listing) -> Result<Vec<Problem>, HistoryError> {
        let mut problems = Vec::new();
        match self.settings(listing).await {
            Err(HistoryError::Settings { key, cause }) => problems.push(Problem {
                key: Some(key),
                severity: Severity::Error,
                problem: cause.to_string(),
                advice: "correct it, rather than delete it: writers may still count on a fence window that was longer \
                         than the default, and then that belongs into fence_window_before_seconds; until then no \
                         program commits"
                    .into(),
            }),
            settings => {
                settings?;
            }
        }
        let foreign = listing.foreign_keys();
        let advice = "nothing reads it; if no other program needs it, delete it";
        problems.extend(foreign.iter().take(NAMED_FOREIGN).map(|key| Problem {
            key: Some(key.clone()),
            severity: Severity::Warning,
            problem: "it is no object of this history".into(),
            advice: advice.into(),
        }));
        if foreign.len() > NAMED_FOREIGN {
            problems.push(Problem {
                key: None,
                severity: Severity::Warning,
                problem: format!(
                    "{} more objects below the prefix are none of this history",
                    foreign.len() - NAMED_FOREIGN
                ),
                advice: "nothing reads them; if no other program needs them, delete them".into(),
            });
        }
        Ok(problems)
    }

    /// What a damaged object costs.
    fn problem_of(&self, lost: &[RangeInclusive<Txid>], name: ObjectName, error: &HistoryError) -> Problem {
        let is_lost = lost.iter().any(|gap| *gap.start() <= name.max && name.min <= *gap.end());
        let advice = match (is_lost, name.level) {
            (true, _) => "bring it back from a backup or an older version of it in the bucket".to_owned(),
            (false, Level::LOG) => format!(
                "other objects hold TXID {} merged with others; bring it back from a backup or an older version of it in \
                 the bucket",
                name.max
            ),
            (false, _) => "other objects lead around it; bring it back from a backup or an older version of it in the \
                           bucket, or move it away"
                .to_owned(),
        };
        let problem = match error {
            HistoryError::Damaged { damage, .. } => damage.to_string(),
            error if error.is_vanished() => "it is listed, but the store says that it is not there".into(),
            error => error.to_string(),
        };
        Problem { key: Some(name.key(self.id())), severity: Severity::Error, problem, advice }
    }

    /// Reads the page objects that count, and says whether they are the database that they should be: whatever else leads to
    /// the end.
    async fn restore_pages(
        &self,
        sound: &Listing,
        options: &AuditOptions,
        problems: &mut Vec<Problem>,
    ) -> Result<Option<Restored>, HistoryError> {
        if options.quick {
            return Ok(None);
        }
        let limits = RestoreOptions { progress: options.progress.clone(), base: None, ..options.limits.clone() };
        match self.restore_from_pages(sound.clone(), options.restore_into.clone(), &limits).await {
            Err(error @ HistoryError::Damaged { .. }) => {
                let (key, what) = error.subject();
                problems.push(Problem {
                    key: Some(key.to_owned()),
                    severity: Severity::Error,
                    problem: format!("the end of the history can't be restored from the page objects: {what}"),
                    advice: "bring them back from a backup or older versions of them in the bucket".into(),
                });
                Ok(None)
            }
            // The gap was named already.
            Err(HistoryError::Plan(_)) => Ok(None),
            restored => restored,
        }
    }

    async fn restore_end(
        &self,
        listing: &Listing,
        sound: &Listing,
        file: &Arc<File>,
        options: &AuditOptions,
        problems: &mut Vec<Problem>,
    ) -> Result<Option<Restored>, HistoryError> {
        let limits = RestoreOptions { progress: options.progress.clone(), ..options.limits.clone() };
        let way = (Txid::ZERO, Some(listing.last_txid()));
        match self.restore_around(sound.clone(), way, file, &limits, || Ok::<_, HistoryError>(None)).await {
            Ok(restored) => Ok(Some(restored)),
            // The gap was named already.
            Err(HistoryError::Plan(_)) => Ok(None),
            Err(error @ (HistoryError::Damaged { .. } | HistoryError::NoWay(_))) => {
                problems.push(Problem {
                    key: None,
                    severity: Severity::Error,
                    problem: format!(
                        "the end of the history, TXID {}, can't be restored: {error}",
                        listing.last_txid()
                    ),
                    advice: "the other problems may say why".into(),
                });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// What is known of each object.
type Seen = BTreeMap<ObjectName, Result<Outline, HistoryError>>;

/// How many bytes were read.
struct Meter {
    done: AtomicU64,
    total: u64,
    progress: Option<Progress>,
}

impl Meter {
    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(progress) = &self.progress {
            progress(done, self.total);
        }
    }
}
