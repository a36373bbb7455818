//! Detects the memory limit of this process: the smallest limit of its control groups, or the machine's memory. Linux
//! only.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use mcpool_front::FrontLimits;

/// Default of `limits.buffered`: a quarter of the memory in whole MiB, at least 16 MiB.
pub(super) fn buffered() -> usize {
    static FOUND: OnceLock<usize> = OnceLock::new();
    *FOUND.get_or_init(|| limit(Path::new("/")).map_or(FrontLimits::default().buffered_bytes, quarter))
}

fn quarter(limit: u64) -> usize {
    let mebibytes = (limit >> 22).clamp(LEAST, MOST);
    usize::try_from(mebibytes << 20).unwrap_or(usize::MAX / 2)
}

/// The smallest limit found under this root.
fn limit(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let of_groups = groups.lines().flat_map(files).filter_map(|file| {
        let text = fs::read_to_string(root.join(file)).ok()?;
        // Unlimited is `max`, or on older systems a huge number.
        text.trim().parse::<u64>().ok().filter(|limit| *limit < 1 << 60)
    });
    let machine = read("proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1_024)
    });
    of_groups.chain(machine).min()
}

/// Limit files for one line of `/proc/self/cgroup`: of its group and all parents. In a container its own group is the
/// root.
fn files(line: &str) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (base, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        some if some.split(',').any(|controller| controller == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    let group = Path::new(group.trim_start_matches('/'));
    group.ancestors().map(|group| Path::new(base).join(group).join(file)).collect()
}

/// Bounds of the default, in MiB.
const LEAST: u64 = 16;
const MOST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, files: &[(&str, &str)]) -> Option<u64> {
        let root = std::env::temp_dir().join(format!("mcpool-memory-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = limit(&root);
        let _ = fs::remove_dir_all(root);
        found
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        1000 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "4096\n"),
        ];
        assert_eq!(machine("nested", &files), Some(4_096));
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "5:cpu:/x\n4:hugetlb,memory:/x\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "8192\n"),
        ];
        assert_eq!(machine("older", &files), Some(8_192));
    }

    #[test]
    fn without_a_limit_it_is_what_the_machine_has() {
        let unlimited = "9223372036854771712\n";
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "4:memory:/\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", unlimited),
        ];
        assert_eq!(machine("plain", &files), Some(1_024_000));
        assert_eq!(machine("nothing", &[]), None);
    }

    #[test]
    fn a_quarter_is_whole_and_never_too_little() {
        assert_eq!(quarter(256 << 20), 64 << 20);
        assert_eq!(quarter((1 << 30) + 5_000_000), 257 << 20);
        assert_eq!(quarter(1 << 20), 16 << 20);
    }
}
