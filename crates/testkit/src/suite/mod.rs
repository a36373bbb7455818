//! The client's part in the official conformance suite: the gateway as the client under test, and an agent behind it
//! that makes it do what a scenario looks at.
//!
//! The suite starts one server for each scenario and runs a command with that server's URL. Here the command is a
//! gateway with this one backend and an agent that follows a script; the server's checks are then checks of how the
//! gateway speaks to backends. The subtle thing: the agent plays by the rules but adds nothing the gateway must add
//! itself; and what it gets back is looked at too, since the suite sees only what reached its server.

mod caller;
mod gateway;
mod marks;
mod script;

use std::path::PathBuf;

use serde_json::Value;

use self::caller::Caller;
pub use self::caller::Speech;
use self::gateway::Gateway;

/// One run of a scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name in the suite.
    pub name: String,
    /// What the suite says besides, or null.
    pub context: Value,
    /// Where its server is.
    pub url: String,
    /// The gateway's program.
    pub mcpool: PathBuf,
    /// The `era` of the backend in the gateway.
    pub era: String,
    /// How the agent speaks.
    pub speech: Speech,
}

impl Scenario {
    /// Plays it from the start of the gateway to its end.
    ///
    /// # Errors
    /// When the gateway does not start, or the agent does not get what it should.
    pub async fn play(&self) -> Result<(), String> {
        let gateway = Gateway::start(&self.mcpool, &self.url, &self.era, self.speech).await?;
        let played = async {
            let caller = Caller::open(&gateway.url, self.speech, script::capabilities(&self.name)).await?;
            let played = script::play(&self.name, &self.context, &caller).await;
            caller.close().await;
            played
        };
        let played = played.await;
        gateway.stop().await;
        played
    }
}
