//! Comparing databases page by page.

use std::os::unix::fs::FileExt;
use std::path::Path;

/// Panics with the numbers of the pages that differ.
///
/// # Panics
/// If a file can't be read or anything differs.
#[track_caller]
pub fn assert_same_pages(left: &Path, right: &Path) {
    let open = |path: &Path| std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (a, b) = (open(left), open(right));
    let size = |f: &std::fs::File| f.metadata().expect("its size").len();
    let mut header = [0; 18];
    if size(&a) > 0 {
        a.read_exact_at(&mut header, 0).expect("the header");
    }
    // SQLite's file format: bytes 16 and 17 are the page size, big-endian, where 1 stands for 65536.
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65536,
        0 => 4096,
        n => usize::from(n),
    };
    let mut differing = Vec::new();
    let (mut page_a, mut page_b) = (vec![0; page_size], vec![0; page_size]);
    let common = size(&a).min(size(&b)) / page_size as u64;
    for number in 0..common {
        let offset = number * page_size as u64;
        a.read_exact_at(&mut page_a, offset).expect("a page");
        b.read_exact_at(&mut page_b, offset).expect("a page");
        if page_a != page_b {
            let byte = page_a.iter().zip(&page_b).position(|(x, y)| x != y);
            differing.push((number + 1, byte.unwrap_or_default()));
        }
    }
    assert!(
        differing.is_empty() && size(&a) == size(&b),
        "{} ({} bytes) and {} ({} bytes), page size {page_size}: differing (page, first byte): {:?} of {}",
        left.display(),
        size(&a),
        right.display(),
        size(&b),
        &differing[..differing.len().min(20)],
        differing.len(),
    );
}
