//! The two layouts of a bucket, and what must hold of page objects.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::bucket::Object;
use crate::session::Session;
use crate::{World, compare};

/// Nothing is folded or merged by itself within a test.
const NEVER: u32 = 24 * 3600 * 1000;

/// How long a fold may have to wait for one that was cut off, and for other processes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often is tried again meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// How the base of a database is kept in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// In objects of merged transactions.
    Ltx,
    /// In an object for each page.
    Pages,
}

impl Layout {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ltx, Self::Pages];

    /// One of them; neighbours have different ones.
    pub fn of(number: usize) -> Self {
        Self::ALL[number % Self::ALL.len()]
    }

    /// That in which a suite plays this journal mode, where it plays each mode in one layout.
    pub fn of_mode(mode: &str) -> Self {
        if mode == "WAL" { Self::Pages } else { Self::Ltx }
    }
}

impl World {
    /// Processes that start from now on have this layout. With that of pages, they fold when they close a database to which they
    /// have committed, when they are told to flush, and not by themselves.
    #[must_use]
    pub fn laid_out(mut self, layout: Layout) -> Self {
        self.lay_out(layout);
        self
    }

    /// The same of a world that is in use.
    pub fn lay_out(&mut self, layout: Layout) {
        if layout == Layout::Pages {
            self.set("LIBSQL_BOTTOMLESS_LAYOUT", "pages");
            self.compact([NEVER; 3], NEVER, NEVER);
        }
    }

    /// The layout of processes that start now.
    pub fn layout(&self) -> Layout {
        match self.environment.get("LIBSQL_BOTTOMLESS_LAYOUT").map(String::as_str) {
            Some("pages") => Layout::Pages,
            _ => Layout::Ltx,
        }
    }

    /// The fence window, for all users of the database, from their next listing on.
    pub fn set_window(&self, window: Duration) {
        let content = serde_json::json!({
            "fence_window_seconds": window.as_secs_f64(),
            "fence_window_before_seconds": window.as_secs_f64(),
        });
        self.bucket.put(&format!("{}/bottomless.json", self.id()), content.to_string().as_bytes());
    }

    /// The page objects.
    pub fn page_objects(&self) -> Vec<Object> {
        self.page_objects_of(self.id())
    }

    fn page_objects_of(&self, id: &str) -> Vec<Object> {
        self.bucket.list(&format!("{id}-"))
    }

    /// The page objects one behind the other: what any S3 tool makes of them.
    ///
    /// # Panics
    /// If one is missing, or something else is among them.
    #[track_caller]
    pub fn concatenated(&self) -> Vec<u8> {
        self.concatenated_of(self.id())
    }

    /// Those of another database in the same bucket.
    ///
    /// # Panics
    /// See [`World::concatenated`].
    #[track_caller]
    pub fn concatenated_of(&self, id: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (at, object) in self.page_objects_of(id).iter().enumerate() {
            assert_eq!(object.key, format!("{id}-{:012}", at + 1), "page by page, and nothing behind the end");
            bytes.extend(self.bucket.get(&object.key));
        }
        bytes
    }

    /// The newest transaction of which a marker says that the page objects have it; 0 without one.
    #[track_caller]
    pub fn marker(&self) -> u64 {
        let markers = self.history().into_iter().filter(|(level, _, _)| *level == Self::MARKER);
        markers.map(|(_, _, max)| max).max().unwrap_or(0)
    }

    /// Brings the page objects up to the end. Waits for other processes, and until a fold that was cut off on another machine
    /// can't have anything under way any more.
    ///
    /// # Panics
    /// If it can't be done.
    #[track_caller]
    pub fn fold(&self, session: &mut Session, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = session.exec(0, "PRAGMA bottomless_flush") {
            let is_held_up = ["another machine is folding", "another process of this machine"];
            let is_held_up = is_held_up.iter().any(|text| error.message.contains(text));
            assert!(is_held_up && Instant::now() < deadline, "{what}: {error:?}\n{}", session.stderr());
            std::thread::park_timeout(LOOK);
        }
    }

    /// In the layout of pages: once all is folded, the page objects are this file, byte for byte.
    ///
    /// # Panics
    /// If they aren't.
    #[track_caller]
    pub fn assert_pages_are(&self, file: &Path, session: &mut Session, what: &str) {
        if self.layout() != Layout::Pages {
            return;
        }
        self.fold(session, what);
        let pages = self.folder().join("concatenated.db");
        std::fs::write(&pages, self.concatenated()).expect("a file");
        compare::assert_same_pages(file, &pages);
        let mut stock = self.stock(crate::Host::Newest);
        stock.open(0, &pages.display().to_string()).expect("open");
        assert_eq!(stock.value("PRAGMA integrity_check"), "ok", "{what}");
    }
}
