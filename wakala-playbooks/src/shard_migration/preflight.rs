//! Whether the move can be done, and what the person who approves it should know.

use std::sync::Arc;

use async_trait::async_trait;
use wakala_core::{Finding, Preflight, Result, RunContext, StepPlan};
use wakala_db::TenantPlace;

use super::preview::Previews;
use super::texts;
use super::throttle::Throttle;

#[derive(Debug)]
pub(super) struct Checks {
    previews: Arc<Previews>,
    throttle: Throttle,
    unguarded: bool,
}

impl Checks {
    pub(super) fn new(previews: Arc<Previews>, throttle: Throttle, unguarded: bool) -> Self {
        Self { previews, throttle, unguarded }
    }
}

#[async_trait]
impl Preflight for Checks {
    async fn check(&self, cx: &RunContext, _: &[StepPlan]) -> Result<Vec<Finding>> {
        let spec = self.previews.spec();
        let facts = self.previews.host().facts().await?;
        if facts.begun {
            return Ok(vec![Finding::refusal(format!(
                "move {} has begun already; go on with its run or revert that, or give this move another name",
                spec.id
            ))]);
        }
        let mut findings = Vec::new();
        for tenant in &facts.tenants {
            if tenant.place != TenantPlace::Source || tenant.directory != Some(spec.source) {
                let known =
                    tenant.directory.map_or("nowhere".to_owned(), |shard| format!("on shard {shard}"));
                findings.push(Finding::refusal(format!(
                    "tenant {} is not on shard {}: the directory has it {known}; leave it out, or move it from there",
                    tenant.tenant, spec.source
                )));
            }
        }
        let preview = self.previews.get(cx).await?;
        findings.extend(preview.refusals.iter().map(Finding::refusal));
        findings.extend(preview.warnings.iter().map(Finding::warning));
        let of_table = |table: &wakala_db::TableSize| {
            format!("{} {} rows, {}", table.table, table.rows, texts::bytes(table.bytes))
        };
        findings.push(Finding::ok(format!(
            "{} rows, about {}, take about {} at {}/s ({})",
            preview.rows(),
            texts::bytes(preview.bytes()),
            humantime::format_duration(self.previews.copying(&preview)),
            texts::bytes(self.previews.rate()),
            preview.tables.iter().map(of_table).collect::<Vec<_>>().join("; ")
        )));
        if !preview.tenants.is_sorted_by_key(|tenant| tenant.bytes) {
            let mut order: Vec<_> = preview.tenants.iter().collect();
            order.sort_by_key(|tenant| tenant.bytes);
            let order: Vec<_> = order.into_iter().map(|tenant| tenant.tenant.to_string()).collect();
            findings.push(Finding::warning(format!(
                "tenants are not handed over from small to large, which would be {}",
                order.join(", ")
            )));
        }
        if self.unguarded {
            findings.push(Finding::warning(
                "no guard watches the servers: tenants are handed over whatever happens",
            ));
        }
        for guard in self.throttle.guards() {
            let verdict = guard.evaluate(cx).await;
            let text =
                format!("the copy is held back by {} ({}); now {verdict}", guard.id(), guard.condition());
            findings.push(if verdict.is_pass() { Finding::ok(text) } else { Finding::warning(text) });
        }
        Ok(findings)
    }
}
