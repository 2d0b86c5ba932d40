//! The page with charts.

use std::time::Duration;

use wakala_core::sim::Frame;
use wakala_playbooks::report::{Better, Chart, Comparison, Mark, Page};

use crate::args::{Args, Policy};
use crate::simulate::{OBJECTIVE, Outcome};

pub(crate) fn render(args: &Args, outcomes: &[Outcome]) -> String {
    let mut page = Page::new("Traffic spike").with_note(format!(
        "Load: {}, replayed against a simulated production (seed {}).",
        args.trace.source(),
        args.seed
    ));
    if outcomes.len() > 1 {
        page = page.with_comparison(comparison(outcomes));
    }
    // The charts of capacity are about one world: the playbook's where there is one.
    if let Some(shown) =
        outcomes.iter().find(|outcome| outcome.policy == Policy::Playbook).or(outcomes.last())
    {
        let title = format!("Load and capacity ({})", shown.policy.name());
        page = page
            .with_chart(
                Chart::new(title, "req/s")
                    .with_area("load", points(shown, |frame| Some(frame.load)))
                    .with_series("capacity", points(shown, |frame| Some(frame.capacity))),
            )
            .with_chart(
                Chart::new(format!("API replicas and nodes ({})", shown.policy.name()), "")
                    .with_levels("replicas wanted", points(shown, |frame| api(frame).map(|api| api.0)))
                    .with_levels("replicas ready", points(shown, |frame| api(frame).map(|api| api.1)))
                    .with_levels(
                        "nodes ready",
                        points(shown, |frame| {
                            frame.pool("workers-general").map(|pool| f64::from(pool.ready))
                        }),
                    ),
            );
    }
    let mut latency = Chart::new("Latency p95", "s")
        .with_limit("objective", OBJECTIVE.as_secs_f64())
        .with_ceiling(3.0 * OBJECTIVE.as_secs_f64());
    let mut errors = Chart::new("Failed requests", "%");
    for outcome in outcomes {
        latency =
            latency.with_series(outcome.policy.name(), points(outcome, |frame| frame.latency_p95_seconds));
        errors = errors.with_series(
            outcome.policy.name(),
            points(outcome, |frame| frame.error_rate.map(|rate| rate * 100.0)),
        );
    }
    page = page.with_chart(latency).with_chart(errors);
    if let Some(response) = outcomes.iter().find_map(|outcome| outcome.response.as_ref()) {
        page = page
            .with_run(&response.reverted)
            .with_plan(&response.plan)
            .with_marks_from(&response.reverted)
            .with_mark(Mark::failure(
                response.alarm,
                "alarm: the p95 latency was above the objective for a minute",
            ))
            .with_origin(response.plan.made_at() - response.alarm);
    }
    page.render()
}

fn comparison(outcomes: &[Outcome]) -> Comparison {
    let column = |value: fn(&Outcome) -> f64| outcomes.iter().map(value);
    Comparison::new(outcomes.iter().map(|outcome| outcome.policy.name()))
        .with_row("Over the latency objective", "min", Better::Lower, column(|o| o.summary.minutes_over_objective))
        .with_row("Worst p95 latency", "s", Better::Lower, column(|o| o.summary.worst_p95_seconds))
        .with_row("Failed requests", "", Better::Lower, column(|o| o.summary.failed))
        .with_row("Refused by the rate limit", "", Better::Lower, column(|o| o.summary.rejected))
        .with_row("API replica-hours", "h", Better::Lower, column(|o| {
            o.summary.replica_hours.get("wakala-api").copied().unwrap_or(f64::NAN)
        }))
        .with_row("Node-hours", "h", Better::Lower, column(|o| o.summary.node_hours))
        .with_note("none: nobody does anything. hpa: the autoscaler alone. playbook: the autoscaler and rapid-scale.")
}

fn api(frame: &Frame) -> Option<(f64, f64)> {
    frame.workload("wakala-api").map(|api| (f64::from(api.desired), f64::from(api.ready)))
}

fn points(outcome: &Outcome, value: impl Fn(&Frame) -> Option<f64>) -> Vec<(Duration, f64)> {
    let at = |frame: &Frame| Duration::from_secs(frame.second);
    outcome.frames.iter().map(|frame| (at(frame), value(frame).unwrap_or(f64::NAN))).collect()
}
