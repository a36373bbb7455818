//! Pressure levels: where they are entered and left, who is told, and who waits.

use super::*;

/// Remembers what it was told.
#[derive(Default)]
struct Ears(Mutex<Vec<String>>);

impl FrontObserve for Ears {
    fn on(&self, event: &FrontEvent<'_>) {
        if let FrontEvent::Overload { from, to, held, .. } = event {
            self.0.lock().unwrap().push(format!("{} {} {held}", from.as_str(), to.as_str()));
        }
    }
}

/// An account nobody reaches the end of.
pub(crate) fn boundless(gauges: &Arc<Gauges>) -> Arc<Budget> {
    Budget::new(usize::MAX / 2, Arc::clone(gauges), Arc::new(Ears::default()))
}

fn budget(limit: usize) -> (Arc<Budget>, Arc<Ears>) {
    let ears = Arc::new(Ears::default());
    (Budget::new(limit, Arc::default(), Arc::clone(&ears) as Arc<dyn FrontObserve>), ears)
}

#[test]
fn each_level_is_entered_at_its_threshold_left_an_eighth_below_and_told_once() {
    let (budget, ears) = budget(800);
    let mut heard = Vec::new();
    for (step, level) in [
        (599_i64, PressureLevel::Calm),
        (1, PressureLevel::Holding),
        (99, PressureLevel::Holding),
        (1, PressureLevel::Refusing),
        (100, PressureLevel::Shedding),
        (1, PressureLevel::Shedding),
        (-101, PressureLevel::Shedding),
        (-1, PressureLevel::Refusing),
        (-99, PressureLevel::Refusing),
        (-1, PressureLevel::Holding),
        (-99, PressureLevel::Holding),
        (-1, PressureLevel::Calm),
        (400, PressureLevel::Shedding),
        (-899, PressureLevel::Calm),
    ] {
        let bytes = usize::try_from(step.unsigned_abs()).unwrap();
        if step > 0 {
            budget.take(Kept::Outbound, bytes)
        } else {
            budget.give(Kept::Outbound, bytes)
        }
        if heard.last() != Some(&level) {
            heard.push(level);
        }
        assert_eq!(budget.pressure(), level, "{step} to {}", budget.held());
    }
    // One line for each change, however many levels it took.
    assert_eq!(ears.0.lock().unwrap().len(), heard.len() - 1);
    assert_eq!(ears.0.lock().unwrap().last().unwrap(), "shedding calm 0");
}

#[test]
fn a_charge_is_given_back_once_and_in_parts() {
    let (budget, _) = budget(1_000);
    let mut whole = Charge::nothing(&budget);
    whole.add(100);
    let part = whole.split(30);
    assert_eq!(budget.held(), 100);
    drop(whole);
    assert_eq!(budget.held(), 30);
    drop(part);
    assert_eq!((budget.held(), budget.gauges.request_bytes.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_on_when_there_is_room_and_gives_up_when_there_is_none() {
    let (budget, _) = budget(800);
    let begun = Instant::now();
    budget.take(Kept::Request, 650);
    let wait = |patience| {
        let budget = Arc::clone(&budget);
        tokio::spawn(async move { budget.calm_within(patience).await })
    };
    assert!(!wait(Duration::from_secs(5)).await.unwrap());
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    let waiting = wait(Duration::from_secs(5));
    tokio::task::yield_now().await;
    budget.give(Kept::Request, 300);
    assert!(waiting.await.unwrap());
    budget.take(Kept::Request, 300);
    let waiting = wait(Duration::from_secs(5));
    tokio::task::yield_now().await;
    budget.take(Kept::Request, 60);
    assert!(!waiting.await.unwrap());
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[test]
fn many_threads_leave_the_account_where_it_was() {
    let (budget, ears) = budget(8_000);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for size in (1..2_000).cycle().take(20_000) {
                    let mut charge = Charge::nothing(&budget);
                    charge.add(size);
                }
            });
        }
    });
    assert_eq!((budget.held(), budget.pressure()), (0, PressureLevel::Calm));
    // Every change began where the one before it ended.
    let ears = ears.0.lock().unwrap();
    let word = |line: &String, at: usize| line.split(' ').nth(at).unwrap().to_owned();
    assert!(ears.windows(2).all(|pair| word(&pair[0], 1) == word(&pair[1], 0)));
}
