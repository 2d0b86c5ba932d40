//! Whether a plan fits into the world: pods onto nodes, connections into database and cache.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::api::Shared;
use super::nodes::{Resources, first_fit, rooms, why_not};
use super::state::State;
use super::targets::{pool_id, pool_key, workload_key};
use crate::{Finding, Preflight, ResourceKey, Result, RunContext, StepPlan};

/// Computes the capacity chain of a plan. From [`World::capacity`](super::World::capacity).
///
/// It takes the sizes that the plan's steps lead to, with the surge of those workloads that they restart, and follows
/// both ends: pods to nodes (with those that the plan adds, and the pool's maximum) and pods to connections of database
/// and cache. What does not fit is refused, with the numbers and what to do; what fits is one finding that names the
/// tightest link.
///
/// Steps are known by their resources: those of this world's targets, autoscalers and settings.
#[derive(Clone, Debug)]
pub struct CapacityChain {
    pub(super) world: Arc<Shared>,
}

/// What the plan makes of one workload.
#[derive(Clone, Copy, Debug)]
struct Aim {
    replicas: u32,
    /// Pods above that while it restarts.
    surge: u32,
    /// Whether a restart cannot go on without them.
    needs_surge: bool,
}

/// One link of the chain that holds.
struct Link {
    name: &'static str,
    used: f64,
    of: f64,
}

#[async_trait]
impl Preflight for CapacityChain {
    async fn check(&self, cx: &RunContext, steps: &[StepPlan]) -> Result<Vec<Finding>> {
        cx.check()?;
        let state = self.world.state();
        let aims: Vec<_> = (0..state.workloads.len()).map(|index| self.aim(&state, index, steps)).collect();
        let nodes: Vec<_> = state
            .pools
            .iter()
            .map(|pool| {
                let planned = planned(steps, &pool_key(&pool.config.name));
                planned.and_then(|target| number(target, "desired")).unwrap_or(pool.size.desired.0)
            })
            .collect();
        let mut findings = Vec::new();
        let mut links = Vec::new();
        check_nodes(&state, &aims, &nodes, &mut findings, &mut links);
        check_database(&state, &aims, &mut findings, &mut links);
        check_cache(&state, &aims, &mut findings, &mut links);
        links.sort_by(|a, b| (b.used / b.of).total_cmp(&(a.used / a.of)));
        if let Some(tightest) = links.first() {
            let all: Vec<_> = links.iter().map(Link::describe).collect();
            findings.push(Finding::ok(format!(
                "capacity chain: {}; the tightest link is {}",
                all.join(", "),
                tightest.name
            )));
        }
        Ok(findings)
    }
}

impl Link {
    fn describe(&self) -> String {
        format!("{} {} of {} ({:.0} %)", self.name, self.used, self.of, 100.0 * self.used / self.of)
    }
}

impl CapacityChain {
    fn aim(&self, state: &State, index: usize, steps: &[StepPlan]) -> Aim {
        let workload = &state.workloads[index];
        let find = |part| planned(steps, &workload_key(&self.world, &workload.config.name, part));
        let mut replicas =
            find("scale").and_then(|target| number(target, "size")).unwrap_or(workload.desired);
        let bounds = find("autoscaler")
            .and_then(|target| Some((number(target, "min")?, number(target, "max")?)))
            .or_else(|| {
                let hpa = &state.hpas[state.hpa_of(index)?];
                Some((hpa.bounds.min.0, hpa.bounds.max.0))
            });
        if let Some((min, max)) = bounds {
            replicas = replicas.min(max).max(min);
        }
        let restarts = find("template").is_some() || workload.outdated() > 0;
        let (surge, unavailable) = match (restarts, workload.config.stateful) {
            (false, _) | (true, true) => (0, 1),
            (true, false) => workload.config.rollout(replicas),
        };
        Aim { replicas, surge, needs_surge: unavailable == 0 }
    }
}

/// The target of the step that changes that resource, if one does.
fn planned<'a>(steps: &'a [StepPlan], key: &ResourceKey) -> Option<&'a Value> {
    let changes = |step: &&StepPlan| !step.is_no_change() && step.resources.contains(key);
    steps.iter().find(changes).map(|step| &step.target)
}

/// A size in a step's target: the number itself, or one of its fields.
fn number(target: &Value, field: &str) -> Option<u32> {
    let number = target.as_u64().or_else(|| target.get(field)?.as_u64())?;
    u32::try_from(number).ok()
}

/// Places all pods: those that are there, then the new ones, then the surge. Gives for each workload how many found no
/// node, and why.
fn place(state: &State, aims: &[Aim], nodes: &[u32], with_surge: bool) -> Vec<(usize, u32, String)> {
    let mut rooms = rooms(&state.pools, Some(nodes));
    let mut missing = vec![0; aims.len()];
    let rounds = aims.iter().zip(&state.workloads).map(|(aim, workload)| {
        let there = u32::try_from(workload.pods.len()).map_or(aim.replicas, |pods| pods.min(aim.replicas));
        [there, aim.replicas - there, if with_surge { aim.surge } else { 0 }]
    });
    let rounds: Vec<_> = rounds.collect();
    for round in 0..3 {
        for (index, pods) in rounds.iter().enumerate() {
            let (pod, pool) = (state.workloads[index].config.requests, state.pool_of(index));
            let left = (0..pods[round]).skip_while(|_| first_fit(&mut rooms, pod, pool).is_some()).count();
            missing[index] += u32::try_from(left).unwrap_or(u32::MAX);
        }
    }
    let left = missing.into_iter().enumerate().filter(|(_, missing)| *missing > 0);
    left.map(|(index, missing)| {
        let why = why_not(&rooms, state.workloads[index].config.requests, state.pool_of(index));
        (index, missing, why)
    })
    .collect()
}

fn check_nodes(
    state: &State,
    aims: &[Aim],
    nodes: &[u32],
    findings: &mut Vec<Finding>,
    links: &mut Vec<Link>,
) {
    if state.pools.is_empty() {
        return;
    }
    let left = place(state, aims, nodes, false);
    if let Some((_, _, why)) = left.first() {
        let pods = left.iter().map(|(index, missing, _)| {
            format!("{missing} of {} pods of {}", aims[*index].replicas, state.workloads[*index].id)
        });
        let pods = pods.collect::<Vec<_>>().join(", ");
        let remedy = remedy(state, aims, nodes);
        findings.push(Finding::refusal(format!("{pods} would fit on no node ({why}); {remedy}")));
        return;
    }
    for (index, missing, why) in place(state, aims, nodes, true) {
        let text = format!(
            "while {} restarts, {missing} of its {} surge pods fit on no node ({why})",
            state.workloads[index].id, aims[index].surge
        );
        findings.push(if aims[index].needs_surge {
            let way = remedy(state, aims, nodes);
            Finding::refusal(format!("{text}, and without them it cannot go on; {way}"))
        } else {
            Finding::warning(format!("{text}: it takes longer"))
        });
    }
    let sum = |of: fn(Resources) -> u32| {
        let pods = aims.iter().zip(&state.workloads);
        let used =
            pods.map(|(aim, workload)| u64::from(aim.replicas) * u64::from(of(workload.config.requests)));
        let pools = state.pools.iter().zip(nodes);
        let there = pools.map(|(pool, nodes)| u64::from(*nodes) * u64::from(of(pool.config.node)));
        (used.sum::<u64>() as f64, there.sum::<u64>() as f64)
    };
    let tightest = [
        ("node millicores", sum(|resources| resources.cpu_millis)),
        ("node MiB", sum(|resources| resources.memory_mib)),
        ("node pod slots", sum(|resources| resources.pods)),
    ]
    .into_iter()
    .filter(|(_, (_, of))| *of > 0.0)
    .max_by(|(_, a), (_, b)| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    if let Some((name, (used, of))) = tightest {
        links.push(Link { name, used, of });
    }
}

/// The smallest size of a pool with which all pods fit, surge included.
fn remedy(state: &State, aims: &[Aim], nodes: &[u32]) -> String {
    let mut tried = Vec::new();
    for (pool, config) in state.pools.iter().enumerate() {
        let (id, max) = (pool_id(&config.config.name), config.size.max.0);
        let fits = |size: &u32| {
            let mut sizes = nodes.to_vec();
            sizes[pool] = *size;
            place(state, aims, &sizes, true).is_empty()
        };
        if let Some(size) = (nodes[pool]..=max).find(fits) {
            let planned = nodes[pool];
            return format!(
                "resize {id} to at least {size} nodes (the plan has {planned}, its maximum is {max})"
            );
        }
        tried.push(format!("{id} at its maximum of {max}"));
    }
    format!("not even {} would do: raise a maximum or choose fewer replicas", tried.join(" or "))
}

/// What all workloads hold, as one sum that can be checked by hand.
fn budget(state: &State, aims: &[Aim], connections: impl Fn(usize) -> u32) -> (u64, String) {
    let mut total = 0;
    let mut terms = Vec::new();
    for (index, aim) in aims.iter().enumerate() {
        let each = connections(index);
        if each > 0 {
            total += u64::from(aim.replicas + aim.surge) * u64::from(each);
            let surge = if aim.surge > 0 { format!(" + {} surge", aim.surge) } else { String::new() };
            terms.push(format!(
                "({}{surge}) x {each} of {}",
                aim.replicas, state.workloads[index].config.name
            ));
        }
    }
    (total, terms.join(" + "))
}

fn check_budget(
    name: &'static str,
    (wanted, sum): (u64, String),
    limit: u64,
    remedy: &str,
    findings: &mut Vec<Finding>,
    links: &mut Vec<Link>,
) {
    if wanted == 0 {
        return;
    }
    if wanted > limit {
        let text = format!("{name}: {sum} = {wanted}, and {limit} are accepted; {remedy}");
        findings.push(Finding::refusal(text));
    } else {
        links.push(Link { name, used: wanted as f64, of: limit as f64 });
    }
}

fn check_database(state: &State, aims: &[Aim], findings: &mut Vec<Finding>, links: &mut Vec<Link>) {
    if let Some(database) = &state.database {
        let budget = budget(state, aims, |index| state.workloads[index].config.database_connections);
        let remedy = "choose fewer replicas, smaller pools per replica, or put a pooler in between";
        check_budget("database connections", budget, database.usable().into(), remedy, findings, links);
    }
}

fn check_cache(state: &State, aims: &[Aim], findings: &mut Vec<Finding>, links: &mut Vec<Link>) {
    if let Some(cache) = &state.cache {
        let servers = cache.workload.map_or(1, |index| aims[index].replicas);
        let limit = u64::from(servers) * u64::from(cache.config.max_clients);
        let budget = budget(state, aims, |index| state.workloads[index].config.cache_connections);
        let remedy = "choose fewer replicas, raise maxclients, or add cache servers";
        check_budget("cache connections", budget, limit, remedy, findings, links);
    }
}
