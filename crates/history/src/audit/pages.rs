//! The page objects, as a listing tells of them.

use std::collections::BTreeSet;

use bottomless_ltx::{PageNumber, Txid};

use super::object::Outline;
use super::{LISTINGS, Problem, Severity};
use crate::{DatabaseId, Entry, History, HistoryError, Listing, PageKey};

/// So many page objects are named one by one.
const NAMED: usize = 20;

/// What the page objects may be like: that of the marker, or of any state behind it, to which a fold may be on its way.
struct Expected {
    /// Bytes of a page.
    lengths: BTreeSet<u64>,
    /// The pages that all these states have.
    all: u32,
    /// The pages that any of them has.
    any: u32,
    /// They hold no data, and have no objects.
    lock_pages: BTreeSet<u32>,
    /// The last of these states.
    last: Txid,
}

impl Expected {
    fn new(at: Txid, outline: &Outline) -> Self {
        let (lengths, lock_pages) = (BTreeSet::new(), BTreeSet::new());
        let mut expected = Self { lengths, all: u32::MAX, any: 0, lock_pages, last: at };
        expected.widen(at, outline);
        expected
    }

    fn widen(&mut self, at: Txid, outline: &Outline) {
        self.lengths.insert(outline.page_size.get().into());
        self.lock_pages.insert(outline.page_size.lock_page().get());
        self.all = self.all.min(outline.size_in_pages);
        self.any = self.any.max(outline.size_in_pages);
        self.last = self.last.max(at);
    }
}

/// Page objects that are not as they should be.
#[derive(Default)]
struct Wrong {
    missing: First,
    lengths: First,
    strays: First,
}

/// The first of many.
#[derive(Default)]
struct First {
    pages: Vec<(PageNumber, u64)>,
    more: u64,
}

impl First {
    fn push(&mut self, page: PageNumber, length: u64) {
        match self.pages.len() < NAMED {
            true => self.pages.push((page, length)),
            false => self.more += 1,
        }
    }
}

impl Wrong {
    fn is_empty(&self) -> bool {
        [&self.missing, &self.lengths, &self.strays].iter().all(|first| first.pages.is_empty())
    }
}

impl History {
    /// Whether all page objects are there, none too many, and each as long as a page.
    pub(super) async fn page_problems(
        &self,
        listing: &Listing,
        outlines: &[(&Entry, &Outline)],
    ) -> Result<Vec<Problem>, HistoryError> {
        let marker = listing.marker().map(|marker| marker.name);
        let outline = outlines.iter().find(|(entry, _)| Some(entry.name) == marker);
        let Some(((entry, outline), marker)) = outline.zip(marker) else {
            return Ok(Vec::new());
        };
        let mut expected = Expected::new(entry.name.max, outline);
        for (entry, outline) in outlines.iter().filter(|(entry, _)| entry.name.max > marker.max) {
            expected.widen(entry.name.max, outline);
        }
        let mut wrong = self.wrong_pages(&expected).await?;
        for _ in 1..LISTINGS {
            if wrong.is_empty() || !self.widen(&mut expected).await? {
                break;
            }
            wrong = self.wrong_pages(&expected).await?;
        }
        Ok(wrong.problems(self.id(), &expected))
    }

    /// Takes in what was committed since: a fold may have come to that. False: nothing was.
    async fn widen(&self, expected: &mut Expected) -> Result<bool, HistoryError> {
        let known = expected.last;
        for entry in self.list(Some(known)).await?.entries() {
            if entry.name.max <= known {
                continue;
            }
            match self.header_of(entry).await {
                Err(error) if error.is_vanished() || matches!(error, HistoryError::Damaged { .. }) => {}
                header => expected.widen(entry.name.max, &Outline::new(&header?)),
            }
        }
        Ok(expected.last > known)
    }

    async fn wrong_pages(&self, expected: &Expected) -> Result<Wrong, HistoryError> {
        let mut wrong = Wrong::default();
        let mut next = 1;
        let missing = |wrong: &mut Wrong, pages: std::ops::Range<u64>| {
            let end = pages.end.min(u64::from(expected.all) + 1);
            let pages = (pages.start..end).filter_map(|page| PageNumber::new(u32::try_from(page).ok()?));
            for page in pages.filter(|page| !expected.lock_pages.contains(&page.get())) {
                wrong.missing.push(page, 0);
            }
        };
        let mut objects = self.page_objects(PageNumber::FIRST);
        while let Some(some) = objects.next().await? {
            for (page, object) in some {
                let number = u64::from(page.get());
                missing(&mut wrong, next..number);
                next = number + 1;
                if page.get() > expected.any {
                    wrong.strays.push(page, object.size);
                } else if !expected.lengths.contains(&object.size) {
                    wrong.lengths.push(page, object.size);
                }
            }
        }
        missing(&mut wrong, next..u64::MAX);
        Ok(wrong)
    }
}

impl Wrong {
    fn problems(self, id: &DatabaseId, expected: &Expected) -> Vec<Problem> {
        let lengths: Vec<String> = expected.lengths.iter().map(u64::to_string).collect();
        let lengths = lengths.join(" or ");
        let bring_back = "bring the page objects back from a backup or older versions of them in the bucket";
        let stray = "nothing reads it; a fold that was cut off leaves this, and the next one deletes it";
        let kinds = [
            (self.missing, Severity::Error, bring_back, "missing"),
            (self.lengths, Severity::Error, bring_back, "of a wrong length"),
            (self.strays, Severity::Warning, stray, "behind the end of the database"),
        ];
        let mut problems = Vec::new();
        for (first, severity, advice, what) in kinds {
            problems.extend(first.pages.into_iter().map(|(page, have)| Problem {
                key: Some(PageKey(page).key(id)),
                severity,
                problem: match what {
                    "missing" => "the page object is missing".into(),
                    "of a wrong length" => format!("the page object has {have} bytes, but a page has {lengths}"),
                    _ => format!("the page lies behind the end of the database, which has {} pages", expected.any),
                },
                advice: advice.into(),
            }));
            if first.more > 0 {
                let problem = format!("{} more page objects are {what}", first.more);
                problems.push(Problem { key: None, severity, problem, advice: advice.into() });
            }
        }
        problems
    }
}
