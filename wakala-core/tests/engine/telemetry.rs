//! What goes on, for other programs: the journal as a feed, the live feed, spans, counters. Names are those of the table.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use wakala_core::testing::{Answer, FakeMetrics};
use wakala_core::{
    Event, LiveFeed, MetricsObserver, Observer, Playbook, Record, Revert, Soak, Status, TracingObserver,
    guard,
};

use crate::common::{Bench, MINUTE, lost, node, setting};

const TABLE: &str = include_str!("../../../docs/telemetry.md");

/// A run with all there is: a step that is retried, a soak, and everything back.
async fn whole_run(observer: Arc<dyn Observer>) -> Bench {
    let mut bench = Bench::new();
    bench.engine = bench.engine.with_observer(observer);
    let limit = setting("limit");
    limit.fail_next(lost());
    let metrics = FakeMetrics::new().with("error_rate", Answer::Value(0.001));
    let guard = guard::metric(Arc::new(metrics), "error_rate").below(0.01);
    let playbook = Playbook::builder("test")
        .then(node(&limit, "limit"))
        .then(Soak::new("soak", MINUTE).with_guard(guard))
        .build()
        .unwrap();
    assert_eq!(bench.run(&playbook).await.status, Status::Succeeded);
    assert_eq!(bench.revert(&playbook, Revert::Everything).await.status, Status::Compensated);
    bench
}

#[tokio::test]
async fn the_journal_is_a_feed_with_a_cursor() {
    let bench = whole_run(Arc::new(wakala_core::Silent)).await;
    let all = bench.engine.events(&"run-1".into(), None).await.unwrap();
    let later = bench.engine.events(&"run-1".into(), Some(2)).await.unwrap();
    assert_eq!(later, all[3..]);
    let last = all.last().unwrap().seq;
    assert_eq!(bench.engine.events(&"run-1".into(), Some(last)).await.unwrap(), []);
}

#[tokio::test]
async fn the_live_feed_has_every_run_and_says_what_was_missed() {
    let feed = LiveFeed::new(4);
    let (mut slow, mut heard) = (feed.subscribe(), 0);
    whole_run(Arc::new(feed)).await;
    let missed = match slow.try_recv() {
        Err(tokio::sync::broadcast::error::TryRecvError::Lagged(missed)) => missed,
        other => panic!("{other:?}"),
    };
    assert!(missed > 10, "{missed}");
    let mut last = None;
    while let Ok((run, event)) = slow.try_recv() {
        assert_eq!((run.id.as_str(), run.playbook.as_str()), ("run-1", "test"));
        (heard, last) = (heard + 1, Some(event));
    }
    assert_eq!(heard, 4);
    assert!(matches!(last, Some(Event::Record(entry)) if matches!(entry.record, Record::Ended { .. })));
}

#[test]
fn counters_are_those_of_the_table() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(whole_run(Arc::new(MetricsObserver::new())));
    });
    let mut names = BTreeSet::new();
    let mut counted = std::collections::BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let (_, key) = key.into_parts();
        let DebugValue::Counter(count) = value else { panic!("{key:?} is no counter") };
        *counted.entry(key.name().to_owned()).or_insert(0) += count;
        names.insert(key.name().to_owned());
        for label in key.labels() {
            assert!(
                TABLE.contains(&format!("`{}`", label.key())),
                "label {} is not in the table",
                label.key()
            );
        }
    }
    for name in &names {
        assert!(TABLE.contains(&format!("| `{name}` |")), "{name} is not in the table");
    }
    assert_eq!(counted["wakala_runs_started_total"], 1);
    assert_eq!(counted["wakala_runs_ended_total"], 2);
    assert_eq!(counted["wakala_effects_total"], 3, "two attempts and one undo");
    assert!(counted["wakala_retries_total"] == 1 && counted["wakala_guard_verdicts_total"] == 5);
    // Every counter of the table that a run without trouble and takeover has.
    assert_eq!(names.len(), 6, "{names:?}");
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeSet<String>>>);

impl Seen {
    fn add(&self, name: &str) {
        self.0.lock().unwrap().insert(name.to_owned());
    }
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, _: &dyn std::fmt::Debug) {
        if field.name().starts_with("wakala") {
            self.add(field.name());
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Seen {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: Context<'_, S>,
    ) {
        self.add(attributes.metadata().name());
        attributes.record(&mut self.clone());
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        event.record(&mut self.clone());
    }
}

#[test]
fn spans_and_fields_are_those_of_the_table() {
    let seen = Seen::default();
    // Where there is one dispatcher only, `tracing` asks that of the thread which meets a span first; the threads of other
    // tests have none, and what they meet would be off for good.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(seen.clone()), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(whole_run(Arc::new(TracingObserver)));
    });
    let seen = seen.0.lock().unwrap().clone();
    for name in &seen {
        assert!(TABLE.contains(&format!("`{name}`")), "{name} is not in the table");
    }
    for span in ["wakala.run", "wakala.revert", "wakala.step", "wakala.soak", "wakala.undo", "wakala.seq"] {
        assert!(seen.contains(span), "{span} is missing: {seen:?}");
    }
}
