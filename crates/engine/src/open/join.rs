//! Opening a database that other processes of this machine have open: they keep it together with the bucket.

use bottomless_ltx::Txid;

use crate::database::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::local::Host;
use crate::open::{EarlyListing, before};

impl Database {
    pub(super) fn join_others(&self, host: &dyn Host, early: Option<EarlyListing>) -> Result<()> {
        let Some(record) = self.find_record()? else {
            let text = "its local state is not that of this bucket and database, and another connection or process of \
                        this machine has it open; close it there first";
            return Err(Error::new(ErrorKind::Busy, text));
        };
        let listing = self.list_again(early, before(record.position.txid))?;
        let last = listing.last_txid();
        if self.local_size()? == 0 && !listing.is_empty() {
            // A first transaction that was reported as failed may be there: the next commit takes it back.
            if record.position.txid == Txid::ZERO && record.intent.is_some() {
                return Ok(());
            }
            let text = "the local file is empty, the bucket is not, and another connection or process of this machine has \
                        the database open; close it there first";
            return Err(Error::new(ErrorKind::Busy, text));
        }
        let inode = self.note_inode();
        if record.main_inode != 0 && record.main_inode != inode {
            let text = "the local file was replaced while another connection or process of this machine has the database \
                        open; close it there first";
            return Err(Error::new(ErrorKind::Busy, text));
        }
        if last <= record.position.txid {
            return Ok(());
        }
        // A commit was under way when the bucket was listed. With SQLite's write lock it is not.
        let mut record = record;
        host.with_write_lock(&mut |_| {
            record = self.record()?;
            Ok(())
        })?;
        if last <= record.position.txid || record.intent.is_some_and(|intent| last <= intent.txid) {
            return Ok(());
        }
        let text = format!(
            "the local file is at transaction {}, the bucket is at {last}, and another connection or process of this \
             machine has the database open, so that it can't be caught up; close it there first",
            record.position.txid
        );
        Err(Error::new(ErrorKind::Busy, text))
    }
}
