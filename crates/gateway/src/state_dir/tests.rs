//! Stored state, its permissions, and starts despite problems.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{upkeep::Condition, *};

/// A folder for one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mcpool-state-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    fn config(&self) -> Config {
        let mut config = Config::default();
        config.sessions.state_dir = Some(self.0.join("state"));
        config
    }

    fn key(&self) -> String {
        fs::read_to_string(self.0.join("state").join(KEY)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_key_is_made_once_for_us_alone_and_kept() {
    let folder = Folder::new();
    let first = State::open(&folder.config());
    assert!(first.sessions.deleted.as_ref().unwrap().ends_with(DELETED));
    let key = folder.key();
    SessionKey::parse(&key).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let state = folder.0.join("state");
    assert_eq!((mode(&state), mode(&state.join(KEY))), (0o700, 0o600));
    assert!(!state.join("session.key.new").exists());
    drop(first);
    drop(State::open(&folder.config()));
    assert_eq!(folder.key(), key);
}

#[test]
fn what_others_could_read_or_replace_is_kept_from_them() {
    let folder = Folder::new();
    drop(State::open(&folder.config()));
    let state = folder.0.join("state");
    let (key, set) = (state.join(KEY), |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    });
    set(&key, 0o644);
    set(&state, 0o777);
    assert!(State::open(&folder.config()).sessions.deleted.is_some());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&state), mode(&key)), (0o755, 0o600));
    // A folder like /tmp must not be changed.
    set(&state, 0o1777);
    assert!(State::open(&folder.config()).sessions.deleted.is_none());
    assert_eq!(mode(&state), 0o1777);
}

#[test]
fn a_folder_that_is_in_use_is_not_shared() {
    let folder = Folder::new();
    let first = State::open(&folder.config());
    assert!(State::open(&folder.config()).sessions.deleted.is_none());
    drop(first);
    assert!(State::open(&folder.config()).sessions.deleted.is_some());
}

#[test]
fn what_cannot_be_kept_does_not_keep_it_from_starting() {
    // A file in place of the folder.
    let folder = Folder::new();
    fs::create_dir_all(&folder.0).unwrap();
    fs::write(folder.0.join("state"), "").unwrap();
    assert!(State::open(&folder.config()).sessions.deleted.is_none());
    // An invalid key.
    let folder = Folder::new();
    drop(State::open(&folder.config()));
    fs::write(folder.0.join("state").join(KEY), "hunter2\n").unwrap();
    assert!(State::open(&folder.config()).sessions.deleted.is_none());
    assert_eq!(folder.key(), "hunter2\n", "an operator's file is not overwritten");
    // No fixed port, so no state.
    let mut config = Config::default();
    config.listen.set_port(0);
    assert!(config.state_dir().is_none() && State::open(&config).sessions.deleted.is_none());
}

#[test]
fn configured_keys_are_used_and_none_is_made() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.sessions.keys = vec![SessionKey::random().unwrap()];
    assert!(State::open(&config).sessions.deleted.is_some());
    assert!(!folder.0.join("state").join(KEY).exists());
}

#[test]
fn gateways_on_one_machine_have_folders_of_their_own() {
    let mut config = Config::default();
    let before = config.state_dir();
    config.listen.set_port(9_900);
    let after = config.state_dir();
    assert_ne!(before, after);
    if let Some(folder) = after {
        assert!(folder.ends_with("mcpool/127.0.0.1-9900"), "{folder:?}");
    }
    config.listen = "[::1]:9900".parse().unwrap();
    if let Some(folder) = config.state_dir() {
        assert!(folder.ends_with("mcpool/--1-9900"), "{folder:?}");
    }
}

#[test]
fn a_folder_that_is_removed_or_replaced_is_written_anew() {
    let folder = Folder::new();
    let mut state = State::open(&folder.config()).folder.expect("a folder");
    let (path, key) = (folder.0.join("state"), folder.key());
    let anew = || Condition::Restored("the folder of the session key");
    assert_eq!(state.restore().unwrap(), Condition::Ours);
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(state.restore().unwrap(), anew());
    assert_eq!(folder.key(), key);
    // Another, unlocked folder.
    fs::rename(&path, folder.0.join("elsewhere")).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!((state.restore().unwrap(), state.restore().unwrap()), (anew(), Condition::Ours));
    assert_eq!(folder.key(), key);
    // A folder locked by another gateway.
    fs::remove_dir_all(&path).unwrap();
    let other = State::open(&folder.config());
    let theirs = folder.key();
    assert!(state.restore().unwrap_err().to_string().contains("another gateway"));
    assert_eq!(folder.key(), theirs);
    drop(other);
    // The other gateway ended: its folder and key remain, the lock is free.
    assert_eq!(state.restore().unwrap(), anew());
    assert_eq!(folder.key(), key);
}

#[test]
fn a_key_that_is_removed_alone_is_written_anew_and_one_that_is_replaced_is_left() {
    let folder = Folder::new();
    let mut state = State::open(&folder.config()).folder.expect("a folder");
    let (path, key) = (folder.0.join("state").join(KEY), folder.key());
    fs::remove_file(&path).unwrap();
    assert_eq!(state.restore().unwrap(), Condition::Restored("the session key"));
    assert_eq!((folder.key(), state.restore().unwrap()), (key.clone(), Condition::Ours));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // Keys appended: the sealing key is unchanged.
    let other = SessionKey::random().unwrap().to_secret_text();
    fs::write(&path, format!("{key}{other}\n")).unwrap();
    assert_eq!(state.restore().unwrap(), Condition::Ours);
    // The next start would seal with another key.
    for text in [format!("{other}\n"), format!("# new\n{other}\n{key}")] {
        fs::write(&path, &text).unwrap();
        assert_eq!((state.restore().unwrap(), folder.key()), (Condition::OtherKey, text));
    }
    fs::write(&path, "hunter2\n").unwrap();
    assert!(state.restore().unwrap_err().to_string().starts_with("session.key: line 1 is "));
    assert_eq!(folder.key(), "hunter2\n", "a file of somebody is not overwritten");
}

#[test]
fn where_keys_are_configured_no_file_of_one_is_missed() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.sessions.keys = vec![SessionKey::random().unwrap()];
    let mut state = State::open(&config).folder.expect("a folder");
    assert_eq!(state.restore().unwrap(), Condition::Ours);
    assert!(!folder.0.join("state").join(KEY).exists());
}
