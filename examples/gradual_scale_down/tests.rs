//! That the example shows what it says: repeatable, and with each fault its own end.

use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use wakala_core::{ErrorKind, Status};
use wakala_playbooks::gradual_scale_down::GradualScaleDown;

use crate::args::Args;
use crate::simulate::{self, Descent};
use crate::timeline::Line;

fn args(line: &str) -> Args {
    Args::parse_from(std::iter::once("gradual_scale_down").chain(line.split_whitespace()))
}

async fn descent(line: &str) -> Descent {
    simulate::run(&args(line)).await.unwrap()
}

/// The sizes of the API, and the worst error rate.
fn seen(descent: &Descent) -> (Vec<u32>, f64) {
    let lines = descent.timeline.0.iter().filter_map(|line| match line {
        Line::Sizes(sizes) => Some((sizes.api, sizes.error_rate)),
        Line::Event { .. } => None,
    });
    let (mut sizes, errors): (Vec<_>, Vec<_>) = lines.unzip();
    sizes.dedup();
    (sizes, errors.into_iter().fold(0.0, f64::max))
}

#[tokio::test]
async fn a_healthy_descent_is_shown_from_size_to_size() {
    for line in ["", "--autoscaler"] {
        let descent = descent(line).await;
        assert_eq!(descent.run.status, Status::Succeeded, "{}", descent.run);
        assert_eq!(seen(&descent), (vec![50, 40, 30, 20, 15], 0.0), "{}", descent.timeline);
        let text = descent.to_string();
        for words in ["0.8 of 50", "soak-0.3: passed", "SUCCEEDED", "#########################"] {
            assert!(text.contains(words), "{words:?} is missing from: {text}");
        }
        assert_eq!(text.contains("  min  "), line == "--autoscaler", "{text}");
    }
}

#[tokio::test]
async fn each_fault_ends_at_the_last_healthy_size() {
    for (fault, words, has_errors) in [
        ("error-rate-at=0.6", "error-rate: FAIL", true),
        ("metrics-gone-at=0.6", "without verdict for 5m", false),
    ] {
        let descent = descent(&format!("--fault {fault}")).await;
        assert_eq!(descent.run.status, Status::Compensated, "{}", descent.run);
        let (sizes, errors) = seen(&descent);
        assert_eq!((sizes.iter().min(), sizes.last()), (Some(&30), Some(&40)), "{}", descent.timeline);
        assert_eq!(errors > 0.01, has_errors, "{}", descent.timeline);
        let text = descent.to_string();
        for words in [words, "stopped there", "api-0.6: taken back", &format!("Injected: {fault}")] {
            assert!(text.contains(words), "{words:?} is missing from: {text}");
        }
    }
    let early = descent("--fault error-rate-at=0.8 --fault metrics-gone-at=0.4").await;
    assert_eq!(seen(&early).0.last(), Some(&50), "{}", early.timeline);
}

#[tokio::test]
async fn a_seed_gives_the_same_bytes_each_time_and_another_seed_others() {
    let json = async |line| serde_json::to_string(&descent(line).await).unwrap();
    let once = json("--seed 7 --fault error-rate-at=0.4").await;
    assert_eq!(once, json("--seed 7 --fault error-rate-at=0.4").await);
    let other = json("--seed 8 --fault error-rate-at=0.4").await;
    assert_ne!(once.replace(r#""seed":7"#, ""), other.replace(r#""seed":8"#, ""));
}

#[test]
fn the_command_line_says_what_the_playbook_says() {
    Args::command().debug_assert();
    assert_eq!(args("").parameters.playbook(), GradualScaleDown::default());
    let given = args(
        "--fractions 0.9,0.5 --api-minimum 10 --worker-minimum 4 --soak 20m --max-error-rate 0.05 --blind-for 2m \
         --max-removed-per-minute 30 --max-requests-per-api-replica 80 --rehearsal",
    );
    let mut expected = GradualScaleDown::default();
    expected.fractions = vec![0.9, 0.5];
    (expected.api_minimum, expected.worker_minimum, expected.max_error_rate) = (10, 4, 0.05);
    (expected.soak, expected.blind_for) = (Duration::from_secs(1200), Duration::from_secs(120));
    (expected.max_removed_per_minute, expected.max_requests_per_api_replica) = (Some(30), Some(80.0));
    expected.rehearsal = true;
    assert_eq!(given.parameters.playbook(), expected);
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    for line in [
        "--fault error-rate",
        "--fault error-rate-at=much",
        "--fault pods-gone-at=0.6",
        "--fractions x",
        "--seed -1",
        "--testbed",
        "--live --testbed --kubeconfig x",
        "--live --autoscaler",
    ] {
        let line = std::iter::once("gradual_scale_down").chain(line.split_whitespace());
        Args::try_parse_from(line.clone()).expect_err(&line.collect::<Vec<_>>().join(" "));
    }
}

#[tokio::test]
async fn parameters_that_cannot_work_end_the_example_with_their_names() {
    for (line, words) in [
        ("--soak 1m", "soak is 1m"),
        ("--fractions 0.5,0.8", "fraction 0.8 comes after 0.5"),
        ("--max-removed-per-minute 5", "10 fewer at once"),
        ("--fault error-rate-at=0.7", "the fractions are 0.8, 0.6, 0.4, 0.3"),
    ] {
        let error = simulate::run(&args(line)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.chain().contains(words), "{words:?} is missing from: {error}");
    }
}

#[cfg(not(feature = "live"))]
#[tokio::test]
async fn without_real_providers_it_says_how_to_get_them() {
    let error = crate::live(&args("--live")).await.unwrap_err().to_string();
    assert!(error.contains("--features live"), "{error}");
}
