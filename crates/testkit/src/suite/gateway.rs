//! The gateway's program with one backend, on ports of its own.
//!
//! The subtle thing: its sessions are to end as they do in life, so it is asked to stop and given time to say goodbye
//! to the server before it is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::Speech;

/// Until it says where it listens.
const START: Duration = Duration::from_secs(20);
/// From the signal to its end.
const STOP: Duration = Duration::from_secs(5);

/// A gateway that runs; killed when it is dropped.
pub(super) struct Gateway {
    /// Where agents reach its backend over Streamable HTTP.
    pub(super) url: String,
    process: Child,
    _folder: Folder,
}

/// A folder of its own, which goes with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Whatever stays is the system's to clean up.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Gateway {
    /// Starts the program in front of this backend.
    pub(super) async fn start(
        program: &Path,
        backend: &str,
        era: &str,
        speech: Speech,
    ) -> Result<Self, String> {
        let folder = Folder(std::env::temp_dir().join(format!("mcpool-suite-{}", std::process::id())));
        let config = folder.0.join("mcpool.toml");
        let written = std::fs::create_dir_all(&folder.0)
            .and_then(|()| std::fs::write(&config, configuration(backend, era, speech)));
        written.map_err(|e| format!("{}: {e}", config.display()))?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MCPOOL_")) {
            command.env_remove(name);
        }
        command.arg("serve").arg("--config").arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().map_err(|e| format!("{}: {e}", program.display()))?;
        let said = tokio::time::timeout(START, address(&mut process)).await;
        let url = said.map_err(|_| "the gateway does not say where it listens".to_owned())??;
        Ok(Self { url: format!("{url}/mcp"), process, _folder: folder })
    }

    /// Asks it to end, and waits for that.
    pub(super) async fn stop(mut self) {
        let Some(pid) = self.process.id() else { return };
        let asked = Command::new("kill").arg("-TERM").arg(pid.to_string()).status().await;
        if asked.is_ok_and(|status| status.success()) {
            // One that takes too long is killed by the drop.
            let _ = tokio::time::timeout(STOP, self.process.wait()).await;
        }
    }
}

fn configuration(backend: &str, era: &str, speech: Speech) -> String {
    // An agent without a session that may be asked things is sent back where a server might keep something in one.
    let state = match speech {
        Speech::Handshake => "unknown",
        Speech::Modern => "none",
    };
    // Times are long: many scenarios run at once, on whatever machine there is.
    format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         sessions.state_dir = \"state\"\nshutdown.grace = \"3s\"\n\n\
         [backends.suite]\nurl = {backend:?}\nera = {era:?}\nstate = {state:?}\n\
         handshake_timeout = \"10s\"\nfirst_open_timeout = \"10s\"\n"
    )
}

/// The address in its first words; the rest of them is read to the end, so that it never waits for a reader.
async fn address(process: &mut Child) -> Result<String, String> {
    let stdout = process.stdout.take().ok_or("the gateway's output is not piped")?;
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let address = line.split_once(" serves agents on ").and_then(|(_, rest)| rest.split(' ').next());
        if let Some(address) = address {
            let address = address.to_owned();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(address);
        }
    }
    Err("the gateway ended at its start".to_owned())
}
