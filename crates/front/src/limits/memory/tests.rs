//! Pressure levels: the thresholds for entering and leaving each, the events they emit, and the requests that wait.

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
pub(crate) fn boundless(gauges: &Arc<Gauges>) -> Arc<MemoryAccount> {
    MemoryAccount::new(usize::MAX / 2, Arc::clone(gauges), Arc::new(Ears::default()))
}

fn memory(limit: usize) -> (Arc<MemoryAccount>, Arc<Ears>) {
    let ears = Arc::new(Ears::default());
    (MemoryAccount::new(limit, Arc::default(), Arc::clone(&ears) as Arc<dyn FrontObserve>), ears)
}

#[test]
fn each_level_is_entered_at_its_threshold_left_an_eighth_below_and_told_once() {
    let (memory, ears) = memory(800);
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
            memory.charge(Purpose::Outbound, bytes)
        } else {
            memory.release(Purpose::Outbound, bytes)
        }
        if heard.last() != Some(&level) {
            heard.push(level);
        }
        assert_eq!(memory.pressure(), level, "{step} to {}", memory.held());
    }
    // One line for each change, however many levels it took.
    assert_eq!(ears.0.lock().unwrap().len(), heard.len() - 1);
    assert_eq!(ears.0.lock().unwrap().last().unwrap(), "shedding calm 0");
}

#[test]
fn a_charge_is_given_back_once_and_in_parts() {
    let (memory, _) = memory(1_000);
    let mut whole = Charge::nothing(&memory);
    whole.add(100);
    let part = whole.split(30);
    assert_eq!(memory.held(), 100);
    drop(whole);
    assert_eq!(memory.held(), 30);
    drop(part);
    assert_eq!((memory.held(), memory.gauges.request_bytes.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_on_when_there_is_room_and_gives_up_when_there_is_none() {
    let (memory, _) = memory(800);
    let begun = Instant::now();
    memory.charge(Purpose::Request, 650);
    let wait = |patience| {
        let memory = Arc::clone(&memory);
        tokio::spawn(async move { memory.calm_within(patience).await })
    };
    assert!(!wait(Duration::from_secs(5)).await.unwrap());
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    let waiting = wait(Duration::from_secs(5));
    tokio::task::yield_now().await;
    memory.release(Purpose::Request, 300);
    assert!(waiting.await.unwrap());
    memory.charge(Purpose::Request, 300);
    let waiting = wait(Duration::from_secs(5));
    tokio::task::yield_now().await;
    memory.charge(Purpose::Request, 60);
    assert!(!waiting.await.unwrap());
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[test]
fn many_threads_leave_the_account_where_it_was() {
    let (memory, ears) = memory(8_000);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for size in (1..2_000).cycle().take(20_000) {
                    let mut charge = Charge::nothing(&memory);
                    charge.add(size);
                }
            });
        }
    });
    assert_eq!((memory.held(), memory.pressure()), (0, PressureLevel::Calm));
    // Every change began where the one before it ended.
    let ears = ears.0.lock().unwrap();
    let word = |line: &String, at: usize| line.split(' ').nth(at).unwrap().to_owned();
    assert!(ears.windows(2).all(|pair| word(&pair[0], 1) == word(&pair[1], 0)));
}
