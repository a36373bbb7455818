//! The inputs kept for the fuzz targets, each through its target: what was found once, and what is tricky, is tried
//! anew by every run of the gate. `tests/fuzz/README.md` says how they came to be.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mcpool_fuzz::{TARGETS, Target};

/// Inputs of one target: the gate runs them all.
const MOST_FILES: usize = 199;
/// Bytes of them all.
const MOST_BYTES: usize = 300 << 10;

/// One input to find out why it fails: `MCPOOL_INPUT=path cargo nextest run .. corpus::envelope`.
const INPUT: &str = "MCPOOL_INPUT";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn inputs(name: &str) -> Vec<PathBuf> {
    if let Some(one) = std::env::var_os(INPUT) {
        return vec![one.into()];
    }
    let entries = fs::read_dir(folder().join("corpus").join(name)).expect("a folder of inputs");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let (_, target): Target =
        TARGETS.into_iter().find(|(known, _)| *known == name).expect("a target of this name");
    let files = inputs(name);
    assert!((1..=MOST_FILES).contains(&files.len()), "{} inputs", files.len());
    let mut bytes = 0;
    for file in &files {
        let input = fs::read(file).expect("readable");
        bytes += input.len();
        let outcome = std::panic::catch_unwind(|| target(&input));
        assert!(outcome.is_ok(), "{name} fails on {}", file.display());
    }
    assert!(bytes <= MOST_BYTES, "{bytes} bytes");
}

macro_rules! replays {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        const REPLAYED: &[&str] = &[$(stringify!($name)),*];
    };
}

replays!(envelope, id, batch, downgrade, sse, stdio, sealed, cursor, config, classify, session, inbound);

#[test]
fn every_target_is_replayed_and_every_folder_belongs_to_one() {
    let mut targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(targets, REPLAYED);
    targets.sort_unstable();
    let names = |of: &str, cut: &str| {
        let entries = fs::read_dir(folder().join(of)).expect("a folder");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().trim_end_matches(cut).to_owned();
        let mut names: Vec<String> = entries.map(|entry| name(entry.expect("readable"))).collect();
        names.sort();
        names
    };
    assert_eq!(names("corpus", ""), targets);
    assert_eq!(names("libfuzzer/fuzz_targets", ".rs"), targets);
}
