//! Whether the bucket has the database in the layout that the configuration names.

use bottomless_history::{Layout, Listing};
use bottomless_ltx::PageNumber;

use crate::database::Database;
use crate::error::{Error, ErrorKind, Result};

impl Database {
    /// Refuses a layout that the bucket does not have: where both were written to, neither would be whole. A log alone is of
    /// either, if none was declared.
    pub(super) fn refuse_other_layout(&self, listing: &Listing) -> Result<()> {
        let found = listing.layout();
        let wanted = self.config().layout.unwrap_or(found);
        if found != wanted && (found == Layout::Pages || !listing.merged().is_empty()) {
            return Err(self.other_layout(wanted, found));
        }
        if listing.is_empty() && wanted == Layout::Pages { self.refuse_page_objects() } else { Ok(()) }
    }

    fn other_layout(&self, wanted: Layout, found: Layout) -> Error {
        let id = &self.config().database_id;
        let text = format!(
            "the configuration says layout={wanted}, and the bucket has the database in the layout {found}. Leave \
             LIBSQL_BOTTOMLESS_LAYOUT and the URI parameter layout out to use it as it is, or convert it first: \
             bottomless-cli convert -d {id} --to {wanted}"
        );
        Error::new(ErrorKind::Configuration, text)
    }

    /// Without a history, page objects are what is left of a database: a new one would overwrite them.
    fn refuse_page_objects(&self) -> Result<()> {
        let mut pages = self.history().page_objects(PageNumber::FIRST);
        if self.within(self.config().timeout, pages.next())?.is_none() {
            return Ok(());
        }
        let id = &self.config().database_id;
        let text = format!(
            "the bucket has page objects of the database ({id}-…), and neither their marker nor a log ({id}/…): a new database \
             would overwrite them. Bring back what was deleted, or remove them with bottomless-cli rm -d {id}"
        );
        Err(Error::new(ErrorKind::Conflict, text))
    }
}
