//! That a deleted session stays deleted: beyond the limit, across a restart, and whatever the file looks like.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio_util::sync::CancellationToken;

use super::*;

/// A folder of this test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("mcpool-revocations-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("deleted")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn revocation(issued: u64) -> Revocation {
    Revocation { issued, fingerprint: !issued }
}

/// Buries these in one life of the file.
async fn life(file: &Path, limit: usize, issued: impl IntoIterator<Item = u64>) {
    let (revocations, writer) = RevocationList::open(Some(file), limit, 0);
    let writer = tokio::spawn(writer.unwrap().run(CancellationToken::new()));
    for issued in issued {
        revocations.revoke(revocation(issued), 0);
        revocations.written(revocation(issued)).await;
    }
    // No good-bye: what was waited for is in the file already.
    writer.abort();
}

fn statuses(file: &Path, limit: usize, issued: impl IntoIterator<Item = u64>) -> Vec<RevocationStatus> {
    let (revocations, _) = RevocationList::open(Some(file), limit, 999);
    issued.into_iter().map(|issued| revocations.status(revocation(issued))).collect()
}

#[tokio::test]
async fn the_deleted_stay_so_across_lives_and_the_living_are_not_touched() {
    let folder = Folder::new();
    life(&folder.file(), 10, [5, 3]).await;
    life(&folder.file(), 10, [8]).await;
    let expect = [
        RevocationStatus::Deleted,
        RevocationStatus::Valid,
        RevocationStatus::Deleted,
        RevocationStatus::Deleted,
    ];
    assert_eq!(statuses(&folder.file(), 10, [3, 4, 5, 8]), expect);
    let (revocations, _) = RevocationList::open(Some(&folder.file()), 10, 0);
    assert_eq!(
        revocations.status(Revocation { issued: 5, fingerprint: 1 }),
        RevocationStatus::Valid,
        "of the same moment"
    );
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_removed_while_it_is_used_is_written_anew() {
    let folder = Folder::new();
    let (revocations, writer) = RevocationList::open(Some(&folder.file()), 10, 0);
    let writer = tokio::spawn(writer.unwrap().run(CancellationToken::new()));
    revocations.revoke(revocation(5), 0);
    revocations.written(revocation(5)).await;
    for replaced in [false, true] {
        fs::remove_file(folder.file()).unwrap();
        if replaced {
            fs::write(folder.file(), "something else").unwrap();
        }
        let there = async {
            while !fs::read(folder.file()).is_ok_and(|bytes| bytes.len() == 32) {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), there).await.expect("written anew");
    }
    writer.abort();
    assert_eq!(statuses(&folder.file(), 10, [5, 6]), [RevocationStatus::Deleted, RevocationStatus::Valid]);
}

#[tokio::test]
async fn beyond_the_limit_the_old_are_forgotten_never_forgiven() {
    let folder = Folder::new();
    // Often enough for the file to be written anew, several times.
    life(&folder.file(), 4, 1..=2_000).await;
    let records = fs::metadata(folder.file()).unwrap().len() / 16 - 1;
    assert!((4..2 * 256).contains(&records), "{records} records");
    let found = statuses(&folder.file(), 4, [1, 1_996, 1_997, 2_000, 2_001]);
    assert_eq!(
        found,
        [
            RevocationStatus::Forgotten,
            RevocationStatus::Forgotten,
            RevocationStatus::Deleted,
            RevocationStatus::Deleted,
            RevocationStatus::Valid
        ]
    );
    let revocations = RevocationList::open(None, 4, 0).0;
    (1..=6).for_each(|issued| revocations.revoke(revocation(issued), 0));
    let found: Vec<_> = (1..=7).map(|issued| revocations.status(revocation(issued))).collect();
    assert_eq!(found[..2], [RevocationStatus::Forgotten; 2]);
    assert_eq!(
        (found[2], found[5], found[6]),
        (RevocationStatus::Deleted, RevocationStatus::Deleted, RevocationStatus::Valid)
    );
}

#[test]
fn what_has_expired_is_forgotten_so_that_a_clock_set_back_revives_nothing() {
    let revocations = RevocationList::open(None, 100, 0).0;
    revocations.revoke(revocation(10), 0);
    revocations.revoke(revocation(500), 400);
    let statuses = [10, 11, 500].map(|issued| revocations.status(revocation(issued)));
    assert_eq!(statuses, [RevocationStatus::Forgotten, RevocationStatus::Valid, RevocationStatus::Deleted]);
}

#[tokio::test]
async fn a_torn_end_is_left_out_and_a_damaged_file_restores_nobody() {
    let folder = Folder::new();
    life(&folder.file(), 10, [5, 6]).await;
    let mut bytes = fs::read(folder.file()).unwrap();
    bytes.extend_from_slice(&[7; 9]);
    fs::write(folder.file(), &bytes).unwrap();
    assert_eq!(
        statuses(&folder.file(), 10, [5, 6, 7]),
        [RevocationStatus::Deleted, RevocationStatus::Deleted, RevocationStatus::Valid]
    );
    fs::write(folder.file(), b"something else entirely").unwrap();
    assert_eq!(
        statuses(&folder.file(), 10, [5, 999, 1_000]),
        [RevocationStatus::Forgotten, RevocationStatus::Forgotten, RevocationStatus::Valid]
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_written_does_not_hold_up_a_deletion() {
    let folder = Folder::new();
    let nowhere = folder.0.join("no/such/folder/deleted");
    let (revocations, writer) = RevocationList::open(Some(&nowhere), 10, 0);
    assert!(writer.is_none());
    revocations.revoke(revocation(1), 0);
    revocations.written(revocation(1)).await;
    assert_eq!(revocations.status(revocation(1)), RevocationStatus::Deleted);
}
