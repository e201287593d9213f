//! What a writer left behind that was too late: an object of the log that was created after its transaction was merged
//! and deleted there. Who writes removes it when it notices, unless it dies or may not delete.

use std::collections::HashSet;

use crate::{Entry, Level, Listing, ObjectName, Plan, PlanError};

use bottomless_ltx::Txid;

impl Listing {
    /// Whether an object of the log is younger than another that has its transaction merged: merged is only what the log
    /// holds, so it may not be what was merged. (Objects may also have been copied or brought back since.)
    ///
    /// Between the two lies the fence window, since nothing is deleted earlier; equal times, in a store that counts in whole
    /// seconds, are those of an object that was merged at once.
    pub(crate) fn is_late(&self, entry: &Entry) -> bool {
        let is_older = |other: &Entry| other.merges(entry.name.max) && other.modified < entry.modified;
        entry.name.level == Level::LOG && self.merged().iter().any(is_older)
    }

    /// All late objects.
    pub(crate) fn late(&self) -> HashSet<ObjectName> {
        self.log().iter().filter(|entry| self.is_late(entry)).map(|entry| entry.name).collect()
    }

    /// The same without late objects.
    pub(crate) fn without_late(&self) -> Self {
        let late = self.late();
        self.without(|name| late.contains(name))
    }

    /// The cheapest plan, and before it, if that one needs late objects, the cheapest without any.
    pub(crate) fn plans(&self, from: Txid, up_to: Txid) -> Result<Vec<Plan>, PlanError> {
        let plan = self.plan(from, Some(up_to))?;
        let mut plans = Vec::new();
        if plan.objects.iter().any(|entry| self.is_late(entry)) {
            plans.extend(self.without_late().plan(from, Some(up_to)));
        }
        plans.push(plan);
        Ok(plans)
    }
}
