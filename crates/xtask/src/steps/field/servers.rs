//! The servers of the laboratory, the gateway before them, and what both tell afterwards.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::harness::gateway::Gateway;
use crate::harness::http;
use crate::harness::paths;
use crate::harness::run::{Job, Service};
use crate::steps::field::dialect::Dialect;

/// One process for everything over HTTP, and where programs write their ledgers.
pub(crate) struct Servers {
    /// Where the dialects over HTTP are.
    pub(crate) port: u16,
    lot: String,
    ledgers: PathBuf,
    python: String,
    _service: Service,
}

impl Servers {
    /// Starts the server with these dialects.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(lot: &str, dialects: &[Dialect]) -> Result<Self> {
        fs::create_dir_all(paths::logs())?;
        let file = paths::logs().join(format!("field-{lot}-dialects.json"));
        let ledgers = paths::logs().join(format!("field-{lot}-ledgers"));
        let _ = fs::remove_dir_all(&ledgers);
        fs::create_dir_all(&ledgers)?;
        let values: Vec<&Value> = dialects.iter().map(|dialect| &dialect.value).collect();
        fs::write(&file, serde_json::to_vec(&values)?)?;
        // Programs find theirs by name, and read no more than that.
        for dialect in dialects.iter().filter(|dialect| dialect.transport == "stdio") {
            fs::write(
                ledgers.join(format!("{}.json", dialect.name)),
                serde_json::to_vec(&[&dialect.value])?,
            )?;
        }
        let python = "python3".to_owned();
        let script = script("server.py");
        let job = Job::new(&python).args([script.as_str(), "--dialects", &file.display().to_string()]);
        let service = job.env("PYTHONDONTWRITEBYTECODE", "1").service(&format!("field-{lot}-server"))?;
        let port = service.ready()?;
        Ok(Self { port, lot: lot.to_owned(), ledgers, python, _service: service })
    }

    /// The URL of a dialect in a world.
    pub(crate) fn url(&self, dialect: &Dialect, world: &str) -> String {
        let path = if dialect.transport == "sse" { "sse" } else { "mcp" };
        format!("http://127.0.0.1:{}/{world}/{}/{path}", self.port, dialect.name)
    }

    /// The program of a dialect in a world, with its arguments.
    pub(crate) fn command(&self, dialect: &Dialect, world: &str) -> Vec<String> {
        let own = self.ledgers.join(format!("{}.json", dialect.name)).display().to_string();
        let ledger = self.ledger_file(dialect, world).display().to_string();
        vec![
            self.python.clone(),
            "-B".to_owned(),
            script("stdio_server.py"),
            own,
            dialect.name.clone(),
            ledger,
        ]
    }

    fn ledger_file(&self, dialect: &Dialect, world: &str) -> PathBuf {
        self.ledgers.join(format!("{world}--{}.jsonl", dialect.name))
    }

    /// The table of a dialect in the gateway, in one mode.
    pub(crate) fn table(&self, dialect: &Dialect, mode: &str) -> String {
        let more = dialect.value["table"].as_str().unwrap_or_default();
        let reached = if dialect.transport == "stdio" {
            let command = self.command(dialect, mode);
            format!("command = {:?}\nargs = {:?}\n", command[0], &command[1..])
        } else {
            format!("url = {:?}\n", self.url(dialect, mode))
        };
        let reset = mode == "exclusive";
        format!("{reached}mode = {mode:?}\nreset_on_release = {reset}\n{more}")
    }

    /// What was asked of every dialect in every world, by `WORLD/NAME`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) fn ledgers(&self, dialects: &[Dialect]) -> Result<Value> {
        let (status, page) = http::get(self.port, "/ledger")?;
        if status != 200 {
            bail!("the ledger answered {status}");
        }
        let mut ledgers: Value = serde_json::from_str(&page)?;
        for dialect in dialects.iter().filter(|dialect| dialect.transport == "stdio") {
            for mode in &dialect.modes {
                let told = told(&self.ledger_file(dialect, mode));
                ledgers[format!("{mode}/{}", dialect.name)] = told;
            }
        }
        Ok(ledgers)
    }

    /// The gateway before all dialects, each in its modes; it need not be ready, for some of them never are.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn gateway(&self, dialects: &[Dialect]) -> Result<Gateway> {
        let mut tables = Vec::new();
        for dialect in dialects {
            for mode in &dialect.modes {
                tables.push((backend(dialect, mode), self.table(dialect, mode)));
            }
        }
        let tables: Vec<_> = tables.iter().map(|(name, lines)| (name.as_str(), lines.clone())).collect();
        Gateway::of_any_health(&self.gateway_name(), "\n[log]\nformat = \"json\"\n", &tables)
    }

    /// The raw agents' program.
    pub(crate) fn agents(&self) -> Job {
        Job::new(&self.python).args(["-B", script("agents.py").as_str()])
    }

    fn gateway_name(&self) -> String {
        format!("field-{}-gateway", self.lot)
    }

    /// Where the gateway logs.
    pub(crate) fn log_file(&self) -> PathBuf {
        paths::logs().join(format!("{}.log", self.gateway_name()))
    }
}

/// The name of a dialect's backend in a mode.
pub(crate) fn backend(dialect: &Dialect, mode: &str) -> String {
    format!("{}-{}", &mode[..1], dialect.name)
}

fn script(name: &str) -> String {
    paths::root().join("tests").join("field").join(name).display().to_string()
}

/// The ledger a program has written, in the form of the server's.
fn told(file: &Path) -> Value {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut ledger = json!({"counts": {}, "runs": {}, "peaks": {}, "notes": []});
    let mut add = |table: &str, key: &str| {
        let count = ledger[table][key].as_u64().unwrap_or(0);
        ledger[table][key] = json!(count + 1);
    };
    let mut notes = Vec::new();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        for (key, table) in [("saw", "counts"), ("ran", "runs")] {
            if let Some(what) = line[key].as_str() {
                add(table, what);
            }
        }
        notes.extend(line["fault"].as_str().map(str::to_owned));
    }
    ledger["notes"] = json!(notes);
    ledger
}
