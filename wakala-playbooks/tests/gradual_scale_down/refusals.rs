//! Parameters: what is refused at once, what each of them does, and that those left out are the runbook's.

use std::time::Duration;

use wakala_core::ErrorKind;
use wakala_playbooks::gradual_scale_down::{
    ApiMetrics, GradualScaleDown, Production, SHORTEST_SOAK, Simulated,
};

use crate::site::{MINUTE, Rewired, SECOND, assert_says, quiet, with};

#[track_caller]
fn refused(parameters: &GradualScaleDown) -> String {
    let world = quiet().build().unwrap();
    let error = parameters.playbook(&Simulated::new(&world)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    error.to_string()
}

#[test]
fn parameters_that_can_never_work_are_named() {
    let fractions = |list: &[f64]| with(|p| p.fractions = list.to_vec());
    let cases: [(&str, GradualScaleDown); 26] = [
        ("fractions is empty", fractions(&[])),
        ("fraction 0 must lie between 0 and 1", fractions(&[0.0])),
        ("fraction -0.5 must lie between 0 and 1", fractions(&[-0.5])),
        ("fraction 1 must lie between 0 and 1", fractions(&[1.0, 0.5])),
        ("fraction 1.5 must lie between 0 and 1", fractions(&[1.5])),
        ("fraction NaN must lie between 0 and 1", fractions(&[0.8, f64::NAN])),
        ("fraction inf must lie between 0 and 1", fractions(&[f64::INFINITY])),
        ("fraction 0.8 comes after 0.6", fractions(&[0.6, 0.8])),
        ("fraction 0.6 comes after 0.6", fractions(&[0.6, 0.6])),
        ("api_minimum is 0", with(|p| p.api_minimum = 0)),
        ("worker_minimum is 0", with(|p| p.worker_minimum = 0)),
        ("soak is 9m 59s, at least 10m", with(|p| p.soak = 599 * SECOND)),
        ("soak is 0s, at least 10m", with(|p| p.soak = Duration::ZERO)),
        ("soak is 0s, which watches nothing", with(|p| (p.soak, p.rehearsal) = (Duration::ZERO, true))),
        ("max_error_rate is 0,", with(|p| p.max_error_rate = 0.0)),
        ("max_error_rate is 1,", with(|p| p.max_error_rate = 1.0)),
        ("max_error_rate is -0.1,", with(|p| p.max_error_rate = -0.1)),
        ("max_error_rate is NaN,", with(|p| p.max_error_rate = f64::NAN)),
        ("blind_for is 0s", with(|p| p.blind_for = Duration::ZERO)),
        ("blind_for is 11m", with(|p| p.blind_for = 11 * MINUTE)),
        ("max_removed_per_minute is 0", with(|p| p.max_removed_per_minute = Some(0))),
        ("max_requests_per_api_replica is 0,", with(|p| p.max_requests_per_api_replica = Some(0.0))),
        ("max_requests_per_api_replica is NaN,", with(|p| p.max_requests_per_api_replica = Some(f64::NAN))),
        ("connections_per_api_replica is -1,", with(|p| p.connections_per_api_replica = Some(-1.0))),
        (
            "connections_per_api_replica is inf,",
            with(|p| p.connections_per_api_replica = Some(f64::INFINITY)),
        ),
        ("max_error_rate is inf,", with(|p| p.max_error_rate = f64::INFINITY)),
    ];
    for (words, parameters) in cases {
        assert_says(refused(&parameters), &["playbook gradual-scale-down", words]);
    }
}

#[test]
fn all_wrong_parameters_are_named_at_once() {
    let all = with(|p| {
        p.fractions = vec![0.5, 0.7, 2.0];
        (p.api_minimum, p.worker_minimum, p.soak, p.blind_for) = (0, 0, SECOND, Duration::ZERO);
        (p.max_error_rate, p.max_removed_per_minute) = (2.0, Some(0));
        (p.max_requests_per_api_replica, p.connections_per_api_replica) = (Some(0.0), Some(0.0));
    });
    let names = [
        "fraction 0.7 comes after 0.5",
        "fraction 2 must lie",
        "api_minimum",
        "worker_minimum",
        "soak",
        "max_error_rate",
        "blind_for",
        "max_removed_per_minute",
        "max_requests_per_api_replica",
        "connections_per_api_replica",
    ];
    assert_says(refused(&all), &names);
}

#[test]
fn a_limit_needs_its_metric() {
    let simulated = Simulated::new(&quiet().build().unwrap());
    let metrics = ApiMetrics::new(simulated.metrics().source, "error_rate");
    let plain = Rewired { simulated, metrics };
    let build = |parameters: &GradualScaleDown| parameters.playbook(&plain).map(|_| ());
    build(&GradualScaleDown::default()).unwrap();
    let error = build(&with(|p| p.max_requests_per_api_replica = Some(100.0))).unwrap_err();
    assert_says(error, &["max_requests_per_api_replica needs a metric", "with_requests"]);
    let error = build(&with(|p| p.connections_per_api_replica = Some(100.0))).unwrap_err();
    assert_says(error, &["connections_per_api_replica needs a metric", "with_connections"]);
}

#[test]
fn a_rehearsal_may_soak_shortly_and_nothing_else() {
    let world = quiet().build().unwrap();
    let short = with(|p| (p.soak, p.rehearsal) = (SECOND, true));
    short.playbook(&Simulated::new(&world)).unwrap();
    assert_says(refused(&with(|p| (p.api_minimum, p.rehearsal) = (0, true))), &["api_minimum is 0"]);
}

#[test]
fn parameters_left_out_are_the_runbooks() {
    let default = GradualScaleDown::default();
    assert_eq!(default.fractions, [0.8, 0.6, 0.4, 0.3]);
    assert_eq!((default.api_minimum, default.worker_minimum), (5, 3));
    assert_eq!((default.soak, default.max_error_rate), (10 * MINUTE, 0.01));
    assert_eq!((SHORTEST_SOAK, default.blind_for, default.rehearsal), (10 * MINUTE, 5 * MINUTE, false));
    assert_eq!(default.max_removed_per_minute, None);
    assert_eq!((default.max_requests_per_api_replica, default.connections_per_api_replica), (None, None));

    let read: GradualScaleDown = serde_json::from_str(r#"{"fractions": [0.5], "soak": "15m"}"#).unwrap();
    assert_eq!(read, with(|p| (p.fractions, p.soak) = (vec![0.5], 15 * MINUTE)));
    let written = serde_json::to_string(&read).unwrap();
    assert_eq!(serde_json::from_str::<GradualScaleDown>(&written).unwrap(), read);
}
