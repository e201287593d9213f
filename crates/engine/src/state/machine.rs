//! The number under which this machine claims to be folding the log of a database.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::record::take;
use super::{BLOCK, Block, is_sealed, seal};
use crate::clock::boot_id;
use crate::database::with_suffix;

const OFFSET: u64 = 1536;

/// The number of this machine for the database of that identity: a random one that stays for as long as the state file does,
/// and the machine is not started anew: so what a process that died has claimed is known to be ours. A copy of the file is another
/// machine's and has another, also one of the whole disk: where nothing else differs, the boot does.
///
/// Of a file that is opened for it: whoever keeps the database's own open says that the database is. Call it with the lock of
/// compaction.
pub(crate) fn machine_number(database: &Path, identity: u64) -> io::Result<u64> {
    let path = with_suffix(database, super::SUFFIX);
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        // Nothing would keep it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return random(),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    let place = Place { boot_id: boot_id(), device: metadata.dev(), inode: metadata.ino() };
    let mut block = [0; BLOCK];
    match file.read_exact_at(&mut block, OFFSET) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        read => read?,
    }
    if let Some(number) = decode(&block, identity, &place) {
        return Ok(number);
    }
    let number = random()?;
    file.write_all_at(&encode(identity, &place, number), OFFSET)?;
    Ok(number)
}

fn random() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}

/// Which file it is, and on which machine.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    boot_id: [u8; 16],
    device: u64,
    inode: u64,
}

fn encode(identity: u64, place: &Place, number: u64) -> Block {
    let mut block = [0; BLOCK];
    let (boot, values) = block.split_at_mut(16);
    boot.copy_from_slice(&place.boot_id);
    for (at, value) in values.chunks_exact_mut(8).zip([identity, place.device, place.inode, number]) {
        at.copy_from_slice(&value.to_le_bytes());
    }
    seal(&mut block);
    block
}

fn decode(block: &Block, identity: u64, place: &Place) -> Option<u64> {
    let mut rest = block.as_slice();
    let boot_id = take(&mut rest)?;
    let mut value = || take(&mut rest).map(u64::from_le_bytes);
    let whose = value()?;
    let found = Place { boot_id, device: value()?, inode: value()? };
    let number = value()?;
    (is_sealed(block) && whose == identity && found == *place).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{PassNote, Record, StateFile};

    #[test]
    fn it_stays_with_the_state_file_and_is_of_one_database() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("test.db");
        assert_ne!(machine_number(&database, 7).unwrap(), machine_number(&database, 7).unwrap(), "nothing keeps it");
        let state = StateFile::open(&database).unwrap();
        let number = machine_number(&database, 7).unwrap();
        state.write(&Record::fresh(7)).unwrap();
        PassNote { identity: 7, at_ms: 1, txid: bottomless_ltx::Txid::new(1) }.leave(&database).unwrap();
        assert_eq!(machine_number(&database, 7).unwrap(), number);
        assert!(state.read().unwrap().is_some());
        std::fs::copy(state.path(), folder.path().join("copy.db-bottomless")).unwrap();
        assert_ne!(machine_number(&folder.path().join("copy.db"), 7).unwrap(), number, "another machine's");
        let place = |boot, device, inode| Place { boot_id: [boot; 16], device, inode };
        let block = encode(7, &place(1, 2, 3), 4);
        assert_eq!(decode(&block, 7, &place(1, 2, 3)), Some(4));
        for other in [place(0, 2, 3), place(1, 0, 3), place(1, 2, 0)] {
            assert_eq!(decode(&block, 7, &other), None, "another machine's, or another file: {other:?}");
        }
        assert_ne!(machine_number(&database, 8).unwrap(), number, "another database's");
        let number = machine_number(&database, 8).unwrap();
        state.file.write_all_at(&(!number).to_le_bytes(), OFFSET + 40).unwrap();
        assert_ne!(machine_number(&database, 8).unwrap(), !number, "damaged");
    }
}
