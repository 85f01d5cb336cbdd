//! The engine goes by the host's clock and timers, whatever time it really is.

use super::*;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A month, then an activity whose backoff is about a day.
const SLOW: &str = "  - a: {wait: P30D}\n  - b: {call: t.hand, metadata: {heyday: {retry: {initial_interval: P1D, maximum_interval: P1D, maximum_attempts: 2}}}}\n";

/// Checks what a run of [`SLOW`] recorded: more than a month, in no more than [`PATIENCE`],
/// which no wait of a test exceeds.
fn a_month(events: &[HistoryEvent]) {
    let (first, last) = (events.first().unwrap(), events.last().unwrap());
    let told = last.event_time.duration_since(first.event_time);
    assert!(told.as_secs_f64() > 30.5 * DAY.as_secs_f64(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_passes_when_the_clock_says_so() {
    let mut bench = Bench::new().await;
    bench.define("slow", SLOW);
    let run = bench.start("slow", json!({})).await;
    bench.until_event(&run, "TimerStarted").await;

    // Whoever asks for the result waits by the same clock.
    let before = bench.clock.now();
    let passing = async {
        loop {
            bench.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    let open = tokio::select! {
        biased;
        open = bench.engine().result(&run, HOUR) => open.unwrap(),
        () = passing => None,
    };
    assert_eq!(open, None);
    let waited = bench.clock.now().duration_since(before);
    assert!(waited.as_secs_f64() >= HOUR.as_secs_f64(), "{waited:?}");

    bench.clock.advance(30 * DAY);
    bench
        .attempt()
        .await
        .end(Err(Failure::transient("flaky", "again")));
    bench.backing_off(&run).await;
    bench.clock.advance(DAY);
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.attempt, 2);
    attempt.end(Ok(json!("done")));
    assert_eq!(bench.result(&run).await, json!("done"));
    a_month(&bench.events(&run).await);
}

/// Timers of a simulation: nothing happens until it is told to, and then time has passed.
struct Simulated {
    clock: Arc<ManualClock>,
    set: Mutex<HashMap<Target, Timestamp>>,
    happen: mpsc::UnboundedSender<Target>,
    happens: tokio::sync::Mutex<mpsc::UnboundedReceiver<Target>>,
}

#[async_trait]
impl Timers for Simulated {
    fn set(&self, target: Target, at: Timestamp) {
        lock(&self.set).insert(target, at);
    }

    fn cancel(&self, target: &Target) {
        lock(&self.set).remove(target);
    }

    async fn next(&self) -> Target {
        // The sender lives as long as the receiver.
        self.happens.lock().await.recv().await.unwrap()
    }
}

impl Simulated {
    /// Lets a target of that kind happen, at its time. Answers whether there is one.
    fn pass(&self, wanted: fn(&Target) -> bool) -> bool {
        let mut set = lock(&self.set);
        let Some(target) = set.keys().find(|target| wanted(target)).cloned() else {
            return false;
        };
        let at = set.remove(&target).unwrap();
        self.clock.0.send_modify(|now| *now = at.max(*now));
        self.happen.send(target).unwrap();
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulation_decides_what_happens_next() {
    let mut bench = Bench::new().await;
    bench.stop().await;
    let (happen, happens) = mpsc::unbounded_channel();
    let timers = Arc::new(Simulated {
        clock: Arc::clone(&bench.clock),
        set: Mutex::default(),
        happen,
        happens: tokio::sync::Mutex::new(happens),
    });
    let opened = EmbeddedEngine::open_with(
        bench.options.clone(),
        bench.host(),
        Arc::clone(&timers) as _,
    );
    bench.engine = Some(opened.await.unwrap());
    bench.define("slow", SLOW);
    let run = bench.start("slow", json!({})).await;
    bench
        .until("it waits", async || {
            timers.pass(|target| matches!(target, Target::Timer(..)))
        })
        .await;
    bench
        .attempt()
        .await
        .end(Err(Failure::transient("flaky", "again")));
    bench
        .until("it backs off", async || {
            timers.pass(|target| matches!(target, Target::Backoff(..)))
        })
        .await;
    bench.attempt().await.end(Ok(json!("done")));
    assert_eq!(bench.result(&run).await, json!("done"));
    a_month(&bench.events(&run).await);
}
