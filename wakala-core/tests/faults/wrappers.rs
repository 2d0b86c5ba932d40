//! The fault wrappers do to a call what they say.

use std::time::Duration;

use wakala_core::testing::{
    Answer, FakeMetrics, FakeTarget, Fault, Faults, FaultyMetrics, FaultyStore, FaultyTarget, context,
};
use wakala_core::{
    Clock, ErrorKind, MemoryStore, MetricsSource, Retry, RunStore, ScalableTarget, ScaleOptions, Units,
};

#[tokio::test]
async fn each_fault_is_what_it_says() {
    for (fault, retry, size) in [
        (Fault::Retryable { after: None }, Some(Retry::Safe { after: None }), 10),
        (
            Fault::Retryable { after: Some(Duration::from_secs(7)) },
            Some(Retry::Safe { after: Some(Duration::from_secs(7)) }),
            10,
        ),
        (Fault::Rejected, Some(Retry::Never), 10),
        (Fault::AnswerLost, Some(Retry::ObserveFirst), 50),
        (Fault::RequestLost, Some(Retry::ObserveFirst), 10),
        (Fault::Hang, None, 10),
        (Fault::HangAfterEffect, None, 50),
    ] {
        let (clock, cx) = context();
        let (target, faults) = (FakeTarget::new("api", 10), Faults::new().on("set_desired", 2, fault));
        let faulty = FaultyTarget::new(target.clone(), &faults);
        faulty.set_desired(&cx, Units(10), ScaleOptions::default()).await.unwrap();
        assert!(!faults.reached(), "the first call is not the second");
        let answer = clock
            .run(async {
                tokio::select! {
                    biased;
                    answer = faulty.set_desired(&cx, Units(50), ScaleOptions::default()) => Some(answer),
                    () = clock.sleep(Duration::from_secs(3600)) => None,
                }
            })
            .await;
        assert_eq!(answer.map(|answer| answer.unwrap_err().retry()), retry, "{fault:?}");
        assert_eq!((target.size(), faults.reached()), (Units(size), true), "{fault:?}");
        faulty.set_desired(&cx, Units(20), ScaleOptions::default()).await.unwrap();
        assert_eq!((target.size(), faults.calls("set_desired")), (Units(20), 3), "{fault:?}");
    }
}

#[tokio::test]
async fn reads_fail_too_and_a_check_is_no_write() {
    let (_, cx) = context();
    let target = FakeTarget::new("api", 10);
    let faults = Faults::new().on("observe", 1, Fault::Rejected).on("set_desired", 1, Fault::Rejected);
    let faulty = FaultyTarget::new(target.clone(), &faults);
    assert_eq!(faulty.observe(&cx).await.unwrap_err().kind(), ErrorKind::Denied);
    faulty.set_desired(&cx, Units(50), ScaleOptions::dry_run()).await.unwrap();
    assert!(!faults.reached(), "a dry run met the fault of a write");
    faults.clear();
    assert_eq!(faulty.observe(&cx).await.unwrap().desired, Units(10));

    let faults = Faults::new().from("latest", 2, Fault::RequestLost);
    let metrics = FaultyMetrics::new(FakeMetrics::new().with("up", Answer::Value(1.0)), &faults);
    assert_eq!(metrics.latest(&cx, &"up".into()).await.unwrap().unwrap().value, 1.0);
    for _ in 0..3 {
        assert_eq!(metrics.latest(&cx, &"up".into()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }

    let faults = Faults::new().on("list", 1, Fault::Retryable { after: None });
    let store = FaultyStore::new(MemoryStore::new(), &faults);
    assert_eq!(store.list().await.unwrap_err().kind(), ErrorKind::RateLimited);
    assert_eq!(store.list().await.unwrap(), []);
}
