//! Failing calls of the C library under a host process, and a clock that is wrong: `e2e/faults/faults.c`, controlled
//! while the process runs.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::{World, tools};

/// What a call does. The numbers are those of `faults.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Call {
    Write,
    Sync,
    Truncate,
    Open,
    /// Or a link.
    Rename,
    Unlink,
    Read,
    Socket,
}

/// Which file it does it to. The numbers are those of `faults.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Target {
    Main,
    Wal,
    Shm,
    Journal,
    State,
    Fill,
    /// What a torn file is kept as.
    Lost,
    /// A temporary file without a name in the folder of the database.
    Nameless,
    Folder,
    Sockets,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Write, Self::Sync, Self::Truncate, Self::Open, Self::Rename, Self::Unlink, Self::Read, Self::Socket];
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Main,
        Self::Wal,
        Self::Shm,
        Self::Journal,
        Self::State,
        Self::Fill,
        Self::Lost,
        Self::Nameless,
        Self::Folder,
        Self::Sockets,
    ];

    /// True for the files that the extension writes by itself, and reports by itself.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::State | Self::Fill | Self::Lost | Self::Nameless | Self::Folder)
    }
}

/// A failure, by the name of the C library; numbers of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
#[repr(u64)]
pub enum Errno {
    EIO = 5,
    EACCES = 13,
    ENFILE = 23,
    EMFILE = 24,
    ENOSPC = 28,
    EROFS = 30,
    EDQUOT = 122,
}

impl Errno {
    /// No room: a text for the user says so.
    pub fn is_full(self) -> bool {
        matches!(self, Self::ENOSPC | Self::EDQUOT)
    }
}

/// Which calls fail, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Calls that count; empty for all.
    pub calls: Vec<Call>,
    /// Files that count; empty for all.
    pub targets: Vec<Target>,
    /// The number of the first that fails, from 1 on; 0 for none.
    pub first: u64,
    /// And all after it.
    pub onwards: bool,
    /// With what.
    pub errno: Errno,
    /// A write has half of its effect, then fails.
    pub half: bool,
}

impl Plan {
    /// Every such call fails from now on.
    pub fn all(calls: &[Call], targets: &[Target], errno: Errno) -> Self {
        Self { calls: calls.to_vec(), targets: targets.to_vec(), first: 1, onwards: true, errno, half: false }
    }

    /// Nothing fails; calls are counted.
    pub fn none() -> Self {
        Self { first: 0, ..Self::all(&[], &[], Errno::EIO) }
    }
}

/// The layout of `struct control`, in words of eight bytes.
mod word {
    pub const ARMED: u64 = 0;
    pub const KINDS: u64 = 1;
    pub const CLOCK: u64 = 7;
    pub const SEEN: u64 = 8;
    pub const FAILED: u64 = 9;
    pub const FAILED_KIND: u64 = 10;
    pub const FAILED_FILE: u64 = 11;
    pub const COUNTS: u64 = 12;
    pub const FILES: u64 = 16;
    pub const DATABASE: u64 = COUNTS + 8 * FILES;
}

/// Room for the path of the main file, in bytes.
const DATABASE_BYTES: usize = 1024;

/// The control of the processes that a world starts from now on.
pub struct Faults {
    control: File,
}

impl Faults {
    /// Puts the library under the processes that `world` starts from now on; nothing fails yet.
    ///
    /// # Panics
    /// If it can't be compiled.
    pub fn under(world: &mut World) -> Self {
        let path = world.folder().join("faults-control");
        let control = File::options().read(true).write(true).create_new(true).open(&path).expect("the control file");
        control.set_len(word::DATABASE * 8 + DATABASE_BYTES as u64).expect("its size");
        world.set("LD_PRELOAD", library().display());
        world.set("BOTTOMLESS_E2E_FAULTS", path.display());
        let faults = Self { control };
        faults.watch(&world.db());
        faults
    }

    fn put(&self, word: u64, value: u64) {
        self.control.write_all_at(&value.to_ne_bytes(), word * 8).expect("the control file");
    }

    fn get(&self, word: u64) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, word * 8).expect("the control file");
        u64::from_ne_bytes(bytes)
    }

    /// The database whose files count from now on; that of the world at first.
    pub fn watch(&self, database: &Path) {
        self.heal();
        let mut bytes = database.as_os_str().as_bytes().to_vec();
        assert!(bytes.len() < DATABASE_BYTES);
        bytes.resize(DATABASE_BYTES, 0);
        self.control.write_all_at(&bytes, word::DATABASE * 8).expect("the control file");
    }

    /// From now on calls fail as planned, and are counted anew.
    pub fn arm(&self, plan: &Plan) {
        self.heal();
        let bits = |numbers: Vec<u64>| if numbers.is_empty() { u64::MAX } else { numbers.iter().map(|n| 1 << n).sum() };
        let kinds = bits(plan.calls.iter().map(|c| *c as u64).collect());
        let files = bits(plan.targets.iter().map(|t| *t as u64).collect());
        let last = if plan.onwards { u64::MAX } else { plan.first };
        let words = [kinds, files, plan.first, last, plan.errno as u64, plan.half.into()];
        for (word, value) in (word::KINDS..).zip(words) {
            self.put(word, value);
        }
        for word in word::SEEN..word::DATABASE {
            self.put(word, 0);
        }
        self.put(word::ARMED, 1);
    }

    /// Nothing fails any more, and nothing is counted.
    pub fn heal(&self) {
        self.put(word::ARMED, 0);
    }

    /// Sets the clock ahead, or back.
    pub fn set_clock_ahead(&self, seconds: i64) {
        self.put(word::CLOCK, seconds.cast_unsigned());
    }

    /// How many calls counted since [`Faults::arm`].
    pub fn seen(&self) -> u64 {
        self.get(word::SEEN)
    }

    /// The first call that failed since then.
    pub fn failed(&self) -> Option<(Call, Target)> {
        let index = |word: u64| usize::try_from(self.get(word)).expect("an index");
        (self.get(word::FAILED) > 0)
            .then(|| (Call::ALL[index(word::FAILED_KIND)], Target::ALL[index(word::FAILED_FILE)]))
    }

    /// How many calls of each sort there were since then, without those that there were none of.
    pub fn counts(&self) -> Vec<((Call, Target), u64)> {
        let all = Call::ALL.into_iter().flat_map(|call| Target::ALL.into_iter().map(move |target| (call, target)));
        let count = |(call, target): (Call, Target)| self.get(word::COUNTS + call as u64 * word::FILES + target as u64);
        all.map(|sort| (sort, count(sort))).filter(|(_, count)| *count > 0).collect()
    }
}

/// The library, compiled once for a run of the tests.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let test = std::env::current_exe().expect("the path of the test");
        let folder = test.parent().and_then(Path::parent).expect("the target folder");
        let source = tools::repository().join("e2e/faults/faults.c");
        // Renamed into place: another run may have the old one loaded.
        let (made, library) = (folder.join(format!("faults-{}.so", std::process::id())), folder.join("faults.so"));
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wno-nonnull-compare", "-o"])
            .args([&made, &source])
            .status();
        assert!(status.expect("run cc").success(), "cc can't compile {}", source.display());
        std::fs::rename(&made, &library).expect("put the library in place");
        library
    })
}
