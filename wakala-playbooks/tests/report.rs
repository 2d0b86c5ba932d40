//! The page of real runs of the engine, read back as a document.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use roxmltree::{Document, Node};
use serde_json::json;
use wakala_core::{
    Applied, Approval, Engine, Error, ErrorKind, Guard, GuardId, ManualClock, Observed, Plan, Playbook,
    PlaybookStep, Reversibility, RunContext, RunHandle, RunReport, Soak, Status, StepId, StepPlan, Undone,
    Verdict, step, together,
};
use wakala_playbooks::report::{Better, Chart, Comparison, Mark, Page};

const HOSTILE: &str = "<script>alert('x')</script> & \"quoted\" </style></title></pre>";

/// Takes its time; fails where told so.
#[derive(Debug)]
struct Act {
    id: String,
    summary: String,
    takes: Duration,
    failure: Option<String>,
    done_at: std::sync::Mutex<Option<Duration>>,
}

impl Act {
    fn new(id: &str, summary: &str, takes: u64) -> Self {
        Self {
            id: id.to_owned(),
            summary: summary.to_owned(),
            takes: Duration::from_secs(takes),
            failure: None,
            done_at: std::sync::Mutex::default(),
        }
    }

    fn failing(mut self, message: &str) -> Self {
        self.failure = Some(message.to_owned());
        self
    }
}

#[async_trait]
impl PlaybookStep for Act {
    fn id(&self) -> StepId {
        self.id.clone().into()
    }

    async fn plan(&self, _: &RunContext) -> wakala_core::Result<StepPlan> {
        let mut plan = StepPlan::new(
            self.id(),
            self.summary.clone(),
            json!({ "replicas": 5 }),
            json!({ "replicas": 50 }),
        );
        plan.resources = vec![format!("test/{}", self.id).into()];
        plan.reversibility = Reversibility::Compensatable("slowly".into());
        plan.expected = self.takes;
        plan.warnings = vec![format!("mind {}", self.summary)];
        Ok(plan)
    }

    async fn apply(&self, cx: &RunContext, _: &StepPlan) -> wakala_core::Result<Applied> {
        if let Some(failure) = &self.failure {
            return Err(Error::new(ErrorKind::Denied, "apply", failure.clone()).on(&self.id));
        }
        *self.done_at.lock().unwrap() = Some(cx.clock().monotonic() + self.takes);
        Ok(Applied::Changed)
    }

    async fn observe(&self, cx: &RunContext, _: &StepPlan) -> wakala_core::Result<Observed> {
        Ok(match *self.done_at.lock().unwrap() {
            None => Observed::AtPrior,
            Some(at) if at <= cx.clock().monotonic() => Observed::AtTarget,
            Some(_) => Observed::InProgress("pods start".into()),
        })
    }

    async fn undo(&self, _: &RunContext, _: &StepPlan) -> wakala_core::Result<Undone> {
        Ok(Undone::Restored)
    }
}

#[derive(Debug)]
struct Says(Verdict);

#[async_trait]
impl Guard for Says {
    fn id(&self) -> GuardId {
        "error-rate".into()
    }

    fn condition(&self) -> String {
        format!("error_rate below 0.01 {}", self.0)
    }

    async fn evaluate(&self, _: &RunContext) -> Verdict {
        self.0.clone()
    }
}

async fn run(playbook: &Playbook, by: &str) -> (Plan, RunReport) {
    let clock = ManualClock::default();
    let engine = Engine::new().with_clock(Arc::new(clock.clone()));
    let handle = RunHandle::new("run-1");
    clock
        .run(async {
            let plan = engine.plan(playbook).await.unwrap();
            let report = engine.run(playbook, &plan, &Approval::of(&plan, by), &handle).await.unwrap();
            (plan, report)
        })
        .await
}

fn spike() -> Playbook {
    Playbook::builder("rapid-scale")
        .then(together([
            step(Act::new("nodes", "scale node group app to 30", 150)).into(),
            step(Act::new("api", "scale deployment production/wakala-api", 90)).into(),
            step(Act::new("limits", "set rate limits", 40)).temporary(Duration::from_secs(7200)).into(),
        ]))
        .then(Soak::new("soak", Duration::from_secs(600)).with_guard(Says(Verdict::Pass("0.001".into()))))
        .build()
        .unwrap()
}

fn page(plan: &Plan, report: &RunReport) -> Page {
    let points = |f: fn(f64) -> f64| {
        (0..3600u32).map(move |n| (Duration::from_secs(n.into()), f(f64::from(n)))).collect::<Vec<_>>()
    };
    Page::new("Flash sale")
        .with_run(report)
        .with_plan(plan)
        .with_comparison(
            Comparison::new(["none", "playbook"])
                .with_row("Over the objective", "min", Better::Lower, [41.0, 6.0])
                .with_row("Load", "req", Better::Neither, [1e6, 1e6]),
        )
        .with_chart(
            Chart::new("Latency p95", "s")
                .with_series("playbook", points(|s| if s < 600.0 { 2.0 } else { 0.2 }))
                .with_limit("objective", 1.0),
        )
        .with_chart(
            Chart::new("Replicas", "")
                .with_levels("desired", [(Duration::ZERO, 5.0), (Duration::from_secs(60), 50.0)])
                .with_area("ready", points(|s| (5.0 + s / 10.0).min(50.0))),
        )
        .with_span("burst", Duration::from_secs(30), Duration::from_secs(900))
        .with_mark(Mark::note(Duration::from_secs(3000), "load is back"))
        .with_marks_from(report)
}

/// The page as a document: HTML without closing tags for `meta` is all that keeps it from being XML.
fn xml(html: &str) -> String {
    let html = html.strip_prefix("<!DOCTYPE html>").unwrap();
    html.split_inclusive('>')
        .map(|part| {
            part.strip_suffix('>')
                .filter(|part| part.contains("<meta"))
                .map_or(part.to_owned(), |part| format!("{part}/>"))
        })
        .collect()
}

fn texts(node: Node<'_, '_>) -> String {
    let texts = node.descendants().filter(Node::is_text).filter_map(|text| text.text());
    texts.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

fn section(document: &Document<'_>, id: &str) -> String {
    let found = document.descendants().find(|node| node.attribute("id") == Some(id));
    texts(found.unwrap_or_else(|| panic!("no section {id}")))
}

#[tokio::test]
async fn a_run_is_shown_with_all_its_parts() {
    let (plan, report) = run(&spike(), "lead").await;
    assert_eq!(report.status, Status::Succeeded);
    let html = page(&plan, &report).render();
    let xml = xml(&html);
    let document = Document::parse(&xml).unwrap();
    let all = texts(document.root_element());
    for fact in ["SUCCEEDED", "run-1", "Approved by lead", "2026-01-01 00:00:00 UTC", "12 min 30 s"] {
        assert!(all.contains(fact), "{fact} is not in: {all}");
    }
    let steps = section(&document, "steps");
    for id in ["nodes", "api", "limits"] {
        assert!(steps.contains(id), "{steps}");
    }
    assert!(steps.contains("done 2 min 30 s"), "{steps}");
    let left = section(&document, "left");
    assert!(left.contains("replicas 5 \u{2192} 50 revert (undo: slowly)"), "{left}");
    let owed = section(&document, "owed");
    assert!(owed.contains("limits") && owed.contains("2026-01-01 02:00:00 UTC"), "{owed}");
    assert!(!owed.contains("nodes"), "{owed}");
    let shown = section(&document, "plan");
    assert!(shown.contains(&plan.hash()) && shown.contains("watch until 10m are covered"), "{shown}");
    let timeline = section(&document, "timeline");
    assert!(timeline.contains("2:30 00:02:30 nodes: done"), "{timeline}");
    let rows = document.descendants().filter(|node| node.has_tag_name("tr"));
    let in_timeline =
        |row: &Node<'_, '_>| row.ancestors().any(|node| node.attribute("id") == Some("timeline"));
    assert_eq!(rows.filter(in_timeline).count(), 1 + report.journal.len(), "{timeline}");
    let charts = section(&document, "charts");
    for fact in [
        "Latency p95",
        "max 2 s",
        "objective",
        "burst 0:30\u{2013}15:00",
        "soak 2:30\u{2013}12:30",
        // Added first, and numbered by its time.
        "11 50:00 load is back",
    ] {
        assert!(charts.contains(fact), "{fact} is not in: {charts}");
    }
}

#[tokio::test]
async fn it_is_the_same_every_time_loads_nothing_and_is_small() {
    let (plan, report) = run(&spike(), "lead").await;
    let html = page(&plan, &report).render();
    assert_eq!(html, page(&plan, &report).render());
    let xml = xml(&html);
    let document = Document::parse(&xml).unwrap();
    for node in document.descendants() {
        assert!(!["script", "link", "img", "iframe", "image", "use"].contains(&node.tag_name().name()));
        for attribute in node.attributes() {
            let local = !attribute.value().contains("//") && !attribute.name().starts_with("on");
            assert!(local, "{attribute:?}");
            assert!(attribute.name() != "href" || attribute.value().starts_with('#'), "{attribute:?}");
        }
    }
    assert!(html.contains("content=\"default-src 'none'; style-src 'unsafe-inline'\""));
    let style = document.descendants().find(|node| node.has_tag_name("style")).unwrap();
    assert!(!texts(style).contains("url("));
    assert!(html.len() < 200_000, "{} bytes for 7200 points", html.len());
}

#[tokio::test]
async fn no_text_is_taken_for_markup() {
    let playbook = Playbook::builder("hostile")
        .with_description(HOSTILE)
        .then(together([
            step(Act::new(&format!("a {HOSTILE}"), HOSTILE, 1)).temporary(Duration::from_secs(60)).into(),
            step(Act::new("b", HOSTILE, 1).failing(HOSTILE)).best_effort().into(),
        ]))
        .then(
            Soak::new("soak", Duration::from_secs(60))
                .with_grace(Duration::ZERO)
                .with_guard(Says(Verdict::Fail(HOSTILE.into()))),
        )
        .build()
        .unwrap();
    let (plan, report) = run(&playbook, HOSTILE).await;
    assert_eq!(report.status, Status::Held);
    let value = [(Duration::from_secs(1), 1.0)];
    let html = Page::new(HOSTILE)
        .with_note(HOSTILE)
        .with_run(&report)
        .with_plan(&plan)
        .with_marks_from(&report)
        .with_mark(Mark::failure(Duration::from_secs(2), HOSTILE))
        .with_span(HOSTILE, Duration::ZERO, Duration::from_secs(300))
        .with_comparison(
            Comparison::new([HOSTILE, "b"])
                .with_row(HOSTILE, HOSTILE, Better::Lower, [1.0, 2.0])
                .with_note(HOSTILE),
        )
        .with_chart(Chart::new(HOSTILE, HOSTILE).with_series(HOSTILE, value).with_limit(HOSTILE, 2.0))
        .with_chart(Chart::new("short unit", "<&").with_area("a", value))
        .render();
    assert!(!html.contains("<script"));
    let xml = xml(&html);
    let document = Document::parse(&xml).unwrap();
    let (escaped, all) = (html.matches("&lt;script").count(), texts(document.root_element()));
    assert!(escaped > 25, "{escaped}");
    // Every one reads as it was given, also in attributes.
    let in_attributes: usize = document
        .descendants()
        .flat_map(|node| node.attributes())
        .map(|attribute| attribute.value().matches(HOSTILE).count())
        .sum();
    assert_eq!(all.matches(HOSTILE).count() + in_attributes, escaped);
    assert!(all.contains("HELD") && all.contains("1 step failed") && all.contains("1.0 <&"), "{all}");
}

#[test]
fn an_empty_page_and_empty_charts_are_pages() {
    let bare = Page::new("Nothing").render();
    Document::parse(&xml(&bare)).unwrap();
    assert!(!bare.contains("<svg") && !bare.contains("<table"));
    let html = Page::new("Empty charts")
        .with_chart(Chart::new("no series", ""))
        .with_chart(Chart::new("no points", "s").with_series("a", []).with_limit("odd", f64::NAN))
        .with_chart(Chart::new("one point", "s").with_levels("a", [(Duration::ZERO, 0.0)]))
        .with_chart(Chart::new("no numbers", "s").with_area("a", [(Duration::from_secs(9), f64::NAN)]))
        .render();
    Document::parse(&xml(&html)).unwrap();
    assert_eq!(html.matches("<svg").count(), 8);
    assert!(!html.contains("<polyline fill=\"none\" opacity=\"1\" stroke=\"#0B62D6\""));
}

#[test]
fn odd_numbers_do_no_harm() {
    let odd = [f64::MAX, f64::MIN, f64::from_bits(1), f64::INFINITY, f64::NAN, -0.0];
    for value in odd {
        let points = [(Duration::ZERO, value), (Duration::MAX, value), (Duration::from_secs(1), 1.0)];
        let chart =
            Chart::new("odd", "s").with_levels("a", points).with_area("b", points).with_limit("l", value);
        let html = Page::new("x")
            .with_chart(chart.clone())
            .with_chart(chart.with_ceiling(value))
            .with_comparison(Comparison::new(["a", "b"]).with_row("r", "", Better::Lower, [value, 1.0]))
            .with_span("whole", Duration::ZERO, Duration::MAX)
            .with_span("backwards", Duration::MAX, Duration::ZERO)
            .with_mark(Mark::note(Duration::MAX, "late"))
            .render();
        Document::parse(&xml(&html)).unwrap();
        assert!(!html.contains("backwards"));
    }
}

#[test]
fn a_ceiling_is_said_and_kept() {
    let chart =
        Chart::new("p95", "s").with_series("none", [(Duration::ZERO, 1.0), (Duration::from_secs(60), 90.0)]);
    let free = Page::new("x").with_chart(chart.clone()).render();
    let cut = Page::new("x").with_chart(chart.clone().with_ceiling(5.0)).render();
    assert!(free.contains("100\u{a0}s") && !free.contains("cut at"));
    assert!(cut.contains("cut at 5\u{a0}s") && cut.contains("max 90\u{a0}s") && !cut.contains("100\u{a0}s"));
    assert!(!Page::new("x").with_chart(chart.with_ceiling(500.0)).render().contains("cut at"));
}

#[tokio::test]
async fn times_count_from_the_origin() {
    let (_, report) = run(&spike(), "lead").await;
    let chart = Chart::new("load", "req/s")
        .with_series("load", [(Duration::ZERO, 1.0), (Duration::from_secs(3600), 2.0)]);
    let html = Page::new("x")
        .with_origin(report.started_at - Duration::from_secs(720))
        .with_run(&report)
        .with_chart(chart)
        .with_marks_from(&report)
        .render();
    let xml = xml(&html);
    let document = Document::parse(&xml).unwrap();
    let charts = section(&document, "charts");
    assert!(charts.contains("1 12:00 rapid-scale approved by lead"), "{charts}");
    assert!(charts.contains("12 min before the run began"), "{charts}");
    assert!(section(&document, "timeline").contains("14:30 00:02:30 nodes: done"));
}
