//! ResourceQuotas of a namespace against the pods to come.

use k8s_openapi::api::core::v1::ResourceQuota;

use super::amount::{Amount, Dimension, millis};
use wakala_core::Finding;

/// What the quotas have no room for.
pub(crate) fn lacks(quotas: &[ResourceQuota], asked: &Amount, limit: &Amount) -> Vec<Finding> {
    let mut findings = Vec::new();
    for quota in quotas {
        let name = quota.metadata.name.as_deref().unwrap_or_default();
        let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
        let title = format!("ResourceQuota {namespace}/{name}");
        let spec = quota.spec.as_ref();
        let scoped = spec.is_some_and(|spec| spec.scopes.is_some() || spec.scope_selector.is_some());
        if scoped {
            findings.push(Finding::warning(format!(
                "{title} is for some pods only (scopes); whether the new ones are among them is not judged"
            )));
            continue;
        }
        let status = quota.status.clone().unwrap_or_default();
        let hard = spec.and_then(|spec| spec.hard.as_ref()).or(status.hard.as_ref());
        for (key, most) in hard.into_iter().flatten() {
            let (dimension, needed) = match key.as_str() {
                "pods" | "count/pods" => (Dimension::Pods, asked.pods),
                "cpu" | "requests.cpu" => (Dimension::Cpu, asked.cpu_millis),
                "memory" | "requests.memory" => (Dimension::Memory, asked.memory_bytes),
                "limits.cpu" => (Dimension::Cpu, limit.cpu_millis),
                "limits.memory" => (Dimension::Memory, limit.memory_bytes),
                _ => continue,
            };
            let number = |text: &str| {
                let millis = millis(text).unwrap_or(0);
                if dimension == Dimension::Cpu { millis } else { millis.div_ceil(1000) }
            };
            let most = number(&most.0);
            let used = status.used.as_ref().and_then(|used| used.get(key)).map_or(0, |used| number(&used.0));
            let left = most.saturating_sub(used);
            if needed > left {
                findings.push(Finding::refusal(format!(
                    "{title} allows {key} of {}; {} is left and {} needed; raise the quota or choose a smaller size",
                    dimension.show(most),
                    dimension.show(left),
                    dimension.show(needed),
                )));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wakala_core::FindingLevel;

    use super::*;

    fn quota(spec: Value, used: Value) -> ResourceQuota {
        let hard = spec["hard"].clone();
        serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "small"},
            "spec": spec,
            "status": {"hard": hard, "used": used},
        }))
        .unwrap()
    }

    #[test]
    fn what_is_left_must_do() {
        let asked = Amount { cpu_millis: 2000, memory_bytes: 2 << 30, pods: 8 };
        let limit = Amount::default();
        let hard =
            json!({"hard": {"pods": "10", "requests.cpu": "4", "requests.memory": "8Gi", "secrets": "1"}});
        let roomy = quota(hard.clone(), json!({"pods": "2", "requests.cpu": "2", "requests.memory": "6Gi"}));
        assert_eq!(lacks(&[roomy], &asked, &limit), []);
        let tight = quota(hard, json!({"pods": "3", "requests.cpu": "2500m", "requests.memory": "6Gi"}));
        let texts: Vec<_> = lacks(&[tight], &asked, &limit).into_iter().map(|finding| finding.text).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(
            texts[0].contains("allows pods of 10 pod slots; 7 pod slots is left and 8 pod slots needed"),
            "{texts:?}"
        );
        assert!(texts[1].contains("1.5 CPU is left and 2 CPU needed"), "{texts:?}");
    }

    #[test]
    fn scopes_are_not_judged() {
        let scoped = quota(json!({"hard": {"pods": "0"}, "scopes": ["BestEffort"]}), json!({}));
        let asked = Amount { pods: 1, ..Amount::default() };
        let findings = lacks(&[scoped], &asked, &Amount::default());
        assert_eq!(findings[0].level, FindingLevel::Warning);
    }
}
