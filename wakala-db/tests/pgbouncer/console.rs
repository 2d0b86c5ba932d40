use std::time::{Duration, Instant};

use wakala_core::{ErrorKind, Retry};
use wakala_db::{Console, PgBouncerVersion};
use wakala_testbed::PgBouncer;

use crate::rig::{ROLE, console, console_at, postgres};

#[tokio::test(flavor = "multi_thread")]
async fn shows_and_reloads_and_survives_a_restart() {
    let server = postgres().await;
    let bouncer = PgBouncer::builder(&server).with_default_pool_size(7).start().await.unwrap();
    let console = console(&bouncer);
    assert!(console.version().await.unwrap() >= PgBouncerVersion::new(1, 18));
    let config = console.show("CONFIG").await.unwrap();
    let size = config.iter().find(|row| row.text("key") == Some("default_pool_size")).unwrap();
    assert_eq!((size.text("value"), size.number("value")), (Some("7"), Some(7)));
    console.reload().await.unwrap();

    // The kept connection is lost with the process; nobody should notice.
    bouncer.restart().await.unwrap();
    assert!(!console.show("POOLS").await.unwrap().is_empty());

    let error = console.show("CONFIG; RELOAD").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_answer_is_given_up_in_time_and_what_refuses_is_told_apart() {
    let server = postgres().await;
    let bouncer = PgBouncer::builder(&server).start().await.unwrap();
    let link = bouncer.link().unwrap();
    let limit = Duration::from_millis(300);
    let console = console_at(&bouncer, link.port()).with_limit(limit);
    console.show("POOLS").await.unwrap();

    link.freeze().await.unwrap();
    let started = Instant::now();
    let error = console.reload().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::DeadlineExceeded, Retry::ObserveFirst), "{error}");
    // The connection that still owes an answer was given up: this one is about connecting.
    let error = console.show("POOLS").await.unwrap_err();
    assert_eq!(error.retry(), Retry::Safe { after: None }, "{error}");
    assert!(started.elapsed() < limit * 4, "{:?}", started.elapsed());
    link.restore().await.unwrap();
    console.show("POOLS").await.unwrap();

    link.cut().await.unwrap();
    let error = console.show("POOLS").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Safe { after: None }),
        "{error}"
    );

    // Somebody who may use the pools, and not the console; and a wrong password.
    let stranger = Console::new(bouncer.config("app", ROLE).unwrap());
    assert_eq!(stranger.show("POOLS").await.unwrap_err().kind(), ErrorKind::Denied);
    let mut config = bouncer.config("app", "pgbouncer_admin").unwrap();
    config.password("wrong");
    let error = Console::new(config).show("POOLS").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}
