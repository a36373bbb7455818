//! Changes in a test folder, made as editors and Kubernetes make them.

use std::os::unix::fs::symlink;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mcpool-watch-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    fn watch(&self, path: &str) -> Watch {
        let seen = fs::read(self.at(path)).ok().map(|text| fingerprint(&text));
        Watch::start(&self.at(path), seen).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn notices(watch: &mut Watch) -> bool {
    let changed = tokio::time::timeout(Duration::from_secs(20), watch.changed()).await;
    changed.is_ok_and(|change| change == Change::Content)
}

#[tokio::test]
async fn a_file_that_is_written_moved_over_or_made_anew_is_noticed() {
    let folder = Folder::new("edit");
    folder.write("file", "1");
    let mut watch = folder.watch("file");
    folder.write("file", "2");
    assert!(notices(&mut watch).await, "written in place");
    folder.write("other", "3");
    fs::rename(folder.at("other"), folder.at("file")).unwrap();
    assert!(notices(&mut watch).await, "another one moved over it");
    fs::rename(folder.at("file"), folder.at("file~")).unwrap();
    folder.write("file", "4");
    assert!(notices(&mut watch).await, "moved away and made anew");
}

#[tokio::test]
async fn a_swapped_link_is_noticed_wherever_it_stands() {
    let folder = Folder::new("links");
    for (version, text) in [("v1", "1"), ("v2", "2"), ("v3", "3")] {
        folder.write(&format!("{version}/file"), text);
    }
    // As Kubernetes mounts a ConfigMap: file -> ..data/file, ..data -> ..v1.
    symlink("v1", folder.at("..data")).unwrap();
    symlink("..data/file", folder.at("file")).unwrap();
    // A link to it from another folder.
    fs::create_dir(folder.at("etc")).unwrap();
    symlink(folder.at("file"), folder.at("etc/mcpool.toml")).unwrap();
    let mut watches = [folder.watch("file"), folder.watch("etc/mcpool.toml")];
    for version in ["v2", "v3"] {
        symlink(version, folder.at("..data_tmp")).unwrap();
        fs::rename(folder.at("..data_tmp"), folder.at("..data")).unwrap();
        for watch in &mut watches {
            assert!(notices(watch).await, "{version}");
        }
    }
}

#[tokio::test]
async fn a_change_before_the_watch_began_is_not_lost() {
    let folder = Folder::new("before");
    folder.write("file", "2");
    let mut watch = Watch::start(&folder.at("file"), Some(fingerprint(b"1"))).unwrap();
    assert!(notices(&mut watch).await);
}

#[tokio::test]
async fn neighbours_readers_and_a_missing_file_are_no_change() {
    let folder = Folder::new("still");
    folder.write("file", "1");
    let mut watch = folder.watch("file");
    let stirring = async {
        for n in 0..5 {
            folder.write("neighbour", &n.to_string());
            fs::read(folder.at("file")).unwrap();
            // Longer than a check takes.
            tokio::time::sleep(2 * QUIET).await;
        }
        fs::remove_file(folder.at("file")).unwrap();
        tokio::time::sleep(2 * QUIET).await;
    };
    tokio::select! {
        biased;
        change = watch.changed() => panic!("nothing changed: {change:?}"),
        () = stirring => {}
    }
    folder.write("file", "2");
    assert!(notices(&mut watch).await);
}

#[tokio::test]
async fn a_file_that_stays_away_is_spoken_of_once_and_so_is_its_return() {
    let folder = Folder::new("gone");
    folder.write("file", "1");
    let mut watch = folder.watch("file");
    fs::remove_file(folder.at("file")).unwrap();
    let change = tokio::time::timeout(Duration::from_secs(20), watch.changed()).await;
    assert!(matches!(change, Ok(Change::Gone(_))), "{change:?}");
    folder.write("neighbour", "1");
    assert!(tokio::time::timeout(2 * QUIET, watch.changed()).await.is_err(), "it was said");
    folder.write("file", "1");
    let change = tokio::time::timeout(Duration::from_secs(20), watch.changed()).await;
    assert_eq!(change, Ok(Change::Back));
}
