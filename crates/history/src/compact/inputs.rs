//! From which objects another is made.

use bottomless_ltx::Txid;

use crate::{Level, Listing, ObjectName, Plan, PlanError};

impl Listing {
    /// The cheapest objects from which `name` is made: they lie within its transactions and are of lower levels, or earlier
    /// snapshots for a snapshot.
    ///
    /// An object of the log whose transaction is merged already is none of them, whatever is missing: it may have been
    /// created after that one was deleted, by a writer that had lost. (What no object holds has never been deleted: whatever
    /// held it would be held by another.)
    ///
    /// # Errors
    /// Says which transactions are missing.
    pub fn inputs(&self, name: ObjectName) -> Result<Plan, PlanError> {
        let merged = self.last_merged();
        let is_input = |input: &ObjectName| {
            let lower = match input.level {
                Level::LOG => name.level > Level::LOG && (input.max > merged || !self.is_merged(input.max)),
                Level::SNAPSHOT => name.level == Level::SNAPSHOT && input.max < name.max,
                level => level < name.level,
            };
            lower && name.min <= input.min && input.max <= name.max
        };
        self.without(|input| !is_input(input)).plan(name.min.prev(), Some(name.max))
    }

    /// The cheapest objects that lead from a marker to a later transaction. Of each page the newest version counts, so they may
    /// begin before that marker.
    ///
    /// # Errors
    /// Says which transactions are missing.
    pub(crate) fn inputs_behind(&self, marker: Txid, up_to: Txid) -> Result<Plan, PlanError> {
        let is_late = |input: &ObjectName| input.level == Level::LOG && self.is_merged(input.max);
        self.without(|input| input.level == Level::PAGES || is_late(input)).plan(marker, Some(up_to))
    }

    /// Whether an object above the log holds this transaction.
    pub(super) fn is_merged(&self, txid: Txid) -> bool {
        self.merged().iter().any(|entry| entry.merges(txid))
    }

    /// The last transaction that an object above the log holds; [`Txid::ZERO`] when there is none.
    pub(super) fn last_merged(&self) -> Txid {
        let above = self.entries().iter().filter(|entry| entry.name.level != Level::LOG);
        above.map(|entry| entry.name.max).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::SystemTime;

    use bottomless_store::Object;

    use super::*;
    use crate::DatabaseId;

    type Name = (u8, u64, u64);

    fn object((level, min, max): Name) -> ObjectName {
        ObjectName { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) }
    }

    fn inputs(objects: &[Name], name: Name) -> Result<Vec<Name>, PlanError> {
        let id = DatabaseId::new("d").unwrap();
        let objects = objects.iter().map(|&name| Object {
            key: object(name).key(&id),
            size: 1000,
            modified: SystemTime::UNIX_EPOCH,
            e_tag: None,
        });
        let plan = Listing::new(id.clone(), objects).inputs(object(name))?;
        let names = plan.objects().iter().map(|entry| entry.name);
        Ok(names.map(|name| (name.level.get(), name.min.get(), name.max.get())).collect())
    }

    #[test]
    fn inputs_are_of_lower_levels_and_lie_within() {
        let objects = [(0, 5, 5), (0, 6, 6), (1, 1, 2), (1, 3, 4), (2, 1, 4), (3, 1, 3)];
        assert_eq!(inputs(&objects, (1, 5, 6)), Ok(vec![(0, 5, 5), (0, 6, 6)]));
        assert_eq!(inputs(&objects, (2, 1, 4)), Ok(vec![(1, 1, 2), (1, 3, 4)]));
        assert_eq!(inputs(&objects, (2, 3, 6)), Ok(vec![(1, 3, 4), (0, 5, 5), (0, 6, 6)]));
        assert_eq!(inputs(&objects, (3, 1, 4)), Ok(vec![(2, 1, 4)]));
        assert_eq!(inputs(&objects, (9, 1, 5)), Ok(vec![(2, 1, 4), (0, 5, 5)]));
        // Nothing begins at 2, and what begins earlier holds more.
        assert!(matches!(inputs(&objects, (2, 2, 4)), Err(PlanError::Gap { .. })));
        assert!(inputs(&objects, (0, 5, 5)).is_err());
    }

    #[test]
    fn the_first_transaction_stays_in_the_log_until_a_snapshot() {
        let objects = [(0, 1, 1), (0, 2, 2), (1, 2, 4), (0, 5, 5)];
        assert_eq!(inputs(&objects, (9, 1, 5)), Ok(vec![(0, 1, 1), (1, 2, 4), (0, 5, 5)]));
    }

    #[test]
    fn a_snapshot_may_stand_on_an_earlier_one() {
        let objects = [(9, 1, 4), (1, 5, 8), (9, 1, 8)];
        assert_eq!(inputs(&objects, (9, 1, 8)), Ok(vec![(9, 1, 4), (1, 5, 8)]));
        assert!(inputs(&objects, (3, 1, 8)).is_err(), "a snapshot is no input of a run");
    }

    #[test]
    fn the_log_is_no_input_where_it_is_merged() {
        let objects = [(0, 1, 1), (0, 2, 2), (0, 3, 3), (0, 4, 4), (1, 1, 3)];
        assert!(matches!(
            inputs(&objects, (1, 3, 4)),
            Err(PlanError::Gap { first, last, .. }) if (first, last) == (Txid::new(3), Txid::new(3))
        ));
        assert_eq!(inputs(&objects, (2, 1, 4)), Ok(vec![(1, 1, 3), (0, 4, 4)]));
    }
}
