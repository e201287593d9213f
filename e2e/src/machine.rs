//! One of several machines that have the same database: a folder, a way to the store and a process of its own.

use std::path::{Path, PathBuf};

use crate::proxy::Proxy;
use crate::seaweed::Seaweed;
use crate::session::{Host, Session, SqlError};
use crate::world::World;

/// A machine with one process, which has the database open as connection 0.
pub struct Machine {
    /// What tells it from the others.
    pub name: String,
    /// Its way to the store.
    pub proxy: Proxy,
    /// Its process.
    pub session: Session,
    db: PathBuf,
}

impl Machine {
    /// A machine that is filled from the bucket.
    ///
    /// # Panics
    /// If it can't be.
    #[track_caller]
    pub fn new(world: &World, name: &str) -> Self {
        let folder = world.folder().join(name);
        std::fs::create_dir(&folder).expect("its folder");
        let proxy = Proxy::start(Seaweed::shared().address());
        let session = start(world, &proxy, &folder, None);
        let mut machine = Self { name: name.to_owned(), proxy, session, db: folder.join(world.id()) };
        machine.open();
        machine
    }

    /// Kills its process, and starts another in the same folder, with one more variable.
    ///
    /// # Panics
    /// If the database can't be opened there.
    #[track_caller]
    pub fn restart(&mut self, world: &World, variable: Option<(&str, String)>) {
        self.session.kill();
        self.session = start(world, &self.proxy, self.db.parent().expect("its folder"), variable);
        self.open();
    }

    /// The database file.
    pub fn db(&self) -> &PathBuf {
        &self.db
    }

    /// The name with which a program opens the database.
    pub fn uri(&self) -> String {
        format!("file:{}?vfs=bottomless", self.db.display())
    }

    #[track_caller]
    fn open(&mut self) {
        if let Err(e) = self.try_open() {
            panic!("{}: open: {e:?}\nstandard error:\n{}", self.name, self.session.stderr());
        }
    }

    fn try_open(&mut self) -> Result<(), SqlError> {
        self.session.open(0, &self.uri())?;
        self.session.exec(0, "SELECT count(*) FROM sqlite_schema").map(drop)
    }

    /// Closes the connection and opens it again, which catches up.
    ///
    /// # Panics
    /// If it doesn't.
    #[track_caller]
    pub fn reopen(&mut self) {
        self.session.close(0).expect("close");
        self.open();
    }

    /// The position: the last transaction that it knows both sides to hold.
    #[track_caller]
    pub fn txid(&mut self) -> u64 {
        self.session.status()["txid"].as_u64().expect("a TXID")
    }
}

/// A process with the extension loaded.
fn start(world: &World, proxy: &Proxy, folder: &Path, variable: Option<(&str, String)>) -> Session {
    let mut environment = world.environment.clone();
    environment.insert("LIBSQL_BOTTOMLESS_ENDPOINT".to_owned(), proxy.endpoint());
    environment.extend(variable.map(|(name, value)| (name.to_owned(), value)));
    let mut session = Session::start(Host::Newest, &environment, &folder.join("stderr"));
    session.load();
    session
}
