//! A gateway process, ended with the test.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use mcpool_testkit::agent::{Agent, AgentConfig};
use serde_json::Value;

pub(crate) struct Process {
    child: Child,
    pub(crate) folder: PathBuf,
    listen: SocketAddr,
    admin: SocketAddr,
}

/// Timeout of every wait; only a failing test reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

impl Process {
    /// Starts a process with this configuration.
    pub(crate) async fn start(name: &str, config: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mcpool-life-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        let (listen, admin) = (free(), free());
        fs::write(folder.join("mcpool.toml"), config).expect("a file");
        let log = fs::File::create(folder.join("log")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcpool"));
        command.args(["serve", "--log-format", "json", "--config"]).arg(folder.join("mcpool.toml"));
        command.args(["--listen", &listen.to_string(), "--admin-listen", &admin.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the binary starts");
        let process = Self { child, folder, listen, admin };
        let ready = async {
            while tokio::net::TcpStream::connect(listen).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.expect("the gateway listens");
        process
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.listen)
    }

    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    pub(crate) async fn agent(&self, backend: &str) -> Agent {
        let config = AgentConfig::http(self.url(&format!("{backend}/mcp")));
        Agent::ready(config).await.expect("an agent is served")
    }

    /// Replaces the configuration file, as editors do.
    pub(crate) fn configure(&self, text: &str) {
        let new = self.folder.join("mcpool.toml.new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, self.folder.join("mcpool.toml")).expect("in place");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(sent.expect("kill is there").success(), "SIG{name} was not sent");
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).expect("a log")
    }

    /// A page of the admin listener.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        let agent = Agent::connect(AgentConfig::http(format!("http://{}/mcp", self.admin))).await;
        let got = agent.expect("no dial yet").get(path, &[("accept", "*/*")]).await.expect("a page");
        (got.status, String::from_utf8_lossy(&got.body).into_owned())
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path).await.1).expect("JSON")
    }

    /// The value of a series, by its text.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.page("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    pub(crate) async fn series(&self) -> usize {
        self.page("/metrics").await.1.lines().filter(|line| !line.starts_with('#')).count()
    }

    /// Waits until a series has this value.
    pub(crate) async fn until_metric(&self, series: &str, value: f64) {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(series).await;
            if now == Some(value) {
                return;
            }
            assert!(Instant::now() < until, "{series} is {now:?}, not {value}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until this many configurations were applied.
    pub(crate) async fn until_generation(&self, generation: u32) {
        self.until_metric("mcpool_config_generation", f64::from(generation)).await;
    }

    /// Waits for the process to end; returns how long it took.
    pub(crate) async fn ended(&mut self, patience: Duration) -> (ExitStatus, Duration) {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return (status, since.elapsed());
            }
            assert!(since.elapsed() < patience, "still there after {patience:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
