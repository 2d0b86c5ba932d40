//! How it was before: what later values are compared with.

use humantime::format_duration;

use super::bound::{Baseline, Bound, number};
use super::metric::MetricGuard;
use super::window::Aggregate;
use crate::{Error, ErrorKind, Result, RunContext, Sample};

impl MetricGuard {
    /// The baseline, as long as it can tell what is worse.
    pub(super) async fn baseline(&self, cx: &RunContext, rule: &Baseline) -> Result<f64> {
        let too_little = |text: String| Error::new(ErrorKind::NotFound, "calibrate", text).on(&self.id);
        let useless = |text: String| Error::invalid("calibrate", text).on(&self.id);
        let seen = self.see(cx, Some(rule.window)).await?;
        let now = cx.clock().now();
        if let Some(late) =
            seen.samples.last().and_then(|newest| self.view.quality.lateness(&self.query, newest, now))
        {
            return Err(too_little(late));
        }
        let mut flaws = Vec::new();
        let usable: Vec<&Sample> = seen
            .samples
            .iter()
            .filter(|sample| {
                let traffic = || self.traffic(false, sample.time, seen.until(sample.time).1).err();
                let flaw = self.view.quality.flaw(&self.query, sample).or_else(traffic);
                flaws.extend(flaw.clone());
                flaw.is_none()
            })
            .collect();
        let values: Vec<f64> = usable.iter().map(|sample| sample.value).collect();
        let (query, span, enough) = (&self.query, format_duration(rule.window), rule.min_samples);
        let aggregate = match self.view.window {
            None | Some((_, Aggregate::Latest)) => Aggregate::Mean,
            Some((_, aggregate)) => aggregate,
        };
        let baseline = match aggregate.of(&values) {
            Some(baseline) if values.len() >= enough => baseline,
            _ => {
                let flaw = flaws.last().map(|flaw| format!(" ({flaw})")).unwrap_or_default();
                return Err(too_little(format!(
                    "{} usable samples of {query} within the last {span}, {enough} are needed for a baseline{flaw}; wait, \
                     or take a fixed limit",
                    values.len()
                )));
            }
        };
        let shown = number(baseline);
        if baseline < 0.0 {
            return Err(useless(format!(
                "the baseline of {query} is {shown}, and a multiple of less than nothing is no limit; take a fixed one"
            )));
        }
        let limit = self.bound.limit(rule, baseline);
        if limit <= 0.0 {
            let advice = match self.bound {
                Bound::Below => "give a slack",
                Bound::Above => "give less slack or take a fixed limit",
            };
            let shown_limit = number(limit);
            return Err(useless(format!(
                "the baseline of {query} is {shown}, so that the limit would be {shown_limit}, which is of no use; {advice}"
            )));
        }
        // Where the guard asks for better than before, before breaks it.
        let tolerant = match self.bound {
            Bound::Below => rule.factor >= 1.0,
            Bound::Above => rule.factor <= 1.0,
        };
        let trial = self.trial(&usable);
        let broken = trial.iter().filter(|value| !self.bound.holds(**value, limit)).count();
        if tolerant && broken * 10 > trial.len() {
            let worst = trial.iter().map(|value| self.bound.excess(*value, limit)).fold(0.0, f64::max);
            let slack = number(rule.slack + worst);
            return Err(useless(format!(
                "{broken} of {} values of {query} before the run are themselves not {} {factor} times their baseline of \
                 {shown}, so that noise would fail it; give a slack of more than {slack}, or a larger window",
                trial.len(),
                self.bound,
                factor = rule.factor,
            )));
        }
        Ok(baseline)
    }

    /// The values that would have been judged during the baseline.
    fn trial(&self, usable: &[&Sample]) -> Vec<f64> {
        let Some((window, aggregate)) = self.view.window else {
            return usable.iter().map(|sample| sample.value).collect();
        };
        let judged = usable.iter().enumerate().filter_map(|(index, sample)| {
            let begin = sample.time.checked_sub(window)?;
            let values: Vec<f64> = usable[..=index]
                .iter()
                .filter(|earlier| earlier.time >= begin)
                .map(|earlier| earlier.value)
                .collect();
            if values.len() < self.view.needed() { None } else { aggregate.of(&values) }
        });
        judged.collect()
    }
}
