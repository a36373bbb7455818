//! Where things are: the root of the workspace, the ignored `.deps`, the build's target folder.

use std::path::PathBuf;
use std::sync::OnceLock;

/// The gateway's program, where it is not that of the debug build.
static GATEWAY: OnceLock<PathBuf> = OnceLock::new();

/// The root of the workspace, from the manifest cargo runs us for.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var("CARGO_MANIFEST_DIR");
    let crate_dir = PathBuf::from(manifest.as_deref().unwrap_or(env!("CARGO_MANIFEST_DIR")));
    crate_dir.ancestors().nth(2).map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// What is installed for the gate: virtual environments and node modules.
pub(crate) fn deps() -> PathBuf {
    root().join(".deps")
}

/// Real clients and servers, and the pinned versions of what they need.
pub(crate) fn sdk() -> PathBuf {
    root().join("tests").join("sdk")
}

/// The private Node of the conformance suites, which need 22 or newer.
pub(crate) fn node22() -> PathBuf {
    let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "x64" };
    deps().join("conformance/node_modules").join(format!("node-linux-{arch}")).join("bin").join("node")
}

/// One log per step, process and cell.
pub(crate) fn logs() -> PathBuf {
    deps().join("logs")
}

/// The build's target folder.
pub(crate) fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    root().join(target)
}

/// A program of the debug build.
pub(crate) fn built(program: &str) -> PathBuf {
    target().join("debug").join(program)
}

/// The gateway's program: that of the debug build, unless another one was chosen.
pub(crate) fn gateway() -> PathBuf {
    GATEWAY.get().cloned().unwrap_or_else(|| built("mcpool"))
}

/// Chooses the gateway's program for the rest of this run; the first choice stays.
pub(crate) fn choose_gateway(program: PathBuf) {
    let _ = GATEWAY.set(program);
}

/// The program over the official Rust SDK, which is a workspace of its own.
pub(crate) fn rmcp() -> PathBuf {
    target().join("rmcp").join("debug").join("mcpool-rmcp")
}

/// The interpreter of one of our virtual environments.
pub(crate) fn python(venv: &str) -> PathBuf {
    deps().join(venv).join("bin").join("python")
}
