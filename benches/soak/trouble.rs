//! What goes wrong: backends are killed, forget their sessions, and stand behind a network that fails (F1, F4).
//!
//! The subtle thing: every trouble has a beginning and an end that are written down, because a call may only be lost if
//! it was under way during one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use mcpool_testkit::fault_proxy::{End, Flow, Shot, Strike, Way, Weather};
use tokio_util::sync::CancellationToken;

use super::{
    dice::Dice,
    world::{Place, World},
};
use crate::process;

/// What becomes of a connection may show this much later, on a busy machine.
const AFTERMATH: Duration = Duration::from_secs(3);
/// Troubles remembered; a call is at most a few minutes old.
const REMEMBERED: usize = 256;

/// Which troubles there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kinds {
    /// All of them.
    All,
    /// Restarts at a fixed interval and sessions that expire, as R3 wants it.
    RestartsAndExpiry,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Past>);

#[derive(Debug, Default)]
struct Past {
    spans: std::collections::VecDeque<(Instant, Option<Instant>)>,
    counts: BTreeMap<&'static str, u64>,
}

impl History {
    /// Something that no call may be lost by.
    fn count(&self, kind: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).counts.entry(kind).or_default() += 1;
    }

    fn begin(&self, kind: &'static str) {
        self.count(kind);
        let mut past = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if past.spans.len() == REMEMBERED {
            past.spans.pop_front();
        }
        past.spans.push_back((Instant::now(), None));
    }

    fn end(&self) {
        let mut past = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = past.spans.back_mut() {
            last.1 = Some(Instant::now());
        }
    }

    /// Whether something went wrong between these two moments.
    pub(super) fn touches(&self, from: Instant, to: Instant) -> bool {
        let past = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        past.spans
            .iter()
            .any(|(began, ended)| *began <= to && ended.is_none_or(|end| end + AFTERMATH >= from))
    }

    /// How often each kind happened.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).counts.clone()
    }
}

/// Makes trouble until it is told to stop, and leaves everything running and the weather fine.
///
/// # Errors
/// When a backend cannot be started again.
pub(super) async fn make(
    world: &mut World,
    kinds: Kinds,
    every: Duration,
    mut dice: Dice,
    history: &History,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut round = 0;
    loop {
        let pause = match kinds {
            Kinds::All => every / 2 + every * u32::try_from(dice.below(100))? / 100,
            Kinds::RestartsAndExpiry => every,
        };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(());
        }
        match kinds {
            Kinds::All => anything(world, &mut dice, history).await?,
            Kinds::RestartsAndExpiry => restart_or_expire(world, round, &mut dice, history).await?,
        }
        round += 1;
    }
}

/// Every sixth time all backends are killed; in between one of them forgets its sessions.
async fn restart_or_expire(
    world: &mut World,
    round: u64,
    dice: &mut Dice,
    history: &History,
) -> anyhow::Result<()> {
    if round % 6 == 5 {
        for place in &mut world.places {
            killed(place, dice, history).await?;
        }
        return kill_program(world, history);
    }
    // No excuse for a lost call: what is in flight is answered, and what is refused did not run.
    history.count("sessions forgotten");
    pick(world, dice)?.tell("forget")
}

async fn anything(world: &mut World, dice: &mut Dice, history: &History) -> anyhow::Result<()> {
    match dice.below(12) {
        0 | 1 => killed(pick(world, dice)?, dice, history).await,
        2 => kill_program(world, history),
        3 => at_once("sessions forgotten", history, || pick(world, dice)?.tell("forget")),
        4 => at_once("sessions and streams lost", history, || pick(world, dice)?.tell("forget-all")),
        5 => at_once("streams closed", history, || pick(world, dice)?.tell("close-streams")),
        6 | 7 => cut(pick(world, dice)?, dice, history).await,
        _ => weather(pick(world, dice)?, dice, history).await,
    }
}

fn pick<'a>(world: &'a mut World, dice: &mut Dice) -> anyhow::Result<&'a mut Place> {
    let at = usize::try_from(dice.below(world.places.len() as u64))?;
    world.places.get_mut(at).ok_or_else(|| anyhow::anyhow!("there is no backend"))
}

fn at_once(
    kind: &'static str,
    history: &History,
    act: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    history.begin(kind);
    let done = act();
    history.end();
    done
}

async fn killed(place: &mut Place, dice: &mut Dice, history: &History) -> anyhow::Result<()> {
    history.begin("backend killed");
    place.down();
    tokio::time::sleep(dice.millis(0, 1500)).await;
    let up = place.up().await;
    history.end();
    up
}

fn kill_program(world: &World, history: &History) -> anyhow::Result<()> {
    at_once("program killed", history, || {
        for pid in process::children_of(world.gateway.pid(), "stdio-server")? {
            process::kill(pid)?;
        }
        Ok(())
    })
}

async fn cut(place: &Place, dice: &mut Dice, history: &History) -> anyhow::Result<()> {
    let end = if dice.percent(50) { End::Close } else { End::Reset };
    if dice.percent(30) {
        return at_once("connections cut", history, || {
            place.proxy.end_all(end);
            Ok(())
        });
    }
    let way = if dice.percent(50) { Way::ToServer } else { Way::ToClient };
    history.begin("cut at a byte");
    place.proxy.strike(Strike { way, after: dice.below(20_000), shot: Shot::Cut(end) });
    // It happens with the traffic.
    tokio::time::sleep(Duration::from_secs(1)).await;
    place.proxy.clear();
    history.end();
    Ok(())
}

async fn weather(place: &Place, dice: &mut Dice, history: &History) -> anyhow::Result<()> {
    let fine = Weather::default;
    let (kind, weather) = match dice.below(5) {
        0 => ("late", Weather { delay: dice.millis(20, 500), ..fine() }),
        1 => ("slow", Weather { bytes_per_second: Some(2_000 + dice.below(20_000)), ..fine() }),
        2 => ("half-open for a while", Weather { flow: Flow::Held, ..fine() }),
        3 => ("a black hole, then resets", Weather { flow: Flow::Swallowed, ..fine() }),
        _ => ("connections refused", Weather { flow: Flow::Refused, ..fine() }),
    };
    let loses = weather.flow == Flow::Swallowed;
    history.begin(kind);
    place.proxy.set(weather);
    tokio::time::sleep(dice.millis(300, 3000)).await;
    place.proxy.clear();
    if loses {
        place.proxy.end_all(End::Reset);
    }
    history.end();
    Ok(())
}
