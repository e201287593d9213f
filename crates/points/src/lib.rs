//! Named points between the steps of commit, open, restore, catch-up and checkpoint, at which a test kills or stops the
//! process.
//!
//! In a build with debug assertions the environment variable [`VARIABLE`] names what happens where; without it, a point
//! is a look at a static. In a release build [`reach`] is empty.

/// `<point>=<action>` or `<point>=<action>@<n>`: at the n-th time (the first, without a number) that the process reaches
/// the point it dies of SIGKILL (`kill`) or stops until SIGCONT (`stop`).
pub const VARIABLE: &str = "BOTTOMLESS_TEST_POINT";

/// The path of a file to which the name of each point that is reached is appended, a line each.
pub const TRACE_VARIABLE: &str = "BOTTOMLESS_TEST_POINTS";

macro_rules! points {
    ($($(#[$doc:meta])* $variant:ident $name:literal)*) => {
        /// A place between two steps. The name says what has just been done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Point {
            $($(#[$doc])* $variant,)*
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in the environment variable.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

points! {
    // A commit, in the engine.
    /// The commit is about to begin.
    CommitBegun "commit.begun"
    /// What became of an earlier commit is known.
    CommitSettled "commit.settled"
    /// The object is encoded.
    CommitDrafted "commit.drafted"
    /// The store has shown that it keeps writers apart.
    CommitProven "commit.proven"
    /// The intent is recorded.
    CommitIntended "commit.intended"
    /// The object is in the bucket.
    CommitLanded "commit.landed"
    /// The object is not in the bucket, or nobody knows.
    CommitFailed "commit.failed"
    /// SQLite has committed; nothing of it is recorded.
    ConfirmBegun "confirm.begun"
    /// Page checksums are updated.
    ConfirmPages "confirm.pages"
    /// Page checksums are truncated to the new size.
    ConfirmTruncated "confirm.truncated"
    /// The position has moved.
    ConfirmRecorded "confirm.recorded"
    /// The files are marked as ours.
    ConfirmMarked "confirm.marked"
    /// SQLite has failed after the object landed, and that is recorded.
    Abandoned "abandoned"
    /// Another writer has taken over, and that is recorded.
    Fenced "fenced"

    // SQLite's writes, in the shim.
    /// A transaction outside of a WAL is about to write for the first time.
    WritingBegun "writing.begun"
    /// A page of the main file is written, outside of a WAL and of a checkpoint.
    PageWritten "writing.page"
    /// The main file is durable, outside of a checkpoint.
    MainSynced "writing.synced"
    /// What SQLite can't roll back is put back.
    Undone "writing.undone"
    /// The journal is about to be deleted: with it, SQLite commits.
    JournalDeleting "journal.deleting"
    /// The journal is deleted.
    JournalDeleted "journal.deleted"
    /// A transaction's first frame is about to be written.
    FramesBegun "wal.begun"
    /// The object of a WAL transaction is in the bucket, its commit frame not in the WAL.
    FrameWriting "wal.committing"
    /// The commit frame is in the WAL.
    FrameWritten "wal.committed"
    /// The write lock of the WAL is about to be given up.
    WalUnlocking "wal.unlocking"

    // Checkpoints.
    /// A checkpoint begins.
    CheckpointBegun "checkpoint.begun"
    /// It has written a page.
    CheckpointPage "checkpoint.page"
    /// It has ended.
    CheckpointDone "checkpoint.done"
    /// The WAL was cut off.
    WalTruncated "checkpoint.truncated"
    /// The last connection is about to delete the WAL.
    WalDeleting "wal.deleting"
    /// The WAL is deleted.
    WalDeleted "wal.deleted"

    // Opening.
    /// This process has the database for itself.
    OpenLocked "open.locked"
    /// The bucket is listed.
    OpenListed "open.listed"
    /// It is decided how the local file and the bucket come together.
    OpenJudged "open.judged"
    /// The page checksums are those of the local file, the record is not yet.
    OpenPages "open.pages"
    /// The local state stands for the local file.
    OpenAdopted "open.adopted"
    /// What a program without the extension changed is in the bucket.
    OpenPublished "open.published"
    /// All is done, and other processes may join.
    OpenDone "open.done"

    // Filling, and catching up.
    /// An object is written into the temporary file.
    RestoreApplied "restore.applied"
    /// The restored file is verified and durable under its temporary name.
    FillRestored "fill.restored"
    /// A file that lost writes has a second name.
    FillKept "fill.kept"
    /// Files of a database that is gone are removed.
    FillCleared "fill.cleared"
    /// The restored file is in place.
    FillRenamed "fill.renamed"
    /// And durably so.
    FillSynced "fill.synced"
    /// The page checksums are those of the restored file, the record is not yet.
    FillPages "fill.pages"
    /// The local state stands for the restored file.
    FillRecorded "fill.recorded"
    /// The WAL of a file that is behind is in the main file.
    CatchUpCheckpointed "catch-up.checkpointed"
    /// Nobody else can read or write a file that is behind.
    CatchUpLocked "catch-up.locked"
    /// It is copied.
    CatchUpCopied "catch-up.copied"

    // Catching up with the database open.
    /// What the local file is about to lose is in a durable journal.
    AgainJournaled "again.journaled"
    /// A page of the main file is overwritten.
    AgainPage "again.page"
    /// All of the new content is written, and durably so.
    AgainWritten "again.written"
    /// It counts, and nothing of it is recorded.
    AgainCommitted "again.committed"

    // Merging objects.
    /// What a merged object is to hold is in a temporary file.
    CompactSpooled "compact.spooled"
    /// A merged object is in the bucket.
    CompactCreated "compact.created"
    /// And is read back.
    CompactReadBack "compact.read-back"
    /// What replaces other objects is read back, before the first of them is deleted.
    CompactReplaced "compact.replaced"
    /// An object that is replaced is deleted.
    CompactDeleted "compact.deleted"
    /// All of them are.
    CompactShortened "compact.shortened"

    // Folding the log into page objects.
    /// The claim of the fold is in the bucket, and no other is.
    FoldClaimed "fold.claimed"
    /// A page is in the bucket.
    FoldPage "fold.page"
    /// All pages are.
    FoldPages "fold.pages"
    /// A page behind the end of the database is deleted.
    FoldRemoved "fold.removed"
    /// The claim is given up.
    FoldUnclaimed "fold.unclaimed"
    /// The marker is in the bucket.
    FoldMarked "fold.marked"

    // Closing.
    /// The last connection has made the local state durable.
    CloseSynced "close.synced"
    /// The files are marked as complete.
    CloseMarked "close.marked"
}

/// The process has come to this point.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn reach(_: Point) {}

/// The process has come to this point.
#[cfg(debug_assertions)]
pub fn reach(point: Point) {
    armed::reach(point);
}

#[cfg(debug_assertions)]
mod armed {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::{Point, TRACE_VARIABLE, VARIABLE};

    /// What is to happen, where, and how often the point must be reached before.
    #[derive(Debug, PartialEq)]
    pub(super) struct Order {
        pub(super) point: Point,
        pub(super) signal: Signal,
        pub(super) at: u64,
    }

    static ORDER: LazyLock<Option<Order>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let order = parse(&text);
        if order.is_none() {
            tell(&format!("{VARIABLE}={text} is not understood\n"));
        }
        order
    });
    static TRACE: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(TRACE_VARIABLE).ok());
    static REACHED: AtomicU64 = AtomicU64::new(0);

    pub(super) fn parse(text: &str) -> Option<Order> {
        let (name, action) = text.split_once('=')?;
        let (action, at) = action.split_once('@').unwrap_or((action, "1"));
        let point = Point::ALL.iter().copied().find(|point| point.name() == name)?;
        let signal = match action {
            "kill" => Signal::KILL,
            "stop" => Signal::STOP,
            _ => return None,
        };
        Some(Order { point, signal, at: at.parse().ok()? })
    }

    pub(super) fn reach(point: Point) {
        if let Some(path) = &*TRACE
            && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
        {
            // In one write, since several processes may trace into one file.
            let _ = file.write_all(format!("{}\n", point.name()).as_bytes());
        }
        let Some(order) = ORDER.as_ref().filter(|order| order.point == point) else {
            return;
        };
        if REACHED.fetch_add(1, Ordering::Relaxed) + 1 == order.at
            && let Err(error) = kill_process(getpid(), order.signal)
        {
            tell(&format!("{}: {error}\n", point.name()));
        }
    }

    fn tell(text: &str) {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::collections::HashSet;

    use rustix::process::Signal;

    use super::Point;
    use super::armed::{Order, parse};

    #[test]
    fn an_order_names_a_point_an_action_and_a_time() {
        let order = |point, signal, at| Some(Order { point, signal, at });
        assert_eq!(parse("commit.landed=kill"), order(Point::CommitLanded, Signal::KILL, 1));
        assert_eq!(parse("fill.renamed=stop@3"), order(Point::FillRenamed, Signal::STOP, 3));
        for wrong in ["", "commit.landed", "commit.landed=", "commit.landed=kill@", "no.point=kill"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: HashSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
